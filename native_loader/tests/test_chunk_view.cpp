#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/chunk_view.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kChunk = 4096;
using Chunks = std::vector<ChunkIndex>;

std::unique_ptr<ChunkPool> numbered_pool(std::size_t n_chunks) {
    auto pool = std::make_unique<ChunkPool>(n_chunks, kChunk);
    for (ChunkIndex chunk = 0; chunk < n_chunks; ++chunk) {
        pool->populate(chunk, 0, kChunk);
        std::memset(pool->bytes(chunk).data(), static_cast<int>(chunk), kChunk);
    }
    return pool;
}

}  // namespace

TEST(shows_chunks_in_the_order_given) {
    const auto pool = numbered_pool(8);

    const ChunkView view(pool->fd(), kChunk, Chunks{5, 6, 1, 0}, 4 * kChunk - 7);

    CHECK_EQUAL(view.bytes().size(), 4 * kChunk - 7);
    CHECK(view.bytes()[0] == std::byte{5});
    CHECK(view.bytes()[kChunk] == std::byte{6});
    CHECK(view.bytes()[2 * kChunk] == std::byte{1});
    CHECK(view.bytes().back() == std::byte{0});
}

TEST(keeps_what_is_written_to_itself) {
    const auto pool = numbered_pool(2);
    const ChunkView view(pool->fd(), kChunk, Chunks{1}, kChunk);

    view.bytes()[0] = std::byte{99};

    CHECK(pool->bytes(1)[0] == std::byte{1});
}

TEST(outlives_the_pool) {
    auto pool = numbered_pool(4);
    const ChunkView view(pool->fd(), kChunk, Chunks{3}, kChunk);

    pool.reset();

    CHECK(view.bytes()[17] == std::byte{3});
}

TEST(shows_private_chunks_where_they_are) {
    auto pool = std::make_shared<ChunkPool>(4, kChunk, std::nullopt, Sharing::kPrivate);
    pool->populate(2, 0, kChunk);
    pool->bytes(2)[7] = std::byte{42};

    const ChunkView view(pool, Chunks{1, 2}, 2 * kChunk - 9, 7);
    const std::byte* shown = view.bytes().data();

    CHECK_EQUAL(pool->fd(), -1);
    CHECK(shown == pool->bytes(1).data() + 7);
    CHECK_EQUAL(view.bytes().size(), 2 * kChunk - 9);
    pool.reset();
    CHECK(view.bytes()[kChunk] == std::byte{42});
}

TEST(shows_no_private_chunks_that_lie_apart) {
    const auto pool = std::make_shared<ChunkPool>(4, kChunk, std::nullopt, Sharing::kPrivate);

    (void)CHECK_THROWS(std::invalid_argument, (ChunkView(pool, Chunks{0, 2}, kChunk)));
    (void)CHECK_THROWS(std::invalid_argument, (ChunkView(pool, Chunks{1, 0}, kChunk)));
    (void)CHECK_THROWS(std::invalid_argument, (ChunkView(pool, Chunks{4}, kChunk)));
    (void)CHECK_THROWS(std::invalid_argument, (ChunkView(pool, Chunks{0}, kChunk, 1)));
    CHECK(ChunkView(pool, Chunks{}, 0).bytes().empty());
}

TEST(shows_a_file_that_begins_within_a_chunk) {
    constexpr std::size_t kLarge = 2 * kPopulateUnitBytes;
    ChunkPool pool(3, kLarge);
    pool.populate(1, 0, kLarge);
    const std::size_t offset = kPopulateUnitBytes + 3 * kChunk;
    pool.bytes(1)[offset] = std::byte{7};
    pool.bytes(1)[offset + 2 * kChunk - 1] = std::byte{8};

    const ChunkView view(pool.fd(), kLarge, Chunks{1}, 2 * kChunk, offset);

    CHECK_EQUAL(view.bytes().size(), 2 * kChunk);
    CHECK(view.bytes().front() == std::byte{7});
    CHECK(view.bytes().back() == std::byte{8});
    const auto address = reinterpret_cast<std::uintptr_t>(view.bytes().data());
    CHECK_EQUAL(address % kPopulateUnitBytes, 3 * kChunk);
}

TEST(shows_a_file_across_chunks_from_within_the_first) {
    const auto pool = numbered_pool(8);

    const ChunkView view(pool->fd(), kChunk, Chunks{5, 6, 1}, 2 * kChunk, kChunk - 10);

    CHECK(view.bytes()[9] == std::byte{5});
    CHECK(view.bytes()[10] == std::byte{6});
    CHECK(view.bytes()[10 + kChunk] == std::byte{1});
}

TEST(shows_nothing_at_the_end_of_the_chunks) {
    const auto pool = numbered_pool(2);

    CHECK(ChunkView(pool->fd(), kChunk, Chunks{1}, 0, kChunk).bytes().empty());
    CHECK(ChunkView(pool->fd(), kChunk, Chunks{}, 0).bytes().empty());
}

TEST(refuses_an_offset_outside_the_chunks) {
    const auto pool = numbered_pool(4);

    for (const std::size_t offset : {kChunk, 2 * kChunk, SIZE_MAX}) {
        (void)CHECK_THROWS(std::invalid_argument,
                           ChunkView(pool->fd(), kChunk, Chunks{1}, 1, offset));
    }
}

TEST(refuses_chunks_outside_the_pool) {
    const auto pool = numbered_pool(4);

    (void)CHECK_THROWS(std::invalid_argument, ChunkView(pool->fd(), kChunk, Chunks{4}, kChunk));
}

TEST(refuses_a_file_longer_than_its_chunks) {
    const auto pool = numbered_pool(4);

    (void)CHECK_THROWS(std::invalid_argument, ChunkView(pool->fd(), kChunk, Chunks{1}, kChunk + 1));
}

TEST(reports_a_descriptor_that_is_none) {
    (void)CHECK_THROWS(MemoryRefused, ChunkView(-1, kChunk, Chunks{0}, kChunk));
}
