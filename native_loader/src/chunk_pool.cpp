#include "pilotlight/native/chunk_pool.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "pilotlight/native/error.hpp"
#include "pilotlight/native/source_file.hpp"

namespace pilotlight::native {

namespace {

constexpr const char* kUnknown = "not in the pool";

std::size_t checked_chunk_bytes(std::size_t chunk_bytes) {
    if (chunk_bytes == 0 || chunk_bytes % kDirectAlignment != 0) {
        throw std::invalid_argument("a chunk must be a multiple of 4096 bytes");
    }
    return chunk_bytes;
}

// Room for chunks that have numbers of their own, and for the arena's own alignment.
std::size_t checked_size(std::size_t n_chunks, std::size_t chunk_bytes) {
    constexpr std::size_t kMostBytes = std::numeric_limits<std::ptrdiff_t>::max() / 2;
    if (n_chunks > std::numeric_limits<ChunkIndex>::max() || n_chunks > kMostBytes / chunk_bytes) {
        throw MemoryRefused("mmap", ENOMEM);
    }
    return n_chunks * chunk_bytes;
}

}  // namespace

ChunkPool::ChunkPool(std::size_t n_chunks, std::size_t chunk_bytes, std::optional<unsigned> node,
                     Sharing sharing)
    : chunk_bytes_(checked_chunk_bytes(chunk_bytes)),
      arena_(checked_size(n_chunks, chunk_bytes_), node, sharing),
      states_(n_chunks, State::kFree),
      n_sharing_(n_chunks, 0),
      accounts_{.free = n_chunks, .cached = 0, .bound = 0, .total = n_chunks} {}

Accounts ChunkPool::accounts() const {
    const std::lock_guard lock(mutex_);
    return accounts_;
}

std::vector<ChunkIndex> ChunkPool::allocate(std::size_t n) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (n > accounts_.free) {
        throw PoolExhausted(n, accounts_.free, accounts_.cached, accounts_.bound);
    }
    std::vector<ChunkIndex> chunks;
    chunks.reserve(n);
    for (std::size_t i = 0; chunks.size() < n; ++i) {
        if (states_[i] == State::kFree) {
            chunks.push_back(static_cast<ChunkIndex>(i));
        }
    }
    move(chunks, State::kFree, State::kCached);
    return chunks;
}

void ChunkPool::bind(std::span<const ChunkIndex> chunks) {
    const std::lock_guard lock(mutex_);
    require_open();
    move(chunks, State::kCached, State::kBound);
}

void ChunkPool::unbind(std::span<const ChunkIndex> chunks) {
    const std::lock_guard lock(mutex_);
    require_open();
    move(chunks, State::kBound, State::kCached);
}

void ChunkPool::release(std::span<const ChunkIndex> chunks) {
    const std::lock_guard lock(mutex_);
    require_open();
    require_unshared(chunks);
    move(chunks, State::kCached, State::kFree);
}

void ChunkPool::begin_loading(std::span<const ChunkIndex> chunks) {
    const std::lock_guard lock(mutex_);
    require_open();
    require_unshared(chunks);
    move(chunks, State::kCached, State::kLoading);
    n_writing_ += chunks.size();
}

void ChunkPool::end_loading(std::span<const ChunkIndex> chunks) noexcept {
    const std::lock_guard lock(mutex_);
    for (const ChunkIndex chunk : chunks) {
        states_[chunk] = State::kCached;
    }
    n_writing_ -= chunks.size();
}

void ChunkPool::begin_sharing(std::span<const ChunkIndex> chunks) {
    const std::lock_guard lock(mutex_);
    require_open();
    for (const ChunkIndex chunk : chunks) {
        const bool is_known = chunk < states_.size();
        if (!is_known || (states_[chunk] != State::kCached && states_[chunk] != State::kBound)) {
            throw ChunkStateError(chunk, name(State::kCached),
                                  is_known ? name(states_[chunk]) : kUnknown);
        }
    }
    for (const ChunkIndex chunk : chunks) {
        ++n_sharing_[chunk];
    }
    n_writing_ += chunks.size();
}

void ChunkPool::end_sharing(std::span<const ChunkIndex> chunks) noexcept {
    const std::lock_guard lock(mutex_);
    for (const ChunkIndex chunk : chunks) {
        --n_sharing_[chunk];
    }
    n_writing_ -= chunks.size();
}

void ChunkPool::close() {
    const std::lock_guard lock(mutex_);
    if (n_writing_ != 0) {
        throw PoolBusy(n_writing_);
    }
    is_closed_ = true;
}

void ChunkPool::populate(ChunkIndex chunk, std::size_t offset, std::size_t length) {
    arena_.populate(chunk * chunk_bytes_ + offset, length);
}

std::size_t ChunkPool::populate_ahead(std::size_t length) {
    const std::size_t n_units = (length + kPopulateUnitBytes - 1) / kPopulateUnitBytes;
    return arena_.populate_ahead(n_units) * kPopulateUnitBytes;
}

std::span<std::byte> ChunkPool::bytes(ChunkIndex chunk) const noexcept {
    return arena_.bytes().subspan(chunk * chunk_bytes_, chunk_bytes_);
}

void ChunkPool::check_integrity() const {
    const std::lock_guard lock(mutex_);
    const auto count = [&](State state) {
        return static_cast<std::size_t>(std::ranges::count(states_, state));
    };
    const auto n_shared = std::accumulate(n_sharing_.begin(), n_sharing_.end(), std::size_t{0});
    const bool is_sound = count(State::kFree) == accounts_.free &&
                          count(State::kCached) + count(State::kLoading) == accounts_.cached &&
                          count(State::kBound) == accounts_.bound &&
                          count(State::kLoading) + n_shared == n_writing_ &&
                          accounts_.free + accounts_.cached + accounts_.bound == accounts_.total;
    if (!is_sound) {
        throw std::logic_error("the pool's accounts differ from its chunks");
    }
}

const char* ChunkPool::name(State state) noexcept {
    switch (state) {
        case State::kFree:
            return "free";
        case State::kCached:
            return "cached";
        case State::kLoading:
            return "loading";
        case State::kBound:
            return "bound";
    }
    return "unknown";
}

std::size_t& ChunkPool::account(State state) noexcept {
    switch (state) {
        case State::kFree:
            return accounts_.free;
        case State::kBound:
            return accounts_.bound;
        case State::kCached:
        case State::kLoading:
            break;
    }
    return accounts_.cached;
}

void ChunkPool::move(std::span<const ChunkIndex> chunks, State from, State to) {
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const ChunkIndex chunk = chunks[i];
        const bool is_known = chunk < states_.size();
        if (is_known && states_[chunk] == from) {
            states_[chunk] = to;  // A chunk that is named twice is now found in a wrong state.
            continue;
        }
        const char* actual = is_known ? name(states_[chunk]) : kUnknown;
        for (const ChunkIndex moved : chunks.first(i)) {
            states_[moved] = from;
        }
        throw ChunkStateError(chunk, name(from), actual);
    }
    account(from) -= chunks.size();
    account(to) += chunks.size();
}

void ChunkPool::require_unshared(std::span<const ChunkIndex> chunks) const {
    for (const ChunkIndex chunk : chunks) {
        if (chunk < states_.size() && n_sharing_[chunk] != 0) {
            throw ChunkStateError(chunk, name(State::kCached), name(State::kLoading));
        }
    }
}

void ChunkPool::require_open() const {
    if (is_closed_) {
        throw PoolClosed();
    }
}

}  // namespace pilotlight::native
