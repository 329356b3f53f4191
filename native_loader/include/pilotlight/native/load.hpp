// One load: what is asked for, how far it is, how it ended.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/copier.hpp"
#include "pilotlight/native/device.hpp"
#include "pilotlight/native/source_file.hpp"

namespace pilotlight::native {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct FilePlan {
    std::string path;
    FileIdentity identity;
};

/// What of a chunk goes into one of the plan's memories.
struct ChunkCopies {
    std::uint32_t memory = 0;  ///< index into LoadPlan::memories
    std::vector<CopySpan> spans;
};

[[nodiscard]] std::uint64_t size_bytes(const ChunkCopies& copies);

struct ChunkPlan {
    std::uint32_t file = 0;    ///< index into LoadPlan::files
    std::uint64_t offset = 0;  ///< in the file; a multiple of kDirectAlignment
    std::uint64_t length = 0;  ///< in bytes, at most the pool's chunk
    std::uint32_t number = 0;  ///< of this chunk within its file, for messages
    ChunkIndex target = 0;     ///< where in the pool it goes; ignored where the plan streams
    /// Within the target; a multiple of kDirectAlignment. Not 0: the target is shared.
    std::uint64_t target_offset = 0;
    bool is_shared = false;  ///< other loads write into other places of the target
    /// The target holds the chunk already, verified; it is only copied from.
    bool is_resident = false;
    std::optional<std::uint32_t> expected_crc32c;
    std::vector<ChunkCopies> copies;
};

/// A device's memory that a load fills; the caller has allocated it.
struct TargetMemory {
    std::shared_ptr<Device> device;
    std::shared_ptr<DeviceMemory> memory;
};

struct LoadPlan {
    std::vector<FilePlan> files;
    std::vector<ChunkPlan> chunks;
    std::int64_t priority = 0;  ///< higher goes first
    bool use_page_cache = false;
    std::vector<TargetMemory> memories;
    /// Where not empty, the chunks pass through these on their way to the memories.
    std::vector<ChunkIndex> staging;
};

/// The pool's chunks that a load writes into.
struct WrittenChunks {
    std::vector<ChunkIndex> whole;
    std::vector<ChunkIndex> shared;
};

[[nodiscard]] WrittenChunks written_chunks(const LoadPlan& plan);

struct Progress {
    std::uint64_t done_bytes = 0;  ///< read from the disk
    std::uint64_t total_bytes = 0;
    std::uint64_t copied_bytes = 0;  ///< on their devices
    std::uint64_t total_copied_bytes = 0;
    bool is_started = false;
};

/// What a load that succeeded has to tell.
struct LoadOutcome {
    std::uint64_t bytes_read = 0;
    std::uint64_t page_cache_bytes = 0;  ///< the part that came from the page cache by choice
    Seconds queued{};                    ///< from submission to the first block or copy
    Seconds busy{};                      ///< from the first block to the last block or copy
    Seconds read_time{};                 ///< the three: summed over the readers
    Seconds populate_time{};
    Seconds checksum_time{};
    std::uint64_t copied_bytes = 0;
    Seconds copy_time{};       ///< in which each device's link was busy, summed over the devices
    bool is_unpinned = false;  ///< a device could not pin the chunks, so copies were slower
    std::uint64_t n_interruptions = 0;  ///< how often the disk left it for another load
    std::string direct_refusal;         ///< why direct reads were refused; empty if they were not
    std::vector<std::uint32_t> crc32c;  ///< of each chunk, in the plan's order; 0 if not read
};

/// Thread-safe. Made and driven by a Loader; the waiting side may outlive it.
class Load : public std::enable_shared_from_this<Load> {
  public:
    [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
    [[nodiscard]] Progress progress() const noexcept;
    [[nodiscard]] bool is_done() const;

    /// Wait for the end; false if the timeout passed before. Throws LoaderClosed in a process
    /// that was forked from the loader's.
    [[nodiscard]] bool wait(std::optional<Seconds> timeout) const;

    /// Only after the end: return the outcome, or throw what the load failed with.
    [[nodiscard]] const LoadOutcome& outcome() const;

  private:
    friend class Loader;

    struct ChunkState {
        ChunkIndex target = 0;
        std::uint32_t n_blocks_left = 0;
        std::uint32_t n_copies_left = 0;
        std::vector<std::uint32_t> block_crc32c;
    };

    /// `block_bytes` is that of each chunk's disk.
    Load(std::uint64_t id, LoadPlan plan, WrittenChunks written,
         std::span<const std::size_t> block_bytes);

    void start();
    [[nodiscard]] SourceFile& file(std::uint32_t index);
    void check_files_unchanged() const;
    [[nodiscard]] LoadOutcome summarise();
    void close_files();
    void end(LoadOutcome outcome, std::exception_ptr failure);

    const std::uint64_t id_;
    const pid_t owner_ = ::getpid();
    LoadPlan plan_;
    const WrittenChunks written_;
    std::uint64_t total_bytes_ = 0;
    const Clock::time_point submitted_ = Clock::now();

    // Guarded by the Loader's mutex.
    std::vector<ChunkState> chunks_;
    std::vector<std::uint32_t> chunk_crc32c_;
    std::size_t n_chunks_left_ = 0;  ///< to be read, and copied where they are
    std::size_t n_in_flight_ = 0;    ///< blocks and copies
    std::map<std::uint64_t, std::vector<ChunkIndex>> free_staging_;  ///< by disk
    std::vector<Clock::time_point> last_copies_;                     ///< by memory
    Clock::duration copy_time_{};
    std::uint64_t n_interruptions_ = 0;
    bool is_ending_ = false;
    std::exception_ptr failure_;
    Clock::time_point started_ = submitted_;
    Clock::time_point last_done_ = submitted_;

    mutable std::mutex files_mutex_;
    std::vector<std::unique_ptr<SourceFile>> files_;

    std::atomic<bool> is_started_ = false;
    std::atomic<bool> is_unpinned_ = false;
    std::atomic<std::uint64_t> done_bytes_ = 0;
    std::uint64_t total_copied_bytes_ = 0;
    std::atomic<std::uint64_t> copied_bytes_ = 0;
    std::atomic<std::uint64_t> page_cache_bytes_ = 0;
    std::atomic<std::int64_t> read_nanoseconds_ = 0;
    std::atomic<std::int64_t> populate_nanoseconds_ = 0;
    std::atomic<std::int64_t> checksum_nanoseconds_ = 0;

    mutable std::mutex end_mutex_;
    mutable std::condition_variable ended_;
    bool is_ended_ = false;
    LoadOutcome outcome_;
    std::exception_ptr error_;
};

}  // namespace pilotlight::native
