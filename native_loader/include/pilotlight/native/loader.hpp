// Reads checkpoints into a chunk pool, and from there into devices.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "pilotlight/native/block_reader.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/copier.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/disk_queue.hpp"
#include "pilotlight/native/disk_settings.hpp"
#include "pilotlight/native/link_queue.hpp"
#include "pilotlight/native/load.hpp"
#include "pilotlight/native/pinned_chunks.hpp"

namespace pilotlight::native {

/// Thread-safe. Each disk (device number) has readers of its own, made when the first load
/// names it; they share that disk's queue. Each device has a copier. Nothing waits for a whole
/// tier: a chunk's copies begin when it is read and its checksum is right. A load with staging
/// chunks takes as many of the disk's chunks as it has staging free; each is free again when
/// it is copied.
///
/// A load ends when its last block is in memory, every checksum is right and every copy is done,
/// or, after a failure or cancellation, when nobody touches its chunks and memories any more.
/// Then its chunks are no longer loading, `completion_fd` becomes readable and `finished`
/// returns it once.
class Loader {
  public:
    /// Disks are read as `settings` say unless they have their own. Throws std::invalid_argument
    /// for settings that make no sense.
    Loader(std::shared_ptr<ChunkPool> pool, const DiskSettings& settings);
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;
    ~Loader();

    /// Have a disk, known by its device number, read as the settings say, from the first load on
    /// that names it; later it is too late, which is no error. Throws std::invalid_argument.
    void configure(std::uint64_t disk, const DiskSettings& settings);

    /// Never waits for a disk. Throws ChunkStateError unless every target is cached,
    /// std::invalid_argument for a plan that makes no sense, LoaderClosed.
    [[nodiscard]] std::shared_ptr<Load> submit(LoadPlan plan);

    /// End a load with LoadCancelled; one that is ending already is left alone.
    void cancel(const std::shared_ptr<Load>& load);

    /// Give a load another priority, from its next chunk on.
    void promote(const Load& load, std::int64_t priority);

    [[nodiscard]] int completion_fd() const noexcept { return completion_.get(); }
    /// The loads that have ended since the last call, and that somebody still holds.
    [[nodiscard]] std::vector<std::shared_ptr<Load>> finished();

    /// Cancel what runs, join the readers and the copiers. In a process that was forked from the
    /// one that made the loader nothing of it runs, and all of it is left alone.
    void close();

  private:
    struct Disk {
        explicit Disk(const DiskSettings& how)
            : settings(how), whole_block(how.block_bytes), queue(how.block_bytes) {}
        const DiskSettings settings;
        const Crc32cAppender whole_block;
        DiskQueue queue;
        std::condition_variable has_work;
        std::vector<std::thread> readers;
        std::size_t n_in_flight = 0;
    };

    using Lock = std::unique_lock<std::mutex>;

    /// A block on its way.
    struct Flight {
        std::shared_ptr<Load> load;
        Block block;
        ChunkIndex target = 0;
        std::span<std::byte> room;
    };

    /// A device's copier, and what waits for it.
    struct Link {
        std::unique_ptr<Copier> copier;
        LinkQueue queue;
        std::size_t n_submitted = 0;
    };

    /// A thread's part of a disk.
    struct Reader {
        explicit Reader(std::unique_ptr<BlockReader> how);
        [[nodiscard]] std::size_t n_in_flight() const noexcept {
            return flights.size() - free_tags.size();
        }

        std::unique_ptr<BlockReader> reader;
        std::vector<Flight> flights;
        std::vector<std::uint64_t> free_tags;
    };

    [[nodiscard]] bool is_forked() const noexcept;
    void leave_to_parent() noexcept;
    void check(const LoadPlan& plan) const;
    [[nodiscard]] std::vector<std::size_t> block_bytes(const LoadPlan& plan);
    void begin_writing(const WrittenChunks& chunks);
    void end_writing(const WrittenChunks& chunks) noexcept;
    void activate(Lock& lock, const std::shared_ptr<Load>& load);
    void enqueue(Load& load);
    Disk& disk_at(std::uint64_t device);
    [[nodiscard]] const Disk& disk_of(const LoadPlan& plan, const ChunkPlan& chunk) const;
    Link& link_to(const std::shared_ptr<Device>& device);

    void run_reader(Disk& disk, Reader& reader);
    [[nodiscard]] static bool takes_more(const Disk& disk, const Reader& reader);
    void begin_next(Lock& lock, Disk& disk, Reader& reader);
    void await_one(Lock& lock, Disk& disk, Reader& reader);
    [[nodiscard]] Flight begin(Disk& disk);
    [[nodiscard]] std::exception_ptr prepare(const Flight& flight);
    static void start(BlockReader& reader, const Flight& flight, std::uint64_t tag);
    void land(Flight flight, const ReadAnswer& answer);
    void settle(Lock& lock, const std::shared_ptr<Load>& load, const Block& block,
                std::uint32_t crc32c);
    [[nodiscard]] std::uint32_t chunk_crc32c(const Load& load, std::size_t index) const;
    void copy(Lock& lock, const std::shared_ptr<Load>& load, std::size_t index);
    void feed(Lock& lock, Link& link);
    void begin_copy(Link& link, const std::shared_ptr<Load>& load, const ReadyCopy& ready);
    void end_copy(const std::shared_ptr<Load>& load, const ReadyCopy& ready,
                  const CopyResult& result);
    void end_chunk(Load& load, std::size_t index);
    void withdraw(Load& load, std::exception_ptr failure);
    void finish_if_over(Lock& lock, const std::shared_ptr<Load>& load);

    const pid_t owner_;
    const std::shared_ptr<ChunkPool> pool_;
    const DiskSettings default_settings_;
    std::unique_ptr<PinnedChunks> pinned_;
    Descriptor completion_;

    std::mutex close_mutex_;
    std::mutex mutex_;
    bool is_closing_ = false;
    std::uint64_t last_id_ = 0;
    std::map<std::uint64_t, DiskSettings> settings_;
    std::map<std::uint64_t, std::unique_ptr<Disk>> disks_;
    std::map<std::shared_ptr<Device>, std::unique_ptr<Link>> links_;
    std::map<std::uint64_t, std::shared_ptr<Load>> active_;
    std::vector<std::weak_ptr<Load>> finished_;
};

}  // namespace pilotlight::native
