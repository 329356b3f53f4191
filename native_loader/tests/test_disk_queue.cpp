#include <string>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/disk_queue.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::uint64_t kBlock = 10;

// Chunks of 20 bytes are two blocks each.
LanePlan lane(std::uint64_t load, std::size_t n_chunks, std::int64_t priority = 0) {
    LanePlan plan{.load = load, .priority = priority, .chunks = {}};
    for (std::size_t i = 0; i < n_chunks; ++i) {
        plan.chunks.push_back({.index = i, .length = 2 * kBlock});
    }
    return plan;
}

std::string order(DiskQueue& queue, int n_blocks = 1000) {
    std::string loads;
    for (int i = 0; i < n_blocks && queue.has_block(); ++i) {
        loads += std::to_string(queue.take().load);
    }
    return loads;
}

}  // namespace

TEST(cuts_chunks_into_blocks_in_order) {
    DiskQueue queue(kBlock);
    queue.add({.load = 1, .priority = 0, .chunks = {{.index = 7, .length = 25}}});

    const Block first = queue.take();
    const Block second = queue.take();
    const Block third = queue.take();

    CHECK_EQUAL(first.chunk, 7u);
    CHECK_EQUAL(first.offset, 0u);
    CHECK_EQUAL(second.offset, 10u);
    CHECK_EQUAL(second.number, 1u);
    CHECK_EQUAL(third.offset, 20u);
    CHECK_EQUAL(third.length, 5u);
    CHECK(!queue.has_block());
}

TEST(knows_how_many_bytes_are_left) {
    DiskQueue queue(kBlock);
    CHECK_EQUAL(queue.bytes_left(), 0u);
    queue.add({.load = 1, .priority = 0, .chunks = {{.index = 0, .length = 25}}});
    LanePlan waiting = lane(2, 1);
    waiting.n_granted = 0;
    queue.add(waiting);

    CHECK_EQUAL(queue.bytes_left(), 45u);
    CHECK_EQUAL(queue.take().length, 10u);
    CHECK_EQUAL(queue.bytes_left(), 35u);
    queue.remove(2);
    CHECK_EQUAL(queue.bytes_left(), 15u);
}

TEST(serves_equal_loads_one_after_the_other) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 2));
    queue.add(lane(2, 2));

    CHECK_EQUAL(order(queue), "11112222");
}

TEST(promotes_a_load_at_the_next_chunk) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 2));
    queue.add(lane(2, 1, -1));

    const std::string before = order(queue, 1);
    queue.promote(2, 1);
    queue.promote(3, 5);

    CHECK_EQUAL(before + order(queue), "112211");
}

TEST(serves_the_shorter_load_first) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 3));
    queue.add(lane(2, 1));

    CHECK_EQUAL(order(queue), "22111111");
}

TEST(serves_the_higher_priority_first_however_long) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 1));
    queue.add(lane(2, 2, 5));

    CHECK_EQUAL(order(queue), "222211");
}

TEST(is_interrupted_only_between_chunks) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 3));
    CHECK_EQUAL(order(queue, 1), "1");
    queue.add(lane(2, 1, 5));

    CHECK_EQUAL(order(queue, 1), "1");
    CHECK(!queue.take_interrupted().has_value());
    CHECK_EQUAL(order(queue, 1), "2");
    CHECK_EQUAL(queue.take_interrupted().value_or(0), 1u);
    CHECK_EQUAL(order(queue), "21111");
}

TEST(forgets_a_load_in_the_middle_of_a_chunk) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 2));
    queue.add(lane(2, 3));
    CHECK_EQUAL(order(queue, 1), "1");

    queue.remove(1);
    queue.remove(99);

    CHECK_EQUAL(order(queue), "222222");
}

TEST(stays_with_its_load_when_another_one_is_forgotten) {
    DiskQueue queue(kBlock);
    queue.add(lane(1, 3));
    queue.add(lane(2, 1, 5));
    CHECK_EQUAL(order(queue, 1), "2");

    queue.remove(1);

    CHECK_EQUAL(order(queue), "2");
}

TEST(holds_nothing_for_a_load_without_chunks) {
    DiskQueue queue(kBlock);

    queue.add(lane(1, 0));

    CHECK(!queue.has_block());
}

TEST(begins_no_more_chunks_than_granted) {
    DiskQueue queue(kBlock);
    LanePlan plan = lane(1, 3);
    plan.n_granted = 1;
    queue.add(plan);

    CHECK_EQUAL(order(queue), "11");
    queue.grant(2);
    CHECK(!queue.has_block());
    queue.grant(1);
    CHECK_EQUAL(order(queue), "11");
}

TEST(serves_another_load_while_the_first_may_not_begin) {
    DiskQueue queue(kBlock);
    LanePlan plan = lane(1, 3, 5);
    plan.n_granted = 1;
    queue.add(plan);
    queue.add(lane(2, 2));

    CHECK_EQUAL(order(queue, 4), "1122");
    queue.grant(1);
    CHECK_EQUAL(order(queue), "1122");
}
