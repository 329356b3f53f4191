#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kChunk = 4096;
using Chunks = std::vector<ChunkIndex>;

void check_accounts(const ChunkPool& pool, std::size_t free, std::size_t cached,
                    std::size_t bound) {
    const Accounts accounts = pool.accounts();
    CHECK_EQUAL(accounts.free, free);
    CHECK_EQUAL(accounts.cached, cached);
    CHECK_EQUAL(accounts.bound, bound);
    CHECK_EQUAL(accounts.total, pool.n_chunks());
    pool.check_integrity();
}

}  // namespace

TEST(moves_chunks_between_accounts) {
    ChunkPool pool(8, kChunk);

    const Chunks chunks = pool.allocate(3);
    check_accounts(pool, 5, 3, 0);
    pool.bind(chunks);
    check_accounts(pool, 5, 0, 3);
    pool.unbind(chunks);
    check_accounts(pool, 5, 3, 0);
    pool.release(chunks);
    check_accounts(pool, 8, 0, 0);
}

TEST(allocates_the_lowest_free_chunks) {
    ChunkPool pool(8, kChunk);
    (void)pool.allocate(4);
    pool.release(Chunks{1, 2});

    CHECK(pool.allocate(3) == (Chunks{1, 2, 4}));
}

TEST(allocates_all_or_nothing) {
    ChunkPool pool(4, kChunk);
    (void)pool.allocate(3);

    const auto error = CHECK_THROWS(PoolExhausted, pool.allocate(2));

    CHECK_EQUAL(error.wanted, 2u);
    CHECK_EQUAL(error.free, 1u);
    check_accounts(pool, 1, 3, 0);
}

TEST(changes_nothing_when_one_chunk_is_in_a_wrong_state) {
    ChunkPool pool(4, kChunk);
    (void)pool.allocate(2);

    const auto error = CHECK_THROWS(ChunkStateError, pool.bind(Chunks{0, 1, 2}));

    CHECK_EQUAL(error.chunk, 2u);
    CHECK_EQUAL(error.expected, "cached");
    CHECK_EQUAL(error.actual, "free");
    check_accounts(pool, 2, 2, 0);
}

TEST(refuses_a_chunk_that_is_named_twice_or_unknown) {
    ChunkPool pool(4, kChunk);
    (void)pool.allocate(2);

    (void)CHECK_THROWS(ChunkStateError, pool.release(Chunks{0, 0}));
    (void)CHECK_THROWS(ChunkStateError, pool.release(Chunks{0, 99}));

    check_accounts(pool, 2, 2, 0);
}

TEST(keeps_chunks_that_are_being_written) {
    ChunkPool pool(4, kChunk);
    const Chunks chunks = pool.allocate(2);
    pool.begin_loading(chunks);

    CHECK_EQUAL(CHECK_THROWS(ChunkStateError, pool.release(chunks)).actual, "loading");
    (void)CHECK_THROWS(ChunkStateError, pool.bind(chunks));
    (void)CHECK_THROWS(ChunkStateError, pool.begin_loading(chunks));
    CHECK_EQUAL(CHECK_THROWS(PoolBusy, pool.close()).n_chunks, 2u);

    check_accounts(pool, 2, 2, 0);
    pool.end_loading(chunks);
    pool.release(chunks);
    check_accounts(pool, 4, 0, 0);
}

TEST(refuses_everything_once_closed) {
    ChunkPool pool(4, kChunk);
    pool.close();

    (void)CHECK_THROWS(PoolClosed, pool.allocate(1));
    (void)CHECK_THROWS(PoolClosed, pool.release(Chunks{}));
}

TEST(refuses_chunks_that_are_not_whole_pages) {
    (void)CHECK_THROWS(std::invalid_argument, ChunkPool(4, 1000));
}

TEST(keeps_its_accounts_when_many_threads_use_it) {
    ChunkPool pool(64, kChunk);
    std::vector<std::thread> threads;

    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&pool, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 500; ++i) {
                try {
                    const Chunks chunks = pool.allocate(1 + random() % 24);
                    pool.bind(chunks);
                    pool.unbind(chunks);
                    pool.release(chunks);
                } catch (const PoolExhausted&) {
                    std::this_thread::yield();
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }

    check_accounts(pool, 64, 0, 0);
}

TEST(refuses_sizes_that_no_memory_has) {
    constexpr std::size_t kHuge = std::size_t{1} << 63;

    (void)CHECK_THROWS(MemoryRefused, ChunkPool(2, kHuge + 4096));
    (void)CHECK_THROWS(MemoryRefused, ChunkPool((std::size_t{1} << 52) + 1, 4096));
    (void)CHECK_THROWS(MemoryRefused, ChunkPool(std::size_t{1} << 32, 4096));
}

TEST(shares_chunks_that_are_in_use) {
    ChunkPool pool(2, 4096);
    const std::vector<ChunkIndex> chunks = pool.allocate(2);
    const std::vector twice{chunks[0], chunks[0]};

    pool.begin_sharing(twice);
    pool.bind(std::vector{chunks[0]});
    pool.unbind(std::vector{chunks[0]});

    CHECK_EQUAL(CHECK_THROWS(ChunkStateError, pool.release(chunks)).actual, "loading");
    (void)CHECK_THROWS(ChunkStateError, pool.begin_loading(chunks));
    CHECK_EQUAL(CHECK_THROWS(PoolBusy, pool.close()).n_chunks, 2u);
    pool.check_integrity();
    pool.end_sharing(twice);
    pool.release(chunks);
    (void)CHECK_THROWS(ChunkStateError, pool.begin_sharing(chunks));
    (void)CHECK_THROWS(ChunkStateError, pool.begin_sharing(std::vector<ChunkIndex>{7}));
    pool.check_integrity();
}
