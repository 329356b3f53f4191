#include "pilotlight/native/link_queue.hpp"

#include <algorithm>
#include <tuple>

namespace pilotlight::native {

void LinkQueue::add(std::uint64_t load, std::int64_t priority, std::uint64_t total_bytes) {
    lanes_.push_back({.load = load, .priority = priority, .bytes_left = total_bytes, .ready = {}});
}

void LinkQueue::push(const ReadyCopy& copy) {
    const auto lane = std::ranges::find(lanes_, copy.load, &Lane::load);
    if (lane != lanes_.end()) {
        lane->ready.push_back(copy);
    }
}

void LinkQueue::remove(std::uint64_t load) noexcept {
    std::erase_if(lanes_, [&](const Lane& lane) { return lane.load == load; });
}

void LinkQueue::promote(std::uint64_t load, std::int64_t priority) noexcept {
    for (Lane& lane : lanes_) {
        if (lane.load == load) {
            lane.priority = priority;
        }
    }
}

bool LinkQueue::has_copy() const noexcept {
    return std::ranges::any_of(lanes_, [](const Lane& lane) { return !lane.ready.empty(); });
}

ReadyCopy LinkQueue::take() noexcept {
    const auto lane = std::ranges::min_element(lanes_, goes_before);
    const ReadyCopy copy = lane->ready.front();
    lane->ready.pop_front();
    lane->bytes_left -= std::min(lane->bytes_left, copy.length);
    if (lane->bytes_left == 0 && lane->ready.empty()) {
        lanes_.erase(lane);
    }
    return copy;
}

bool LinkQueue::goes_before(const Lane& a, const Lane& b) noexcept {
    // What has something ready, and the higher priority, goes first, so those are swapped.
    return std::tuple(b.ready.empty() ? 0 : 1, b.priority, a.bytes_left, a.load) <
           std::tuple(a.ready.empty() ? 0 : 1, a.priority, b.bytes_left, b.load);
}

}  // namespace pilotlight::native
