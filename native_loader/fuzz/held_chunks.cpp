#include "held_chunks.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "pilotlight/native/error.hpp"
#include "pilotlight/native/source_file.hpp"
#include "verdict.hpp"

namespace fuzz {

using namespace pilotlight::native;

namespace {

bool may_run(const std::shared_ptr<Load>& load) {
    return load && !load->is_done();
}

}  // namespace

HeldChunks::HeldChunks(std::shared_ptr<ChunkPool> pool)
    : pool_(std::move(pool)), chunks_(pool_->n_chunks()) {
    for (Chunk& chunk : chunks_) {
        chunk.pages.resize(pool_->chunk_bytes() / kDirectAlignment);
    }
}

void HeldChunks::allocate(Input& input) {
    const std::size_t wanted = input.below(n_chunks() + 2);
    const std::vector<ChunkIndex> free = those_in(State::kFree);
    try {
        const std::vector<ChunkIndex> got = pool_->allocate(wanted);
        require(wanted <= free.size() && std::ranges::equal(got, std::span(free).first(wanted)),
                "the lowest free chunks are taken");
        for (const ChunkIndex chunk : got) {
            chunks_[chunk].state = State::kCached;
        }
    } catch (const PoolExhausted&) {
        require(wanted > free.size(), "free chunks can be had");
    }
}

void HeldChunks::move(Input& input) {
    using Verb = void (ChunkPool::*)(std::span<const ChunkIndex>);
    struct Way {
        Verb verb;
        State before;
        State after;
    };
    static constexpr std::array<Way, 3> kWays{
        Way{&ChunkPool::bind, State::kCached, State::kBound},
        Way{&ChunkPool::unbind, State::kBound, State::kCached},
        Way{&ChunkPool::release, State::kCached, State::kFree}};
    const Way& way = kWays[input.below(kWays.size())];
    std::vector<ChunkIndex> some(input.below(4));
    for (ChunkIndex& chunk : some) {
        chunk = static_cast<ChunkIndex>(input.below(n_chunks() + 1));
    }
    const Answer answer = expected(some, way.before, way.after);
    try {
        ((*pool_).*way.verb)(some);
        require(answer.may_be_yes, "chunks that loads use, or of another state, are refused");
        for (const ChunkIndex chunk : some) {
            chunks_[chunk].state = way.after;
        }
    } catch (const ChunkStateError&) {
        require(answer.may_be_no, "chunks that no load uses can be moved");
    }
}

void HeldChunks::release_all() {
    const std::vector<ChunkIndex> bound = those_in(State::kBound);
    pool_->unbind(bound);
    for (const ChunkIndex chunk : bound) {
        chunks_[chunk].state = State::kCached;
    }
    pool_->release(those_in(State::kCached));
    for (Chunk& chunk : chunks_) {
        chunk.state = State::kFree;
    }
    check();
    require(pool_->accounts().free == n_chunks(), "no chunk is lost");
}

void HeldChunks::check() const {
    pool_->check_integrity();
    const Accounts accounts = pool_->accounts();
    require(accounts.free == those_in(State::kFree).size() &&
                accounts.cached == those_in(State::kCached).size() &&
                accounts.bound == those_in(State::kBound).size() && accounts.total == n_chunks(),
            "accounts are what the caller knows");
}

bool HeldChunks::is_held(std::size_t chunk) const {
    return chunks_[chunk].state != State::kFree;
}

bool HeldChunks::is_cached(std::size_t chunk) const {
    return chunks_[chunk].state == State::kCached;
}

bool HeldChunks::is_used(std::size_t chunk, std::size_t first_page, std::size_t n_pages) const {
    const auto pages = std::span(chunks_[chunk].pages).subspan(first_page, n_pages);
    return std::ranges::any_of(pages, [](const Page& page) { return may_run(page.load); });
}

bool HeldChunks::is_shared(std::size_t chunk, std::size_t first_page, std::size_t n_pages) const {
    const auto pages = std::span(chunks_[chunk].pages).subspan(first_page, n_pages);
    return std::ranges::any_of(
        pages, [](const Page& page) { return page.is_shared && may_run(page.load); });
}

void HeldChunks::use(std::size_t chunk, std::size_t first_page, std::size_t n_pages,
                     const std::shared_ptr<Load>& load, bool is_shared) {
    for (Page& page : std::span(chunks_[chunk].pages).subspan(first_page, n_pages)) {
        page = {load, is_shared};
    }
}

bool HeldChunks::was_last(std::size_t chunk, std::size_t first_page, std::size_t n_pages,
                          const Load& load) const {
    const auto pages = std::span(chunks_[chunk].pages).subspan(first_page, n_pages);
    return std::ranges::all_of(pages, [&](const Page& page) { return page.load.get() == &load; });
}

HeldChunks::Answer HeldChunks::expected(std::span<const ChunkIndex> some, State before,
                                        State after) const {
    std::vector<ChunkIndex> sorted(some.begin(), some.end());
    std::ranges::sort(sorted);
    const bool is_right = std::ranges::adjacent_find(sorted) == sorted.end() &&
                          std::ranges::all_of(sorted, [&](ChunkIndex chunk) {
                              return chunk < n_chunks() && chunks_[chunk].state == before;
                          });
    if (!is_right) {
        return {.may_be_yes = false, .may_be_no = true};
    }
    // A bound chunk may be shared, and one that is shared be bound or not.
    const bool may_be_busy = std::ranges::any_of(sorted, [&](ChunkIndex chunk) {
        return std::ranges::any_of(chunks_[chunk].pages, [&](const Page& page) {
            return may_run(page.load) && (!page.is_shared || after == State::kFree);
        });
    });
    return {.may_be_yes = true, .may_be_no = may_be_busy};
}

std::vector<ChunkIndex> HeldChunks::those_in(State state) const {
    std::vector<ChunkIndex> found;
    for (std::size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
        if (chunks_[chunk].state == state) {
            found.push_back(static_cast<ChunkIndex>(chunk));
        }
    }
    return found;
}

}  // namespace fuzz
