// Whose block a disk reads next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

namespace pilotlight::native {

/// The part of a load that lies on one disk: its chunks, in the order in which they are read.
struct LanePlan {
    struct Chunk {
        std::size_t index = 0;  ///< the load's number for it
        std::uint64_t length = 0;
    };
    std::uint64_t load = 0;  ///< also the order of submission
    std::int64_t priority = 0;
    std::deque<Chunk> chunks;
    /// How many chunks may be begun; `grant` adds to it.
    std::size_t n_granted = std::numeric_limits<std::size_t>::max();
};

/// One read: a range of one chunk.
struct Block {
    std::uint64_t load = 0;
    std::size_t chunk = 0;
    std::size_t number = 0;    ///< within the chunk
    std::uint64_t offset = 0;  ///< within the chunk
    std::uint64_t length = 0;
};

/// Serves one load at a time, so that two equal loads end at T and 2T and not both at 2T: the
/// one of highest priority, among those the one with the fewest bytes left, among those the one
/// submitted first. The choice is made anew when a chunk has been handed out; a later load gets
/// what the first one leaves: all once its last block is out, some while it may begin no chunk.
/// Not thread-safe.
class DiskQueue {
  public:
    explicit DiskQueue(std::uint64_t block_bytes) : block_bytes_(block_bytes) {}

    void add(LanePlan plan);
    /// Forget a load; unknown ones are no error.
    void remove(std::uint64_t load);
    /// Let a load begin one more chunk; unknown ones are no error.
    void grant(std::uint64_t load);
    /// Give a load another priority; unknown ones are no error.
    void promote(std::uint64_t load, std::int64_t priority);

    /// Whether there is a block that may be read now.
    [[nodiscard]] bool has_block() const noexcept;
    /// Of all loads, ready to be read or not.
    [[nodiscard]] std::uint64_t bytes_left() const noexcept;
    /// Hand out the next block; there must be one.
    [[nodiscard]] Block take();

    /// The load that `take` last left for another one though it had blocks to read, once.
    [[nodiscard]] std::optional<std::uint64_t> take_interrupted();

  private:
    struct Lane {
        LanePlan plan;
        std::uint64_t bytes_left = 0;
        std::uint64_t offset = 0;  ///< of the next block in the first chunk

        /// A chunk that was begun can go on; a new one needs a grant.
        [[nodiscard]] bool is_ready() const noexcept { return offset != 0 || plan.n_granted != 0; }
    };

    void choose();
    [[nodiscard]] static bool goes_before(const Lane& a, const Lane& b) noexcept;

    const std::uint64_t block_bytes_;
    std::vector<Lane> lanes_;
    std::size_t current_ = 0;
    bool has_current_ = false;
    std::optional<std::uint64_t> interrupted_;
};

}  // namespace pilotlight::native
