// The DRAM tier's memory and its accounts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pilotlight/native/arena.hpp"

namespace pilotlight::native {

using ChunkIndex = std::uint32_t;

/// How many chunks are where: free + cached + bound == total, always.
struct Accounts {
    std::size_t free = 0;
    std::size_t cached = 0;
    std::size_t bound = 0;
    std::size_t total = 0;
};

/// An arena cut into chunks of one size, each free, cached or bound. Thread-safe.
///
/// Operations on several chunks change all of them or, when one is not in the expected state
/// or named twice, none. A cached chunk that a load writes into is *loading*: it can be neither
/// bound nor released until that load has ended. A chunk may also be *shared*: loads write into
/// places of it that are theirs alone, while other places are in use; then it is only neither
/// released nor loaded into as a whole.
class ChunkPool {
  public:
    /// The memory is spread over the machine's memory nodes, or lies on `node`.
    /// Throws MemoryRefused, std::invalid_argument unless chunks are a multiple of 4096 bytes.
    ChunkPool(std::size_t n_chunks, std::size_t chunk_bytes,
              std::optional<unsigned> node = std::nullopt, Sharing sharing = Sharing::kShared);

    [[nodiscard]] std::size_t chunk_bytes() const noexcept { return chunk_bytes_; }
    [[nodiscard]] std::size_t n_chunks() const noexcept { return states_.size(); }
    [[nodiscard]] bool is_shared() const noexcept { return arena_.is_shared(); }
    /// -1 where the memory is private.
    [[nodiscard]] int fd() const noexcept { return arena_.fd(); }
    [[nodiscard]] Accounts accounts() const;
    [[nodiscard]] std::size_t populated_bytes() const noexcept { return arena_.populated_bytes(); }
    [[nodiscard]] std::size_t huge_bytes() const noexcept { return arena_.huge_bytes(); }

    /// Move `n` free chunks to cached. The lowest ones are taken, which are likely to be
    /// populated and to be neighbours. Throws PoolExhausted.
    [[nodiscard]] std::vector<ChunkIndex> allocate(std::size_t n);
    void bind(std::span<const ChunkIndex> chunks);
    void unbind(std::span<const ChunkIndex> chunks);
    void release(std::span<const ChunkIndex> chunks);

    void begin_loading(std::span<const ChunkIndex> chunks);
    void end_loading(std::span<const ChunkIndex> chunks) noexcept;

    /// The same for places in cached or bound chunks; a chunk may be named as often as needed.
    void begin_sharing(std::span<const ChunkIndex> chunks);
    void end_sharing(std::span<const ChunkIndex> chunks) noexcept;

    /// Refuse everything from now on. Throws PoolBusy while loads write into the pool.
    /// The memory goes with the last owner of this object.
    void close();

    /// Give memory to the first `length` bytes after `offset` in a chunk. Throws MemoryRefused.
    void populate(ChunkIndex chunk, std::size_t offset, std::size_t length);
    /// Give memory to the lowest chunks that have none, to about `length` bytes in all and to no
    /// more once a load populates. Returns how many bytes got some. Throws MemoryRefused.
    [[nodiscard]] std::size_t populate_ahead(std::size_t length);
    [[nodiscard]] const std::string& node_refusal() const noexcept { return arena_.node_refusal(); }
    [[nodiscard]] std::span<std::byte> bytes(ChunkIndex chunk) const noexcept;

    /// Recount every account from the chunks; throws std::logic_error when they differ.
    void check_integrity() const;

  private:
    enum class State : std::uint8_t { kFree, kCached, kLoading, kBound };

    [[nodiscard]] static const char* name(State state) noexcept;
    [[nodiscard]] std::size_t& account(State state) noexcept;
    void move(std::span<const ChunkIndex> chunks, State from, State to);
    void require_unshared(std::span<const ChunkIndex> chunks) const;
    void require_open() const;

    const std::size_t chunk_bytes_;
    Arena arena_;
    mutable std::mutex mutex_;
    std::vector<State> states_;
    std::vector<std::uint32_t> n_sharing_;  ///< loads that write into places of the chunk
    Accounts accounts_;
    std::size_t n_writing_ = 0;
    bool is_closed_ = false;
};

}  // namespace pilotlight::native
