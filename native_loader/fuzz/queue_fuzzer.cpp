// Whose block is next, against the simplest model of it: a list of loads.
#include <algorithm>
#include <deque>
#include <optional>
#include <tuple>
#include <vector>

#include "input.hpp"
#include "pilotlight/native/disk_queue.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

struct Waiting {
    std::uint64_t load = 0;
    std::int64_t priority = 0;
    std::deque<LanePlan::Chunk> chunks;
    std::uint64_t offset = 0;
    std::size_t n_granted = 0;

    [[nodiscard]] std::uint64_t bytes_left() const {
        std::uint64_t sum = 0;
        for (const LanePlan::Chunk& chunk : chunks) {
            sum += chunk.length;
        }
        return sum - offset;
    }
    [[nodiscard]] bool is_ready() const { return offset != 0 || n_granted != 0; }
    [[nodiscard]] auto rank() const { return std::tuple(-priority, bytes_left(), load); }
};

class Model {
  public:
    Model(fuzz::Input& input, std::uint64_t block_bytes)
        : input_(input), block_bytes_(block_bytes), queue_(block_bytes) {}

    void step() {
        switch (input_.byte() % 8) {
            case 0:
                add();
                break;
            case 1:
                remove();
                break;
            case 2:
                promote();
                break;
            case 3:
                grant();
                break;
            default:
                take();
        }
        const bool has_ready = std::ranges::any_of(waiting_, &Waiting::is_ready);
        require(queue_.has_block() == has_ready, "a block is there while a load may go on");
        std::uint64_t n_left = 0;
        for (const Waiting& waiting : waiting_) {
            n_left += waiting.bytes_left();
        }
        require(queue_.bytes_left() == n_left, "what is left is what was not handed out");
    }

    void drain() {
        while (queue_.has_block()) {
            take();
        }
        require(std::ranges::none_of(waiting_, &Waiting::is_ready), "nobody is forgotten");
    }

  private:
    void add() {
        Waiting fresh{.load = ++last_load_,
                      .priority = static_cast<std::int64_t>(input_.below(3)) - 1,
                      .chunks = {},
                      .offset = 0,
                      .n_granted = input_.one_in(4) ? input_.below(3) : 1'000};
        for (std::size_t i = input_.below(4); i > 0; --i) {
            fresh.chunks.push_back({.index = fresh.chunks.size(), .length = 1 + input_.number(2)});
        }
        queue_.add({.load = fresh.load,
                    .priority = fresh.priority,
                    .chunks = fresh.chunks,
                    .n_granted = fresh.n_granted});
        if (!fresh.chunks.empty()) {
            waiting_.push_back(fresh);
        }
    }

    void remove() {
        const std::uint64_t load = some_load();
        queue_.remove(load);
        std::erase_if(waiting_, [load](const Waiting& each) { return each.load == load; });
    }

    void promote() {
        const std::uint64_t load = some_load();
        const auto priority = static_cast<std::int64_t>(input_.below(3)) - 1;
        queue_.promote(load, priority);
        if (Waiting* found = find(load)) {
            found->priority = priority;
        }
    }

    void grant() {
        const std::uint64_t load = some_load();
        queue_.grant(load);
        if (Waiting* found = find(load)) {
            ++found->n_granted;
        }
    }

    void take() {
        if (!queue_.has_block()) {
            return;
        }
        const Block block = queue_.take();
        Waiting* from = find(block.load);
        require(from != nullptr, "a block belongs to a load that waits");
        const LanePlan::Chunk chunk = from->chunks.front();
        require(block.chunk == chunk.index && block.offset == from->offset &&
                    block.number == from->offset / block_bytes_,
                "a load's blocks come in order");
        require(block.length == std::min(block_bytes_, chunk.length - from->offset),
                "blocks are whole but for the last one of a chunk");
        if (from->offset == 0) {
            check_choice(*from);
            --from->n_granted;
        }
        advance(*from, block.length);
    }

    void check_choice(const Waiting& chosen) const {
        require(chosen.n_granted != 0, "a chunk is begun by a load that may");
        for (const Waiting& other : waiting_) {
            require(other.offset == 0, "a chunk that was begun is ended first");
            require(!other.is_ready() || other.load == chosen.load || chosen.rank() < other.rank(),
                    "the best load goes first");
        }
    }

    void advance(Waiting& waiting, std::uint64_t length) {
        waiting.offset += length;
        if (waiting.offset == waiting.chunks.front().length) {
            waiting.chunks.pop_front();
            waiting.offset = 0;
        }
        if (waiting.chunks.empty()) {
            std::erase_if(waiting_,
                          [load = waiting.load](const Waiting& each) { return each.load == load; });
        }
    }

    Waiting* find(std::uint64_t load) {
        const auto found = std::ranges::find(waiting_, load, &Waiting::load);
        return found == waiting_.end() ? nullptr : &*found;
    }

    std::uint64_t some_load() { return last_load_ - input_.below(4); }

    fuzz::Input& input_;
    const std::uint64_t block_bytes_;
    DiskQueue queue_;
    std::uint64_t last_load_ = 3;
    std::vector<Waiting> waiting_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    Model model(input, 256 * (1 + input.below(16)));
    while (!input.is_empty()) {
        model.step();
    }
    model.drain();
    return 0;
}
