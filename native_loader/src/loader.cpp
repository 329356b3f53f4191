#include "pilotlight/native/loader.hpp"

#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

Descriptor make_eventfd() {
    Descriptor event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event) {
        throw MemoryRefused("eventfd", errno);
    }
    return event;
}

// Signals are for the application's threads: with all of them blocked here, a reader that is
// made inside never takes one away.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_{};
};

// Adds the time between its making and its end to a counter.
class Stopwatch {
  public:
    explicit Stopwatch(std::atomic<std::int64_t>& nanoseconds) : nanoseconds_(nanoseconds) {}
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    ~Stopwatch() { nanoseconds_ += std::chrono::nanoseconds(Clock::now() - start_).count(); }

  private:
    std::atomic<std::int64_t>& nanoseconds_;
    const Clock::time_point start_ = Clock::now();
};

std::vector<ChunkIndex> targets(const LoadPlan& plan) {
    std::vector<ChunkIndex> chunks;
    chunks.reserve(plan.chunks.size());
    for (const ChunkPlan& chunk : plan.chunks) {
        chunks.push_back(chunk.target);
    }
    return chunks;
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

Loader::Loader(std::shared_ptr<ChunkPool> pool, std::size_t n_readers_per_disk,
               std::size_t block_bytes)
    : pool_(std::move(pool)),
      n_readers_per_disk_(n_readers_per_disk),
      block_bytes_(block_bytes),
      whole_block_(block_bytes),
      completion_(make_eventfd()) {
    if (n_readers_per_disk == 0) {
        throw std::invalid_argument("a disk needs at least one reader");
    }
    if (block_bytes == 0 || block_bytes % kDirectAlignment != 0) {
        throw std::invalid_argument("a block must be a multiple of 4096 bytes");
    }
}

Loader::~Loader() {
    close();
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
    pool_->begin_loading(targets(plan));
    const std::shared_ptr<Load> load(new Load(++last_id_, std::move(plan), block_bytes_));
    active_.emplace(load->id(), load);
    enqueue(*load);
    finish_if_over(lock, load);  // A plan without chunks has nothing to wait for.
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
}

void Loader::check(const LoadPlan& plan) const {
    for (const ChunkPlan& chunk : plan.chunks) {
        if (chunk.file >= plan.files.size() || chunk.length == 0 ||
            chunk.length > pool_->chunk_bytes() || chunk.offset % kDirectAlignment != 0) {
            throw std::invalid_argument("a chunk of the plan does not fit its file or the pool");
        }
    }
}

void Loader::enqueue(const Load& load) {
    std::map<std::uint64_t, LanePlan> lanes;
    for (std::size_t i = 0; i < load.plan_.chunks.size(); ++i) {
        const ChunkPlan& chunk = load.plan_.chunks[i];
        LanePlan& lane = lanes[load.plan_.files[chunk.file].identity.device];
        lane.load = load.id_;
        lane.priority = load.plan_.priority;
        lane.chunks.push_back({.index = i, .length = chunk.length});
    }
    for (auto& [device, lane] : lanes) {
        Disk& disk = *disks_.at(device);
        disk.queue.add(std::move(lane));
        disk.has_work.notify_all();
    }
}

// A disk that could not have all its readers is slower, not wrong.
Loader::Disk& Loader::disk_at(std::uint64_t device) {
    std::unique_ptr<Disk>& disk = disks_[device];
    if (!disk) {
        disk = std::make_unique<Disk>(block_bytes_);
    }
    const SignalsBlocked signals;
    try {
        while (disk->readers.size() < n_readers_per_disk_) {
            disk->readers.emplace_back([this, &disk = *disk] { read_blocks(disk); });
        }
    } catch (const std::system_error& error) {
        if (disk->readers.empty()) {
            throw MemoryRefused("pthread_create", error.code().value());
        }
    }
    return *disk;
}

void Loader::read_blocks(Disk& disk) {
    Lock lock(mutex_);
    for (;;) {
        disk.has_work.wait(lock, [&] { return is_closing_ || !disk.queue.is_empty(); });
        if (is_closing_) {
            return;
        }
        const Block block = disk.queue.take();
        const std::shared_ptr<Load> load = begin(disk, block);
        lock.unlock();
        std::uint32_t crc32c = 0;
        std::exception_ptr failure;
        try {
            crc32c = transfer(*load, block);
        } catch (...) {
            failure = std::current_exception();
        }
        lock.lock();
        --load->n_in_flight_;
        if (failure) {
            withdraw(*load, std::move(failure));
        } else {
            settle(*load, block, crc32c);
        }
        finish_if_over(lock, load);
    }
}

std::shared_ptr<Load> Loader::begin(Disk& disk, const Block& block) {
    if (const auto interrupted = disk.queue.take_interrupted()) {
        ++active_.at(*interrupted)->n_interruptions_;
    }
    const std::shared_ptr<Load>& load = active_.at(block.load);
    ++load->n_in_flight_;
    if (!load->is_started_) {
        load->first_block_ = Clock::now();
        load->is_started_ = true;
    }
    return load;
}

std::uint32_t Loader::transfer(Load& load, const Block& block) {
    const ChunkPlan& chunk = load.plan_.chunks[block.chunk];
    const std::span<std::byte> room = pool_->bytes(chunk.target).subspan(block.offset);
    const std::uint64_t offset = chunk.offset + block.offset;
    SourceFile& file = load.file(chunk.file);
    {
        const Stopwatch watch(load.populate_nanoseconds_);
        pool_->populate(chunk.target, block.offset, block.length);
    }
    {
        const Stopwatch watch(load.read_nanoseconds_);
        if (load.plan_.use_page_cache && file.is_cached(offset, block.length)) {
            file.read_buffered(room, offset, block.length);
            load.page_cache_bytes_ += block.length;
        } else {
            file.read(room, offset, block.length);
        }
    }
    const Stopwatch watch(load.checksum_nanoseconds_);
    load.done_bytes_ += block.length;
    return crc32c(room.first(block.length));
}

void Loader::settle(Load& load, const Block& block, std::uint32_t crc32c) {
    Load::ChunkState& state = load.chunks_[block.chunk];
    state.block_crc32c[block.number] = crc32c;
    if (--state.n_blocks_left != 0 || load.failure_) {
        return;
    }
    const ChunkPlan& chunk = load.plan_.chunks[block.chunk];
    const std::uint32_t actual = chunk_crc32c(load, block.chunk);
    if (chunk.expected_crc32c && *chunk.expected_crc32c != actual) {
        const std::string& path = load.plan_.files[chunk.file].path;
        withdraw(load, std::make_exception_ptr(
                           ChecksumMismatch(path, chunk.number, *chunk.expected_crc32c, actual)));
        return;
    }
    load.chunk_crc32c_[block.chunk] = actual;
    if (--load.n_chunks_left_ == 0) {
        load.last_block_ = Clock::now();
    }
}

std::uint32_t Loader::chunk_crc32c(const Load& load, std::size_t index) const {
    const std::vector<std::uint32_t>& blocks = load.chunks_[index].block_crc32c;
    std::uint32_t joined = blocks.front();
    for (std::size_t i = 1; i + 1 < blocks.size(); ++i) {
        joined = whole_block_.append(joined, blocks[i]);
    }
    if (blocks.size() == 1) {
        return joined;
    }
    const std::uint64_t last_length =
        load.plan_.chunks[index].length - (blocks.size() - 1) * block_bytes_;
    return Crc32cAppender(last_length).append(joined, blocks.back());
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
    pool_->end_loading(targets(load->plan_));
    lock.lock();
    active_.erase(load->id());
    finished_.push_back(load);
    // Announced first: whoever was woken by the end itself finds it announced.
    (void)::eventfd_write(completion_.get(), 1);
    load->end(std::move(outcome), std::move(failure));
}

}  // namespace pilotlight::native
