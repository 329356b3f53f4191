// A pool's accounts, against the simplest model of them: a state per chunk.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "input.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/error.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

constexpr std::size_t kChunks = 8;
constexpr std::size_t kChunkBytes = 4096;
constexpr std::uint64_t kMostCounted = std::uint64_t{1} << 20;

enum class State { kFree, kCached, kLoading, kBound };

class Model {
  public:
    explicit Model(fuzz::Input& input) : input_(input) {}

    void step() {
        switch (input_.byte() % 10) {
            case 0:
            case 1:
                allocate();
                break;
            case 2:
                move(State::kCached, State::kBound, [&](auto some) { pool_.bind(some); });
                break;
            case 3:
                move(State::kBound, State::kCached, [&](auto some) { pool_.unbind(some); });
                break;
            case 4:
                move(State::kCached, State::kFree, [&](auto some) { pool_.release(some); });
                break;
            case 5:
                move(State::kCached, State::kLoading,
                     [&](auto some) { pool_.begin_loading(some); });
                break;
            case 6:
                end_loading();
                break;
            case 7:
                begin_sharing();
                break;
            case 8:
                end_sharing();
                break;
            default:
                populate();
        }
        check();
    }

    // Whatever happened, all chunks can be had back.
    void give_all_back() {
        while (!sharing_.empty()) {
            end_sharing();
        }
        while (!loading_.empty()) {
            end_loading();
        }
        const std::vector<ChunkIndex> bound = those_in(State::kBound);
        pool_.unbind(bound);
        set(bound, State::kCached);
        const std::vector<ChunkIndex> cached = those_in(State::kCached);
        pool_.release(cached);
        set(cached, State::kFree);
        check();
        require(pool_.accounts().free == kChunks, "all chunks come back");
        pool_.close();
    }

  private:
    using Chunks = std::vector<ChunkIndex>;

    void allocate() {
        const std::size_t wanted = input_.below(kChunks + 2);
        const Chunks free = those_in(State::kFree);
        try {
            const Chunks got = pool_.allocate(wanted);
            require(wanted <= free.size() && std::ranges::equal(got, std::span(free).first(wanted)),
                    "the lowest free chunks are taken");
            set(got, State::kCached);
        } catch (const PoolExhausted& error) {
            require(wanted > free.size() && error.free == free.size(), "a full pool says so");
        }
    }

    void move(State before, State after,
              const std::function<void(std::span<const ChunkIndex>)>& act) {
        const Chunks some = some_chunks();
        const bool keeps_shared = after == State::kFree || after == State::kLoading;
        const bool is_right = are_in(some, before) && !(keeps_shared && is_any_shared(some));
        try {
            act(some);
            require(is_right, "chunks in other states are refused");
            set(some, after);
            if (after == State::kLoading) {
                loading_.push_back(some);
            }
        } catch (const ChunkStateError&) {
            require(!is_right, "chunks in the right state are taken");
        }
    }

    void end_loading() {
        if (loading_.empty()) {
            return;
        }
        pool_.end_loading(loading_.back());
        set(loading_.back(), State::kCached);
        loading_.pop_back();
    }

    void begin_sharing() {
        const Chunks some = some_chunks();
        const bool is_right = std::ranges::all_of(some, [&](ChunkIndex chunk) {
            return chunk < kChunks &&
                   (states_[chunk] == State::kCached || states_[chunk] == State::kBound);
        });
        try {
            pool_.begin_sharing(some);
            require(is_right, "only held chunks are shared");
            sharing_.push_back(some);
        } catch (const ChunkStateError&) {
            require(!is_right, "held chunks can be shared");
        }
    }

    void end_sharing() {
        if (!sharing_.empty()) {
            pool_.end_sharing(sharing_.back());
            sharing_.pop_back();
        }
    }

    void populate() {
        const auto chunk = static_cast<ChunkIndex>(input_.below(kChunks));
        pool_.populate(chunk, 0, kChunkBytes);
        std::ranges::fill(pool_.bytes(chunk), std::byte{1});
    }

    void check() {
        pool_.check_integrity();
        const Accounts accounts = pool_.accounts();
        require(accounts.free == those_in(State::kFree).size() &&
                    accounts.bound == those_in(State::kBound).size() &&
                    accounts.free + accounts.cached + accounts.bound == kChunks &&
                    accounts.total == kChunks,
                "accounts are those of the chunks");
    }

    Chunks some_chunks() {
        Chunks some(input_.below(5));
        for (ChunkIndex& chunk : some) {
            chunk = static_cast<ChunkIndex>(input_.below(kChunks + 1));
        }
        if (input_.one_in(64)) {
            some.push_back(static_cast<ChunkIndex>(input_.number(4)));
        }
        return some;
    }

    Chunks those_in(State state) const {
        Chunks found;
        for (ChunkIndex chunk = 0; chunk < kChunks; ++chunk) {
            if (states_[chunk] == state) {
                found.push_back(chunk);
            }
        }
        return found;
    }

    bool are_in(Chunks some, State state) const {
        std::ranges::sort(some);
        return std::ranges::adjacent_find(some) == some.end() &&
               std::ranges::all_of(some, [&](ChunkIndex chunk) {
                   return chunk < kChunks && states_[chunk] == state;
               });
    }

    bool is_any_shared(const Chunks& some) const {
        return std::ranges::any_of(sharing_, [&](const Chunks& shared) {
            return std::ranges::find_first_of(shared, some) != shared.end();
        });
    }

    void set(const Chunks& some, State state) {
        for (const ChunkIndex chunk : some) {
            states_[chunk] = state;
        }
    }

    fuzz::Input& input_;
    ChunkPool pool_{kChunks, kChunkBytes};
    std::array<State, kChunks> states_{};
    std::vector<Chunks> loading_;
    std::vector<Chunks> sharing_;
};

// Sizes that no machine has are refused, and nothing is computed from them that overflows.
void make_odd_pool(fuzz::Input& input) {
    const std::uint64_t n_chunks = input.extent();
    const std::uint64_t chunk_bytes = input.extent();
    if (n_chunks > kMostCounted && n_chunks <= std::numeric_limits<ChunkIndex>::max()) {
        return;  // Possible, and the accounts alone would take gigabytes.
    }
    try {
        ChunkPool pool(n_chunks, chunk_bytes);
        if (pool.n_chunks() == 0) {
            return;
        }
        const auto last = static_cast<ChunkIndex>(pool.n_chunks() - 1);
        pool.populate(last, pool.chunk_bytes() - 1, 1);
        pool.bytes(last).back() = std::byte{1};
        pool.check_integrity();
    } catch (const MemoryRefused&) {
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    if (input.one_in(8)) {
        make_odd_pool(input);
        return 0;
    }
    Model model(input);
    while (!input.is_empty()) {
        model.step();
    }
    model.give_all_back();
    return 0;
}
