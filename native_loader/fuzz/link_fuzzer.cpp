// Whose chunk a link carries next, against the simplest model of it: a list of loads.
#include <algorithm>
#include <deque>
#include <numeric>
#include <tuple>
#include <vector>

#include "input.hpp"
#include "pilotlight/native/link_queue.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

struct Waiting {
    std::uint64_t load = 0;
    std::int64_t priority = 0;
    std::vector<std::uint64_t> lengths;  ///< of all its copies
    std::size_t n_pushed = 0;
    std::size_t n_taken = 0;

    [[nodiscard]] bool is_ready() const { return n_taken < n_pushed; }
    [[nodiscard]] auto rank() const {
        const auto left = lengths.begin() + static_cast<std::ptrdiff_t>(n_taken);
        return std::tuple(-priority, std::accumulate(left, lengths.end(), std::uint64_t{0}), load);
    }
};

class Model {
  public:
    explicit Model(fuzz::Input& input) : input_(input) {}

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
            case 4:
            case 5:
                push();
                break;
            default:
                take();
        }
        check();
    }

    void drain() {
        while (queue_.has_copy()) {
            take();
            check();
        }
    }

  private:
    void add() {
        Waiting fresh{.load = ++last_load_,
                      .priority = static_cast<std::int64_t>(input_.below(3)) - 1,
                      .lengths = std::vector<std::uint64_t>(input_.below(5))};
        for (std::uint64_t& length : fresh.lengths) {
            length = 1 + input_.byte() % 4;
        }
        queue_.add(fresh.load, fresh.priority,
                   std::accumulate(fresh.lengths.begin(), fresh.lengths.end(), std::uint64_t{0}));
        waiting_.push_back(fresh);
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

    void push() {
        const std::uint64_t load = some_load();
        Waiting* found = find(load);
        if (found == nullptr) {
            queue_.push({.load = load, .length = 1});
        } else if (found->n_pushed < found->lengths.size()) {
            const std::size_t chunk = found->n_pushed++;
            queue_.push({.load = load, .chunk = chunk, .length = found->lengths[chunk]});
        }
    }

    void take() {
        if (!queue_.has_copy()) {
            return;
        }
        const ReadyCopy copy = queue_.take();
        Waiting* from = find(copy.load);
        require(from != nullptr && from->is_ready() && copy.chunk == from->n_taken,
                "a load's copies come in order");
        for (const Waiting& other : waiting_) {
            require(!other.is_ready() || other.load == from->load || from->rank() < other.rank(),
                    "the best load goes first");
        }
        ++from->n_taken;
    }

    void check() const {
        require(queue_.has_copy() == std::ranges::any_of(waiting_, &Waiting::is_ready),
                "what is ready comes out");
    }

    Waiting* find(std::uint64_t load) {
        const auto found = std::ranges::find(waiting_, load, &Waiting::load);
        return found == waiting_.end() ? nullptr : &*found;
    }

    std::uint64_t some_load() { return last_load_ - input_.below(4); }

    fuzz::Input& input_;
    LinkQueue queue_;
    std::uint64_t last_load_ = 3;
    std::vector<Waiting> waiting_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    Model model(input);
    while (!input.is_empty()) {
        model.step();
    }
    model.drain();
    return 0;
}
