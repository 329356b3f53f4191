#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "forbidden_calls.hpp"
#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

TEST(populates_nothing_until_asked) {
    const Arena arena(4 * kPopulateUnitBytes);

    CHECK_EQUAL(arena.populated_bytes(), 0u);
}

TEST(populates_the_units_that_a_range_touches_once) {
    Arena arena(4 * kPopulateUnitBytes);

    arena.populate(kPopulateUnitBytes - 1, 2);
    arena.populate(kPopulateUnitBytes, 1);

    CHECK_EQUAL(arena.populated_bytes(), 2 * kPopulateUnitBytes);
    CHECK(arena.huge_bytes() <= arena.populated_bytes());
    std::memset(arena.bytes().data(), 1, 2 * kPopulateUnitBytes);
}

TEST(populates_an_arena_smaller_than_a_unit) {
    Arena arena(8'192);

    arena.populate(0, 8'192);

    CHECK_EQUAL(arena.populated_bytes(), 8'192u);
    CHECK_EQUAL(arena.huge_bytes(), 0u);
}

TEST(populates_from_many_threads_once) {
    Arena arena(8 * kPopulateUnitBytes);
    std::vector<std::thread> threads;

    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] { arena.populate(0, arena.bytes().size()); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }

    CHECK_EQUAL(arena.populated_bytes(), 8 * kPopulateUnitBytes);
}

TEST(others_map_it_privately_but_never_write_or_resize_it) {
    const Arena arena(kPopulateUnitBytes);

    void* writable = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd(), 0);
    const int shared_errno = errno;
    void* own = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, arena.fd(), 0);

    CHECK(writable == MAP_FAILED);
    CHECK_EQUAL(shared_errno, EPERM);
    CHECK(own != MAP_FAILED);
    CHECK_EQUAL(::ftruncate(arena.fd(), 4096), -1);
    CHECK_EQUAL(::pwrite(arena.fd(), "x", 1, 0), -1);
    ::munmap(own, 4096);
}

TEST(an_address_range_is_aligned_to_a_unit) {
    const AddressRange range(12'288);

    CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(range.bytes().data()) % kPopulateUnitBytes, 0u);
    CHECK_EQUAL(range.bytes().size(), 12'288u);
}

TEST(populates_ahead_the_first_units_that_have_no_memory) {
    Arena arena(6 * kPopulateUnitBytes);
    arena.populate(kPopulateUnitBytes, 1);

    CHECK_EQUAL(arena.populate_ahead(2), 2u);
    CHECK_EQUAL(arena.populated_bytes(), 3 * kPopulateUnitBytes);
    std::memset(arena.bytes().data(), 1, 3 * kPopulateUnitBytes);
    CHECK_EQUAL(arena.populate_ahead(100), 3u);
    CHECK_EQUAL(arena.populated_bytes(), 6 * kPopulateUnitBytes);
    CHECK_EQUAL(arena.populate_ahead(1), 0u);
}

TEST(populates_ahead_of_others_that_populate_once) {
    Arena arena(32 * kPopulateUnitBytes);
    std::vector<std::thread> threads;

    for (int i = 0; i < 2; ++i) {
        threads.emplace_back([&] {
            while (arena.populated_bytes() < arena.bytes().size()) {
                if (arena.populate_ahead(1) == 0) {
                    std::this_thread::yield();
                }
            }
        });
        threads.emplace_back([&] { arena.populate(0, arena.bytes().size()); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }

    CHECK_EQUAL(arena.populated_bytes(), 32 * kPopulateUnitBytes);
}

TEST(says_that_there_is_no_memory_and_gives_it_later) {
    const int status = status_in_child([] {
        Arena arena(2 * kPopulateUnitBytes);
        forbid(SYS_madvise, ENOMEM);
        (void)CHECK_THROWS(MemoryRefused, arena.populate_ahead(1));
        const auto error = CHECK_THROWS(MemoryRefused, arena.populate(0, 1));
        CHECK_EQUAL(error.error_number, ENOMEM);
        CHECK_EQUAL(arena.populated_bytes(), 0u);
        return 0;
    });

    CHECK_EQUAL(status, 0);
}

TEST(gives_small_pages_where_there_are_no_huge_ones) {
    const int status = status_in_child([] {
        forbid_argument(SYS_madvise, 2, 25, EAGAIN);  // MADV_COLLAPSE
        Arena arena(8 * kPopulateUnitBytes);
        arena.populate(0, arena.bytes().size());
        CHECK_EQUAL(arena.populated_bytes(), arena.bytes().size());
        CHECK_EQUAL(arena.huge_bytes(), 0u);
        std::memset(arena.bytes().data(), 1, arena.bytes().size());
        return 0;
    });

    CHECK_EQUAL(status, 0);
}

TEST(populates_by_older_kernels_means) {
    const int status = status_in_child([] {
        forbid_argument(SYS_madvise, 2, 23, EINVAL);  // MADV_POPULATE_WRITE
        forbid_argument(SYS_madvise, 2, 25, EINVAL);  // MADV_COLLAPSE
        Arena arena(2 * kPopulateUnitBytes);
        arena.populate(0, arena.bytes().size());
        std::memset(arena.bytes().data(), 1, arena.bytes().size());
        return arena.populated_bytes() == arena.bytes().size() ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}

TEST(gives_memory_to_this_process_alone) {
    Arena arena(2 * kPopulateUnitBytes, std::nullopt, Sharing::kPrivate);

    CHECK(!arena.is_shared());
    CHECK_EQUAL(arena.fd(), -1);
    arena.populate(kPopulateUnitBytes, 1);
    CHECK_EQUAL(arena.populated_bytes(), kPopulateUnitBytes);
    CHECK_EQUAL(arena.populate_ahead(2), 1u);
    CHECK_EQUAL(arena.populated_bytes(), 2 * kPopulateUnitBytes);
    std::memset(arena.bytes().data(), 1, arena.bytes().size());
}

TEST(gives_private_memory_by_older_kernels_means) {
    const int status = status_in_child([] {
        forbid_argument(SYS_madvise, 2, 23, EINVAL);  // MADV_POPULATE_WRITE
        Arena arena(2 * kPopulateUnitBytes, std::nullopt, Sharing::kPrivate);
        arena.populate(0, arena.bytes().size());
        return arena.populated_bytes() == arena.bytes().size() ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}

TEST(lies_on_the_node_that_it_is_told) {
    const Arena arena(kPopulateUnitBytes, 0);

    const int error = prefer_node(arena.bytes(), 0);
    CHECK_EQUAL(arena.node_refusal(),
                error == 0 ? "" : std::string("node 0: ") + std::strerror(error));
}

TEST(says_why_it_does_not_lie_on_a_node_and_lies_elsewhere) {
    Arena arena(kPopulateUnitBytes, 1'000);

    arena.populate(0, kPopulateUnitBytes);

    CHECK(arena.node_refusal().starts_with("node 1000: "));
    CHECK_EQUAL(arena.populated_bytes(), kPopulateUnitBytes);
}

TEST(does_without_nodes_where_the_kernel_forbids_to_choose) {
    const int status = status_in_child([] {
        forbid(SYS_mbind, EPERM);
        const Arena arena(kPopulateUnitBytes, 0);
        return arena.node_refusal() == "node 0: Operation not permitted" ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}
