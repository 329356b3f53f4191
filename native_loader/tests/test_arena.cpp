#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
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
