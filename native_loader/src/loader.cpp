#include "pilotlight/native/loader.hpp"

#include <sys/eventfd.h>

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
#include "pilotlight/native/signals_blocked.hpp"

namespace pilotlight::native {
namespace {

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
    if (settings.n_readers == 0 || settings.depth == 0) {
        throw std::invalid_argument("a disk needs at least one reader");
    }
    if (settings.block_bytes == 0 || settings.block_bytes % kDirectAlignment != 0) {
        throw std::invalid_argument("a block must be a multiple of 4096 bytes");
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

// Either all chunks have places of their own, or all pass through staging.
struct Targets {
    std::vector<ChunkIndex> whole;
    std::vector<ChunkIndex> shared;
};

Targets targets(const LoadPlan& plan) {
    if (!plan.staging.empty()) {
        return {.whole = plan.staging, .shared = {}};
    }
    Targets found;
    for (const ChunkPlan& chunk : plan.chunks) {
        const bool is_shared = chunk.is_shared || chunk.is_resident;
        (is_shared ? found.shared : found.whole).push_back(chunk.target);
    }
    return found;
}

std::exception_ptr changed_files(const auto& check_files_unchanged) {
    try {
        check_files_unchanged();
    } catch (const Error&) {
        return std::current_exception();
    }
    return nullptr;
}

}  // namespace

Loader::Loader(std::shared_ptr<ChunkPool> pool, const DiskSettings& settings)
    : pool_(std::move(pool)),
      default_settings_(settings),
      pinned_(pool_),
      completion_(make_eventfd()) {
    check_settings(settings);
}

Loader::~Loader() {
    close();
}

void Loader::configure(std::uint64_t disk, const DiskSettings& settings) {
    check_settings(settings);
    const Lock lock(mutex_);
    settings_.insert_or_assign(disk, settings);
}

std::shared_ptr<Load> Loader::submit(LoadPlan plan) {
    check(plan);
    Lock lock(mutex_);
    if (is_closing_) {
        throw LoaderClosed();
    }
    for (const FilePlan& file : plan.files) {
        (void)disk_at(file.identity.device);
    }
    for (const TargetMemory& target : plan.memories) {
        (void)copier_of(target.device);
    }
    std::vector<std::size_t> block_bytes;
    for (const ChunkPlan& chunk : plan.chunks) {
        block_bytes.push_back(disk_of(plan, chunk).settings.block_bytes);
    }
    begin_writing(plan);
    const std::shared_ptr<Load> load(new Load(++last_id_, std::move(plan), block_bytes));
    active_.emplace(load->id(), load);
    enqueue(*load);
    for (std::size_t i = 0; i < load->chunks_.size(); ++i) {
        if (load->plan_.chunks[i].is_resident) {
            copy(load, i);
        }
    }
    finish_if_over(lock, load);  // With nothing to read or copy there is nothing to wait for.
    return load;
}

void Loader::cancel(const std::shared_ptr<Load>& load) {
    Lock lock(mutex_);
    withdraw(*load, std::make_exception_ptr(LoadCancelled()));
    finish_if_over(lock, load);
}

void Loader::promote(const Load& load, std::int64_t priority) {
    const Lock lock(mutex_);
    for (const auto& [device, disk] : disks_) {
        disk->queue.promote(load.id_, priority);
    }
}

std::vector<std::shared_ptr<Load>> Loader::finished() {
    const Lock lock(mutex_);
    eventfd_t ignored = 0;
    (void)::eventfd_read(completion_.get(), &ignored);
    return std::exchange(finished_, {});
}

void Loader::close() {
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
    decltype(copiers_) copiers;
    {
        const Lock lock(mutex_);
        copiers.swap(copiers_);
    }
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

void Loader::begin_writing(const LoadPlan& plan) {
    const Targets chunks = targets(plan);
    pool_->begin_loading(chunks.whole);
    try {
        pool_->begin_sharing(chunks.shared);
    } catch (...) {
        pool_->end_loading(chunks.whole);
        throw;
    }
}

void Loader::end_writing(const LoadPlan& plan) noexcept {
    const Targets chunks = targets(plan);
    pool_->end_loading(chunks.whole);
    pool_->end_sharing(chunks.shared);
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
    std::unique_ptr<Disk>& disk = disks_[device];
    if (!disk) {
        const auto own = settings_.find(device);
        disk = std::make_unique<Disk>(own == settings_.end() ? default_settings_ : own->second);
    }
    std::size_t n_readers = disk->settings.n_readers;
    std::size_t depth = disk->settings.depth;
    const SignalsBlocked signals;
    try {
        while (disk->readers.size() < n_readers) {
            std::unique_ptr<BlockReader> reader = depth > 1 ? make_uring_reader(depth) : nullptr;
            if (!reader) {
                // Where the kernel forbids io_uring, threads keep as much in flight.
                n_readers = disk->settings.n_readers * disk->settings.depth;
                depth = 1;
                reader = make_pread_reader();
            }
            disk->readers.emplace_back(
                [this, &disk = *disk, reader = std::move(reader)] { run_reader(disk, *reader); });
        }
    } catch (const std::system_error& error) {
        if (disk->readers.empty()) {
            throw MemoryRefused("pthread_create", error.code().value());
        }
    }
    return *disk;
}

const Loader::Disk& Loader::disk_of(const LoadPlan& plan, const ChunkPlan& chunk) const {
    return *disks_.at(plan.files[chunk.file].identity.device);
}

Copier& Loader::copier_of(const std::shared_ptr<Device>& device) {
    std::unique_ptr<Copier>& copier = copiers_[device];
    if (!copier) {
        const SignalsBlocked signals;
        copier = std::make_unique<Copier>(device, kCopiesInFlight);
    }
    return *copier;
}

void Loader::run_reader(Disk& disk, BlockReader& reader) {
    std::vector<Flight> flights(reader.depth());
    std::vector<std::uint64_t> free_tags(flights.size());
    std::iota(free_tags.begin(), free_tags.end(), std::uint64_t{0});
    Lock lock(mutex_);
    for (;;) {
        if (!free_tags.empty() && disk.queue.has_block()) {
            const std::uint64_t tag = free_tags.back();
            Flight& flight = flights[tag] = begin(disk);
            lock.unlock();
            if (const std::exception_ptr failure = prepare(flight)) {
                land(std::exchange(flight, {}),
                     {.tag = tag, .is_from_page_cache = false, .failure = failure});
            } else {
                const Stopwatch watch(flight.load->read_nanoseconds_);
                start(reader, flight, tag);
                free_tags.pop_back();
            }
            lock.lock();
        } else if (free_tags.size() != flights.size()) {
            lock.unlock();
            const Clock::time_point waiting = Clock::now();
            const ReadAnswer answer = reader.wait();
            Flight flight = std::exchange(flights[answer.tag], {});
            flight.load->read_nanoseconds_ += nanoseconds_since(waiting);
            land(std::move(flight), answer);
            free_tags.push_back(answer.tag);
            lock.lock();
        } else if (is_closing_) {
            return;
        } else {
            disk.has_work.wait(lock, [&] { return is_closing_ || disk.queue.has_block(); });
        }
    }
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
        settle(flight.load, flight.block, sum);
    }
    finish_if_over(lock, flight.load);
}

void Loader::settle(const std::shared_ptr<Load>& load, const Block& block, std::uint32_t crc32c) {
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
    copy(load, block.chunk);
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

void Loader::copy(const std::shared_ptr<Load>& load, std::size_t index) {
    const ChunkPlan& chunk = load->plan_.chunks[index];
    if (chunk.copies.empty()) {
        end_chunk(*load, index);
        return;
    }
    const ChunkIndex place = load->chunks_[index].target;
    const std::span<std::byte> bytes =
        pool_->bytes(place).subspan(chunk.target_offset, chunk.length);
    for (const ChunkCopies& copies : chunk.copies) {
        const TargetMemory& target = load->plan_.memories[copies.memory];
        ++load->n_in_flight_;
        load->start();
        copiers_.at(target.device)
            ->submit(
                {.into = target.memory,
                 .from = bytes,
                 .spans = copies.spans,
                 .prepare =
                     [this, load, device = target.device, place] {
                         if (!pinned_.pin(device, place)) {
                             load->is_unpinned_ = true;
                         }
                     },
                 .done = [this, load, index, &copies](
                             const CopyResult& result) { end_copy(load, index, copies, result); }});
    }
}

void Loader::end_copy(const std::shared_ptr<Load>& load, std::size_t index,
                      const ChunkCopies& copies, const CopyResult& result) {
    Lock lock(mutex_);
    --load->n_in_flight_;
    if (result.failure) {
        withdraw(*load, result.failure);
    } else {
        // Copies of one device end in order, and overlap only in its queue.
        Clock::time_point& last = load->last_copies_[copies.memory];
        load->copy_time_ += result.ended - std::max(result.started, last);
        last = result.ended;
        load->copied_bytes_ += size_bytes(copies);
        if (--load->chunks_[index].n_copies_left == 0) {
            end_chunk(*load, index);
        }
    }
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
    if (!failure) {
        failure = changed_files([&] { load->check_files_unchanged(); });
    }
    LoadOutcome outcome = load->summarise();
    end_writing(load->plan_);
    lock.lock();
    active_.erase(load->id());
    finished_.push_back(load);
    // Announced first: whoever was woken by the end itself finds it announced.
    (void)::eventfd_write(completion_.get(), 1);
    load->end(std::move(outcome), std::move(failure));
}

}  // namespace pilotlight::native
