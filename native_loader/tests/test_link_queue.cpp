#include <string>

#include "check.hpp"
#include "pilotlight/native/link_queue.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::uint64_t kChunk = 10;

void push(LinkQueue& queue, std::uint64_t load, std::size_t n_chunks) {
    for (std::size_t i = 0; i < n_chunks; ++i) {
        queue.push({.load = load, .chunk = i, .copies = 0, .length = kChunk});
    }
}

std::string order(LinkQueue& queue, int n_copies = 1000) {
    std::string loads;
    for (int i = 0; i < n_copies && queue.has_copy(); ++i) {
        loads += std::to_string(queue.take().load);
    }
    return loads;
}

}  // namespace

TEST(serves_loads_by_priority_then_bytes_left_then_order) {
    LinkQueue queue;
    queue.add(1, 0, 3 * kChunk);
    queue.add(2, 0, kChunk);
    queue.add(3, 0, kChunk);
    queue.add(4, 7, 3 * kChunk);
    for (const std::uint64_t load : {1u, 2u, 3u, 4u}) {
        push(queue, load, load == 1 || load == 4 ? 3 : 1);
    }

    CHECK_EQUAL(order(queue), "44423111");
}

TEST(serves_another_load_while_the_first_has_nothing_ready) {
    LinkQueue queue;
    queue.add(1, 5, 2 * kChunk);
    queue.add(2, 0, 2 * kChunk);
    push(queue, 2, 2);

    const std::string before = order(queue, 1);
    push(queue, 1, 2);

    CHECK_EQUAL(before + order(queue), "2112");
}

TEST(hands_a_loads_chunks_out_in_order) {
    LinkQueue queue;
    queue.add(1, 0, 2 * kChunk);
    push(queue, 1, 2);

    CHECK_EQUAL(queue.take().chunk, 0u);
    CHECK_EQUAL(queue.take().chunk, 1u);
}

TEST(promotes_and_forgets_loads) {
    LinkQueue queue;
    queue.add(1, 0, kChunk);
    queue.add(2, 0, 2 * kChunk);
    queue.add(3, 9, kChunk);
    push(queue, 1, 1);
    push(queue, 2, 2);
    push(queue, 3, 1);

    queue.promote(2, 8);
    queue.remove(3);
    queue.promote(99, 1);
    queue.remove(99);
    push(queue, 3, 1);

    CHECK_EQUAL(order(queue), "221");
}
