#include "pilotlight/native/loader.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>
#include <numeric>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "pilotlight/native/error.hpp"
#include "pilotlight/native/rehearsal.hpp"
#include "pilotlight/native/signals_blocked.hpp"

namespace pilotlight::native {
namespace {

constexpr std::size_t kMostReaders = 64;
constexpr std::size_t kMostBlockBytes = std::size_t{64} << 20;

// Enough that a link never waits for the next chunk.
constexpr std::size_t kCopiesInFlight = 4;

Descriptor make_eventfd() {
    Descriptor event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event) {
        throw MemoryRefused("eventfd", errno);
    }
    return event;
}

std::int64_t nanoseconds_since(Clock::time_point start) {
    return std::chrono::nanoseconds(Clock::now() - start).count();
}

// Adds the time between its making and its end to a counter.
class Stopwatch {
  public:
    explicit Stopwatch(std::atomic<std::int64_t>& nanoseconds) : nanoseconds_(nanoseconds) {}
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    ~Stopwatch() { nanoseconds_ += nanoseconds_since(start_); }

  private:
    std::atomic<std::int64_t>& nanoseconds_;
    const Clock::time_point start_ = Clock::now();
};

void check_settings(const DiskSettings& settings) {
    if (settings.n_readers == 0 || settings.n_readers > kMostReaders || settings.depth == 0 ||
        settings.depth > kMostReaders) {
        throw std::invalid_argument("a disk needs 1 to 64 readers with 1 to 64 blocks in flight");
    }
    if (settings.block_bytes == 0 || settings.block_bytes % kDirectAlignment != 0 ||
        settings.block_bytes > kMostBlockBytes) {
        throw std::invalid_argument("a block must be a multiple of 4096 bytes, at most 64 MiB");
    }
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Whether `n_rows` rows, `stride` apart, lie within `size` bytes.
bool fits(std::uint64_t start, const CopySpan& span, std::uint64_t stride, std::uint64_t size) {
    if (span.length > size || start > size - span.length) {
        return false;
    }
    const std::uint64_t room = size - span.length - start;
    return span.n_rows == 1 || (stride >= span.length && (span.n_rows - 1) <= room / stride);
}

void check_copies(const LoadPlan& plan, const ChunkPlan& chunk) {
    for (const ChunkCopies& copies : chunk.copies) {
        if (copies.memory >= plan.memories.size()) {
            throw std::invalid_argument("a copy of the plan has no memory to go to");
        }
        if (copies.spans.empty()) {
            throw std::invalid_argument("a copy of the plan copies nothing");
        }
        const std::size_t size = plan.memories[copies.memory].memory->size_bytes();
        for (const CopySpan& span : copies.spans) {
            if (span.length == 0 || span.n_rows == 0 ||
                !fits(span.from, span, span.from_stride, chunk.length) ||
                !fits(span.to, span, span.to_stride, size)) {
                throw std::invalid_argument("a copy of the plan leaves its chunk or its memory");
            }
        }
    }
}

}  // namespace

Loader::Reader::Reader(std::unique_ptr<BlockReader> how)
    : reader(std::move(how)), flights(reader->depth()), free_tags(reader->depth()) {
    std::iota(free_tags.begin(), free_tags.end(), std::uint64_t{0});
}

Loader::Loader(std::shared_ptr<ChunkPool> pool, const DiskSettings& settings)
    : owner_(::getpid()),
      pool_(std::move(pool)),
      default_settings_(settings),
      pinned_(std::make_unique<PinnedChunks>(pool_)),
      completion_(make_eventfd()) {
    check_settings(settings);
}

Loader::~Loader() {
    close();
    if (is_forked()) {
        leave_to_parent();
    }
}

void Loader::configure(std::uint64_t disk, const DiskSettings& settings) {
    check_settings(settings);
    if (is_forked()) {
        return;
    }
    const Lock lock(mutex_);
    settings_.insert_or_assign(disk, settings);
}

std::shared_ptr<Load> Loader::submit(LoadPlan plan) {
    check(plan);
    if (is_forked()) {
        throw LoaderClosed();
    }
    Lock lock(mutex_);
    if (is_closing_) {
        throw LoaderClosed();
    }
    for (const TargetMemory& target : plan.memories) {
        (void)link_to(target.device);
    }
    const std::vector<std::size_t> blocks = block_bytes(plan);
    WrittenChunks written = written_chunks(plan);
    const std::shared_ptr<Load> load(
        new Load(++last_id_, std::move(plan), std::move(written), blocks));
    std::erase_if(finished_, [](const std::weak_ptr<Load>& each) { return each.expired(); });
    finished_.reserve(finished_.size() + active_.size() + 1);
    active_.emplace(load->id(), load);
    try {
        begin_writing(load->written_);
    } catch (...) {
        active_.erase(load->id());
        throw;
    }
    activate(lock, load);
    return load;
}

void Loader::cancel(const std::shared_ptr<Load>& load) {
    if (is_forked()) {
        return;
    }
    Lock lock(mutex_);
    withdraw(*load, std::make_exception_ptr(LoadCancelled()));
    finish_if_over(lock, load);
}

void Loader::promote(const Load& load, std::int64_t priority) {
    if (is_forked()) {
        return;
    }
    const Lock lock(mutex_);
    for (const auto& [device, disk] : disks_) {
        disk->queue.promote(load.id_, priority);
    }
    for (const auto& [device, link] : links_) {
        link->queue.promote(load.id_, priority);
    }
}

std::vector<std::shared_ptr<Load>> Loader::finished() {
    std::vector<std::shared_ptr<Load>> held;
    if (is_forked()) {
        return held;
    }
    const Lock lock(mutex_);
    eventfd_t ignored = 0;
    (void)::eventfd_read(completion_.get(), &ignored);
    for (const std::weak_ptr<Load>& each : finished_) {
        if (std::shared_ptr<Load> load = each.lock()) {
            held.push_back(std::move(load));
        }
    }
    finished_.clear();  // Its room is kept for the loads that are active.
    return held;
}

void Loader::close() {
    if (is_forked()) {
        return;
    }
    // Whoever comes second waits for the end, too.
    const std::lock_guard closing(close_mutex_);
    std::vector<std::thread> readers;
    {
        Lock lock(mutex_);
        is_closing_ = true;
        const auto active = active_;
        for (const auto& [id, load] : active) {
            withdraw(*load, std::make_exception_ptr(LoadCancelled()));
            finish_if_over(lock, load);
        }
        for (const auto& [device, disk] : disks_) {
            disk->has_work.notify_all();
            std::ranges::move(disk->readers, std::back_inserter(readers));
            disk->readers.clear();
        }
    }
    for (std::thread& reader : readers) {
        reader.join();
    }
    // Their last jobs end here, and with them the last loads.
    std::vector<std::unique_ptr<Copier>> copiers;
    {
        const Lock lock(mutex_);
        for (const auto& [device, link] : links_) {
            copiers.push_back(std::move(link->copier));
        }
    }
}

bool Loader::is_forked() const noexcept {
    return ::getpid() != owner_;
}

// Threads that are not there can't be joined, nor can what they waited for be destroyed; and
// what a device holds is the parent's.
void Loader::leave_to_parent() noexcept {
    new decltype(disks_)(std::move(disks_));
    new decltype(links_)(std::move(links_));
    new decltype(active_)(std::move(active_));
    (void)pinned_.release();
}

void Loader::check(const LoadPlan& plan) const {
    std::set<std::uint64_t> disks;
    for (const ChunkPlan& chunk : plan.chunks) {
        const std::uint64_t room = pool_->chunk_bytes();
        const bool is_inside =
            chunk.file < plan.files.size() && chunk.length != 0 && chunk.length <= room &&
            chunk.offset % kDirectAlignment == 0 && chunk.target_offset % kDirectAlignment == 0 &&
            chunk.target_offset <= room - chunk.length &&
            round_up(chunk.length, kDirectAlignment) <= room - chunk.target_offset;
        if (!is_inside) {
            throw std::invalid_argument("a chunk of the plan does not fit its file or the pool");
        }
        if (chunk.target_offset != 0 && (!chunk.is_shared || !plan.staging.empty())) {
            throw std::invalid_argument("only chunks that are shared are filled from the middle");
        }
        if (chunk.is_resident && !plan.staging.empty()) {
            throw std::invalid_argument("what is resident does not pass through staging");
        }
        check_copies(plan, chunk);
        disks.insert(plan.files[chunk.file].identity.device);
    }
    if (!plan.staging.empty() && plan.staging.size() < disks.size()) {
        throw std::invalid_argument("every disk of the plan needs staging of its own");
    }
}

std::vector<std::size_t> Loader::block_bytes(const LoadPlan& plan) {
    for (const FilePlan& file : plan.files) {
        (void)disk_at(file.identity.device);
    }
    std::vector<std::size_t> bytes;
    for (const ChunkPlan& chunk : plan.chunks) {
        bytes.push_back(disk_of(plan, chunk).settings.block_bytes);
    }
    return bytes;
}

void Loader::begin_writing(const WrittenChunks& chunks) {
    pool_->begin_loading(chunks.whole);
    try {
        pool_->begin_sharing(chunks.shared);
    } catch (...) {
        pool_->end_loading(chunks.whole);
        throw;
    }
}

void Loader::end_writing(const WrittenChunks& chunks) noexcept {
    pool_->end_loading(chunks.whole);
    pool_->end_sharing(chunks.shared);
}

void Loader::activate(Lock& lock, const std::shared_ptr<Load>& load) {
    try {
        enqueue(*load);
        for (std::size_t i = 0; i < load->chunks_.size(); ++i) {
            // A copy that can't be begun ends the load, and with it the plan.
            if (load->failure_ || load->is_ending_) {
                break;
            }
            if (load->plan_.chunks[i].is_resident) {
                copy(lock, load, i);
            }
        }
    } catch (...) {
        // What is under way already ends as that of any other load that fails.
        withdraw(*load, std::current_exception());
    }
    finish_if_over(lock, load);  // With nothing to read or copy there is nothing to wait for.
}

void Loader::enqueue(Load& load) {
    std::map<std::uint64_t, LanePlan> lanes;
    for (std::size_t i = 0; i < load.plan_.chunks.size(); ++i) {
        const ChunkPlan& chunk = load.plan_.chunks[i];
        if (chunk.is_resident) {
            continue;
        }
        LanePlan& lane = lanes[load.plan_.files[chunk.file].identity.device];
        lane.load = load.id_;
        lane.priority = load.plan_.priority;
        lane.chunks.push_back({.index = i, .length = chunk.length});
    }
    auto lane = lanes.begin();
    for (const ChunkIndex chunk : load.plan_.staging) {
        if (lane == lanes.end()) {
            lane = lanes.begin();
        }
        if (lane != lanes.end()) {
            load.free_staging_[lane++->first].push_back(chunk);
        }
    }
    std::map<std::shared_ptr<Device>, std::uint64_t> copied_bytes;
    for (const ChunkPlan& chunk : load.plan_.chunks) {
        for (const ChunkCopies& copies : chunk.copies) {
            copied_bytes[load.plan_.memories[copies.memory].device] += size_bytes(copies);
        }
    }
    for (const auto& [device, bytes] : copied_bytes) {
        links_.at(device)->queue.add(load.id_, load.plan_.priority, bytes);
    }
    for (auto& [device, plan] : lanes) {
        if (!load.plan_.staging.empty()) {
            plan.n_granted = load.free_staging_[device].size();
        }
        Disk& disk = *disks_.at(device);
        disk.queue.add(std::move(plan));
        disk.has_work.notify_all();
    }
}

// A disk that could not have all its readers is slower, not wrong.
Loader::Disk& Loader::disk_at(std::uint64_t device) {
    auto found = disks_.find(device);
    if (found == disks_.end()) {
        const auto own = settings_.find(device);
        auto disk =
            std::make_unique<Disk>(own == settings_.end() ? default_settings_ : own->second);
        found = disks_.emplace(device, std::move(disk)).first;
    }
    Disk& disk = *found->second;
    std::size_t n_readers = disk.settings.n_readers;
    std::size_t depth = disk.settings.depth;
    const SignalsBlocked signals;
    try {
        while (disk.readers.size() < n_readers) {
            std::unique_ptr<BlockReader> reader = depth > 1 ? make_uring_reader(depth) : nullptr;
            if (!reader) {
                // Where the kernel forbids io_uring, threads keep as much in flight.
                n_readers = std::min(disk.settings.n_readers * disk.settings.depth, kMostReaders);
                depth = 1;
                reader = make_pread_reader();
            }
            auto state = std::make_unique<Reader>(std::move(reader));
            disk.readers.emplace_back(
                [this, &disk, state = std::move(state)] { run_reader(disk, *state); });
        }
    } catch (const std::system_error& error) {
        if (disk.readers.empty()) {
            throw MemoryRefused("pthread_create", error.code().value());
        }
    }
    return disk;
}

const Loader::Disk& Loader::disk_of(const LoadPlan& plan, const ChunkPlan& chunk) const {
    return *disks_.at(plan.files[chunk.file].identity.device);
}

Loader::Link& Loader::link_to(const std::shared_ptr<Device>& device) {
    const auto found = links_.find(device);
    if (found != links_.end()) {
        return *found->second;
    }
    const SignalsBlocked signals;
    auto link = std::make_unique<Link>();
    link->copier = std::make_unique<Copier>(device, kCopiesInFlight);
    return *links_.emplace(device, std::move(link)).first->second;
}

void Loader::run_reader(Disk& disk, Reader& reader) {
    rehearse_throwing();
    Lock lock(mutex_);
    for (;;) {
        if (takes_more(disk, reader)) {
            begin_next(lock, disk, reader);
        } else if (reader.n_in_flight() != 0) {
            await_one(lock, disk, reader);
        } else if (is_closing_) {
            return;
        } else {
            disk.has_work.wait(lock, [&] { return is_closing_ || disk.queue.has_block(); });
        }
    }
}

// No reader takes more than its share of what is left, so that the last checksums are computed side
// by side, too.
bool Loader::takes_more(const Disk& disk, const Reader& reader) {
    if (reader.free_tags.empty() || !disk.queue.has_block()) {
        return false;
    }
    const std::uint64_t block_bytes = disk.settings.block_bytes;
    const std::uint64_t n_left =
        disk.n_in_flight + round_up(disk.queue.bytes_left(), block_bytes) / block_bytes;
    return reader.n_in_flight() * disk.readers.size() < n_left;
}

void Loader::begin_next(Lock& lock, Disk& disk, Reader& reader) {
    const std::uint64_t tag = reader.free_tags.back();
    Flight& flight = reader.flights[tag] = begin(disk);
    ++disk.n_in_flight;
    reader.free_tags.pop_back();
    lock.unlock();
    if (const std::exception_ptr failure = prepare(flight)) {
        land(std::exchange(flight, {}),
             {.tag = tag, .is_from_page_cache = false, .failure = failure});
        lock.lock();
        reader.free_tags.push_back(tag);
        --disk.n_in_flight;
        return;
    }
    {
        const Stopwatch watch(flight.load->read_nanoseconds_);
        start(*reader.reader, flight, tag);
    }
    lock.lock();
}

void Loader::await_one(Lock& lock, Disk& disk, Reader& reader) {
    lock.unlock();
    const Clock::time_point waiting = Clock::now();
    const ReadAnswer answer = reader.reader->wait();
    Flight flight = std::exchange(reader.flights[answer.tag], {});
    flight.load->read_nanoseconds_ += nanoseconds_since(waiting);
    reader.free_tags.push_back(answer.tag);
    lock.lock();
    --disk.n_in_flight;
    // The disk has its next block before this one's checksum is computed.
    if (takes_more(disk, reader)) {
        begin_next(lock, disk, reader);
    }
    lock.unlock();
    land(std::move(flight), answer);
    lock.lock();
}

Loader::Flight Loader::begin(Disk& disk) {
    const Block block = disk.queue.take();
    if (const auto interrupted = disk.queue.take_interrupted()) {
        ++active_.at(*interrupted)->n_interruptions_;
    }
    const std::shared_ptr<Load>& load = active_.at(block.load);
    const ChunkPlan& chunk = load->plan_.chunks[block.chunk];
    Load::ChunkState& state = load->chunks_[block.chunk];
    if (!load->plan_.staging.empty() && block.offset == 0) {
        std::vector<ChunkIndex>& free =
            load->free_staging_[load->plan_.files[chunk.file].identity.device];
        state.target = free.back();
        free.pop_back();
    }
    ++load->n_in_flight_;
    load->start();
    const std::span<std::byte> room =
        pool_->bytes(state.target).subspan(chunk.target_offset + block.offset);
    return {.load = load,
            .block = block,
            .target = state.target,
            .room = room.first(round_up(block.length, kDirectAlignment))};
}

std::exception_ptr Loader::prepare(const Flight& flight) {
    Load& load = *flight.load;
    const Block& block = flight.block;
    const ChunkPlan& chunk = load.plan_.chunks[block.chunk];
    const Stopwatch watch(load.populate_nanoseconds_);
    try {
        pool_->populate(flight.target, chunk.target_offset + block.offset, block.length);
        (void)load.file(chunk.file);
    } catch (...) {
        return std::current_exception();
    }
    return nullptr;
}

void Loader::start(BlockReader& reader, const Flight& flight, std::uint64_t tag) {
    Load& load = *flight.load;
    const ChunkPlan& chunk = load.plan_.chunks[flight.block.chunk];
    reader.start({.file = &load.file(chunk.file),
                  .room = flight.room,
                  .offset = chunk.offset + flight.block.offset,
                  .length = flight.block.length,
                  .use_page_cache = load.plan_.use_page_cache,
                  .tag = tag});
}

void Loader::land(Flight flight, const ReadAnswer& answer) {
    Load& load = *flight.load;
    std::uint32_t sum = 0;
    if (!answer.failure) {
        const Stopwatch watch(load.checksum_nanoseconds_);
        sum = crc32c(flight.room.first(flight.block.length));
        load.done_bytes_ += flight.block.length;
        if (answer.is_from_page_cache) {
            load.page_cache_bytes_ += flight.block.length;
        }
    }
    Lock lock(mutex_);
    --load.n_in_flight_;
    if (answer.failure) {
        withdraw(load, answer.failure);
    } else {
        try {
            settle(lock, flight.load, flight.block, sum);
        } catch (...) {
            withdraw(load, std::current_exception());
        }
    }
    finish_if_over(lock, flight.load);
}

void Loader::settle(Lock& lock, const std::shared_ptr<Load>& load, const Block& block,
                    std::uint32_t crc32c) {
    Load::ChunkState& state = load->chunks_[block.chunk];
    state.block_crc32c[block.number] = crc32c;
    if (--state.n_blocks_left != 0 || load->failure_) {
        return;
    }
    const ChunkPlan& chunk = load->plan_.chunks[block.chunk];
    const std::uint32_t actual = chunk_crc32c(*load, block.chunk);
    if (chunk.expected_crc32c && *chunk.expected_crc32c != actual) {
        const std::string& path = load->plan_.files[chunk.file].path;
        withdraw(*load, std::make_exception_ptr(
                            ChecksumMismatch(path, chunk.number, *chunk.expected_crc32c, actual)));
        return;
    }
    load->chunk_crc32c_[block.chunk] = actual;
    copy(lock, load, block.chunk);
}

std::uint32_t Loader::chunk_crc32c(const Load& load, std::size_t index) const {
    const std::vector<std::uint32_t>& blocks = load.chunks_[index].block_crc32c;
    const ChunkPlan& chunk = load.plan_.chunks[index];
    const Disk& disk = disk_of(load.plan_, chunk);
    std::uint32_t joined = blocks.front();
    for (std::size_t i = 1; i + 1 < blocks.size(); ++i) {
        joined = disk.whole_block.append(joined, blocks[i]);
    }
    if (blocks.size() == 1) {
        return joined;
    }
    const std::uint64_t last_length =
        chunk.length - (blocks.size() - 1) * disk.settings.block_bytes;
    return Crc32cAppender(last_length).append(joined, blocks.back());
}

void Loader::copy(Lock& lock, const std::shared_ptr<Load>& load, std::size_t index) {
    const std::vector<ChunkCopies>& copies = load->plan_.chunks[index].copies;
    if (copies.empty()) {
        end_chunk(*load, index);
        return;
    }
    std::set<Link*> links;
    for (std::size_t i = 0; i < copies.size(); ++i) {
        Link& link = *links_.at(load->plan_.memories[copies[i].memory].device);
        link.queue.push(
            {.load = load->id(), .chunk = index, .copies = i, .length = size_bytes(copies[i])});
        links.insert(&link);
    }
    for (Link* link : links) {
        feed(lock, *link);
    }
}

// A copier is given no more than it has in flight, so that what waits can still be overtaken by
// what is more urgent, or cancelled.
void Loader::feed(Lock& lock, Link& link) {
    while (link.n_submitted < kCopiesInFlight && link.queue.has_copy()) {
        const ReadyCopy ready = link.queue.take();
        const std::shared_ptr<Load> load = active_.at(ready.load);
        try {
            begin_copy(link, load, ready);
        } catch (...) {
            withdraw(*load, std::current_exception());
            finish_if_over(lock, load);
        }
    }
}

void Loader::begin_copy(Link& link, const std::shared_ptr<Load>& load, const ReadyCopy& ready) {
    const ChunkPlan& chunk = load->plan_.chunks[ready.chunk];
    const ChunkCopies& copies = chunk.copies[ready.copies];
    const TargetMemory& target = load->plan_.memories[copies.memory];
    const ChunkIndex place = load->chunks_[ready.chunk].target;
    link.copier->submit(
        {.into = target.memory,
         .from = pool_->bytes(place).subspan(chunk.target_offset, chunk.length),
         .spans = copies.spans,
         .prepare =
             [this, load, device = target.device, place] {
                 if (!pinned_->pin(device, place)) {
                     load->is_unpinned_ = true;
                 }
             },
         .done = [this, load, ready](const CopyResult& result) { end_copy(load, ready, result); }});
    load->start();
    ++load->n_in_flight_;
    ++link.n_submitted;
}

void Loader::end_copy(const std::shared_ptr<Load>& load, const ReadyCopy& ready,
                      const CopyResult& result) {
    Lock lock(mutex_);
    const std::uint32_t memory = load->plan_.chunks[ready.chunk].copies[ready.copies].memory;
    Link& link = *links_.at(load->plan_.memories[memory].device);
    --link.n_submitted;
    --load->n_in_flight_;
    if (result.failure) {
        withdraw(*load, result.failure);
    } else {
        // Copies of one device end in order, and overlap only in its queue.
        Clock::time_point& last = load->last_copies_[memory];
        load->copy_time_ += result.ended - std::max(result.started, last);
        last = result.ended;
        load->copied_bytes_ += ready.length;
        if (--load->chunks_[ready.chunk].n_copies_left == 0) {
            end_chunk(*load, ready.chunk);
        }
    }
    feed(lock, link);
    finish_if_over(lock, load);
}

void Loader::end_chunk(Load& load, std::size_t index) {
    if (--load.n_chunks_left_ == 0) {
        load.last_done_ = Clock::now();
    }
    if (!load.plan_.staging.empty()) {
        const std::uint64_t device =
            load.plan_.files[load.plan_.chunks[index].file].identity.device;
        load.free_staging_[device].push_back(load.chunks_[index].target);
        Disk& disk = *disks_.at(device);
        disk.queue.grant(load.id_);
        disk.has_work.notify_all();
    }
}

void Loader::withdraw(Load& load, std::exception_ptr failure) {
    if (load.is_ending_ || load.failure_) {
        return;
    }
    load.failure_ = std::move(failure);
    for (const auto& [device, disk] : disks_) {
        disk->queue.remove(load.id_);
    }
    for (const auto& [device, link] : links_) {
        link->queue.remove(load.id_);
    }
}

// The load's last steps wait for the file system, so they are done without the lock; is_ending_
// keeps everybody else from it meanwhile.
void Loader::finish_if_over(Lock& lock, const std::shared_ptr<Load>& load) {
    const bool is_over = load->failure_ || load->n_chunks_left_ == 0;
    if (load->is_ending_ || !is_over || load->n_in_flight_ != 0) {
        return;
    }
    load->is_ending_ = true;
    std::exception_ptr failure = load->failure_;
    lock.unlock();
    LoadOutcome outcome;
    try {
        if (!failure) {
            load->check_files_unchanged();
        }
        outcome = load->summarise();
    } catch (...) {
        failure = std::current_exception();
    }
    // A load is held longer than it lasts: its memories are somebody else's from now on, and
    // closing its files may take as long as reading them.
    load->plan_.memories.clear();
    load->close_files();
    end_writing(load->written_);
    lock.lock();
    active_.erase(load->id());
    finished_.push_back(load);
    // Announced first: whoever was woken by the end itself finds it announced.
    (void)::eventfd_write(completion_.get(), 1);
    load->end(std::move(outcome), std::move(failure));
}

}  // namespace pilotlight::native
