#include "pilotlight/native/disk_queue.hpp"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

namespace pilotlight::native {

void DiskQueue::add(LanePlan plan) {
    std::uint64_t bytes = 0;
    for (const LanePlan::Chunk& chunk : plan.chunks) {
        bytes += chunk.length;
    }
    if (bytes != 0) {
        lanes_.push_back({.plan = std::move(plan), .bytes_left = bytes, .offset = 0});
    }
}

void DiskQueue::remove(std::uint64_t load) {
    const auto found =
        std::ranges::find(lanes_, load, [](const Lane& lane) { return lane.plan.load; });
    if (found == lanes_.end()) {
        return;
    }
    const auto position = static_cast<std::size_t>(std::distance(lanes_.begin(), found));
    lanes_.erase(found);
    if (position == current_) {
        has_current_ = false;
    } else if (position < current_) {
        --current_;
    }
}

void DiskQueue::grant(std::uint64_t load) {
    for (Lane& lane : lanes_) {
        if (lane.plan.load == load) {
            ++lane.plan.n_granted;
        }
    }
}

void DiskQueue::promote(std::uint64_t load, std::int64_t priority) {
    for (Lane& lane : lanes_) {
        if (lane.plan.load == load) {
            lane.plan.priority = priority;
        }
    }
}

bool DiskQueue::has_block() const noexcept {
    return std::ranges::any_of(lanes_, &Lane::is_ready);
}

std::uint64_t DiskQueue::bytes_left() const noexcept {
    std::uint64_t bytes = 0;
    for (const Lane& lane : lanes_) {
        bytes += lane.bytes_left;
    }
    return bytes;
}

Block DiskQueue::take() {
    if (!has_current_ || lanes_[current_].offset == 0) {
        choose();
    }
    Lane& lane = lanes_[current_];
    if (lane.offset == 0) {
        --lane.plan.n_granted;
    }
    const LanePlan::Chunk chunk = lane.plan.chunks.front();
    const Block block{.load = lane.plan.load,
                      .chunk = chunk.index,
                      .number = static_cast<std::size_t>(lane.offset / block_bytes_),
                      .offset = lane.offset,
                      .length = std::min(block_bytes_, chunk.length - lane.offset)};
    lane.offset += block.length;
    lane.bytes_left -= block.length;
    if (lane.offset == chunk.length) {
        lane.plan.chunks.pop_front();
        lane.offset = 0;
    }
    if (lane.bytes_left == 0) {
        remove(block.load);
    }
    return block;
}

std::optional<std::uint64_t> DiskQueue::take_interrupted() {
    return std::exchange(interrupted_, std::nullopt);
}

void DiskQueue::choose() {
    const auto best = std::ranges::min_element(lanes_, goes_before);
    const auto chosen = static_cast<std::size_t>(std::distance(lanes_.begin(), best));
    if (has_current_ && chosen != current_) {
        interrupted_ = lanes_[current_].plan.load;
    }
    current_ = chosen;
    has_current_ = true;
}

bool DiskQueue::goes_before(const Lane& a, const Lane& b) noexcept {
    // Readiness and priorities are swapped: what is ready, and the higher one, goes first.
    return std::tuple(b.is_ready(), b.plan.priority, a.bytes_left, a.plan.load) <
           std::tuple(a.is_ready(), a.plan.priority, b.bytes_left, b.plan.load);
}

}  // namespace pilotlight::native
