// Whose chunk a device's link carries next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace pilotlight::native {

/// What of one chunk is ready to be copied to one of its load's memories.
struct ReadyCopy {
    std::uint64_t load = 0;
    std::size_t chunk = 0;   ///< the load's number for it
    std::size_t copies = 0;  ///< index into ChunkPlan::copies
    std::uint64_t length = 0;
};

/// Serves one load at a time, as a DiskQueue does: the one of highest priority, among those the
/// one with the fewest bytes left, among those the one submitted first, as long as it has
/// something ready. Not thread-safe.
class LinkQueue {
  public:
    /// Expect `total_bytes` of a load, in all.
    void add(std::uint64_t load, std::int64_t priority, std::uint64_t total_bytes);
    /// One more copy of a load is ready; loads that are not expected are ignored.
    void push(const ReadyCopy& copy);
    /// Forget a load; unknown ones are no error.
    void remove(std::uint64_t load) noexcept;
    /// Give a load another priority; unknown ones are no error.
    void promote(std::uint64_t load, std::int64_t priority) noexcept;

    [[nodiscard]] bool has_copy() const noexcept;
    /// Hand out the next copy; there must be one.
    [[nodiscard]] ReadyCopy take() noexcept;

  private:
    struct Lane {
        std::uint64_t load = 0;
        std::int64_t priority = 0;
        std::uint64_t bytes_left = 0;
        std::deque<ReadyCopy> ready;
    };

    [[nodiscard]] static bool goes_before(const Lane& a, const Lane& b) noexcept;

    std::vector<Lane> lanes_;
};

}  // namespace pilotlight::native
