// What a caller of the loader knows of a pool's chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "input.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/load.hpp"

namespace fuzz {

/// Moves chunks between accounts and knows which loads use which pages of them. Loads end when
/// they like, so what the pool has to answer is sometimes either of two things. Not thread-safe.
class HeldChunks {
  public:
    explicit HeldChunks(std::shared_ptr<pilotlight::native::ChunkPool> pool);

    /// Move some chunks, right or wrong ones, as the input says, and look at the answer.
    void move(Input& input);
    void allocate(Input& input);
    /// Give all chunks back, once no load uses any: all of them must come back.
    void release_all();
    void check() const;

    [[nodiscard]] std::size_t n_chunks() const noexcept { return chunks_.size(); }
    /// Whether the caller holds the chunk, bound or cached.
    [[nodiscard]] bool is_held(std::size_t chunk) const;
    [[nodiscard]] bool is_cached(std::size_t chunk) const;
    /// Whether a load that may still run uses one of the pages.
    [[nodiscard]] bool is_used(std::size_t chunk, std::size_t first_page,
                               std::size_t n_pages) const;
    /// Whether it shares one of them with other loads.
    [[nodiscard]] bool is_shared(std::size_t chunk, std::size_t first_page,
                                 std::size_t n_pages) const;

    void use(std::size_t chunk, std::size_t first_page, std::size_t n_pages,
             const std::shared_ptr<pilotlight::native::Load>& load, bool is_shared);
    /// Whether the load was the last one that was given all of these pages.
    [[nodiscard]] bool was_last(std::size_t chunk, std::size_t first_page, std::size_t n_pages,
                                const pilotlight::native::Load& load) const;

  private:
    enum class State : std::uint8_t { kFree, kCached, kBound };

    struct Page {
        std::shared_ptr<pilotlight::native::Load> load;
        bool is_shared = false;
    };

    struct Chunk {
        State state = State::kFree;
        std::vector<Page> pages;
    };

    struct Answer {
        bool may_be_yes = true;
        bool may_be_no = false;
    };

    [[nodiscard]] Answer expected(std::span<const pilotlight::native::ChunkIndex> some,
                                  State before, State after) const;
    [[nodiscard]] std::vector<pilotlight::native::ChunkIndex> those_in(State state) const;

    const std::shared_ptr<pilotlight::native::ChunkPool> pool_;
    std::vector<Chunk> chunks_;
};

}  // namespace fuzz
