// Reads checkpoints into a chunk pool.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/disk_queue.hpp"
#include "pilotlight/native/load.hpp"

namespace pilotlight::native {

/// Thread-safe. Each disk (device number) has readers of its own, made when the first load
/// names it; they share that disk's queue, so as many blocks are in flight as it has readers.
///
/// A load ends when its last block is in memory and every checksum is right, or, after a
/// failure or cancellation, when no reader touches its chunks any more. Then its chunks are no
/// longer loading, `completion_fd` becomes readable and `finished` returns it once.
class Loader {
  public:
    /// Throws std::invalid_argument unless blocks are a multiple of kDirectAlignment.
    Loader(std::shared_ptr<ChunkPool> pool, std::size_t n_readers_per_disk,
           std::size_t block_bytes);
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;
    ~Loader();

    /// Never waits for a disk. Throws ChunkStateError unless every target is cached,
    /// std::invalid_argument for a plan that makes no sense, LoaderClosed.
    [[nodiscard]] std::shared_ptr<Load> submit(LoadPlan plan);

    /// End a load with LoadCancelled; one that is ending already is left alone.
    void cancel(const std::shared_ptr<Load>& load);

    /// Give a load another priority, from its next chunk on.
    void promote(const Load& load, std::int64_t priority);

    [[nodiscard]] int completion_fd() const noexcept { return completion_.get(); }
    /// The loads that have ended since the last call.
    [[nodiscard]] std::vector<std::shared_ptr<Load>> finished();

    /// Cancel what runs and join the readers.
    void close();

  private:
    struct Disk {
        explicit Disk(std::size_t block_bytes) : queue(block_bytes) {}
        DiskQueue queue;
        std::condition_variable has_work;
        std::vector<std::thread> readers;
    };

    using Lock = std::unique_lock<std::mutex>;

    void check(const LoadPlan& plan) const;
    void enqueue(const Load& load);
    Disk& disk_at(std::uint64_t device);
    void read_blocks(Disk& disk);
    [[nodiscard]] std::shared_ptr<Load> begin(Disk& disk, const Block& block);
    [[nodiscard]] std::uint32_t transfer(Load& load, const Block& block);
    void settle(Load& load, const Block& block, std::uint32_t crc32c);
    [[nodiscard]] std::uint32_t chunk_crc32c(const Load& load, std::size_t index) const;
    void withdraw(Load& load, std::exception_ptr failure);
    void finish_if_over(Lock& lock, const std::shared_ptr<Load>& load);

    const std::shared_ptr<ChunkPool> pool_;
    const std::size_t n_readers_per_disk_;
    const std::size_t block_bytes_;
    const Crc32cAppender whole_block_;
    Descriptor completion_;

    std::mutex mutex_;
    bool is_closing_ = false;
    std::uint64_t last_id_ = 0;
    std::map<std::uint64_t, std::unique_ptr<Disk>> disks_;
    std::map<std::uint64_t, std::shared_ptr<Load>> active_;
    std::vector<std::shared_ptr<Load>> finished_;
};

}  // namespace pilotlight::native
