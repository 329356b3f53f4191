#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <fstream>

#include "check.hpp"
#include "files.hpp"
#include "forbidden_calls.hpp"
#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/memory_nodes.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
using Nodes = std::vector<unsigned>;
using Stripes = std::vector<NodeStripe>;

// Where the kernel knows no nodes, or lets nobody choose.
bool is_refusal(int error) {
    return error == ENOSYS || error == EPERM;
}

void write_text(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
}

}  // namespace

TEST(reads_lists_of_nodes) {
    CHECK(parse_node_list("0") == Nodes{0});
    CHECK(parse_node_list("0-3") == (Nodes{0, 1, 2, 3}));
    CHECK(parse_node_list("0,2-3,7") == (Nodes{0, 2, 3, 7}));
}

TEST(reads_nothing_from_what_is_no_list) {
    for (const char* text : {"", "-", "x", "1-", "0,,1", "0 1", "-1", "0-99999999999", "1024"}) {
        CHECK(parse_node_list(text).empty());
    }
}

TEST(finds_the_nodes_that_this_process_may_use) {
    const TemporaryDirectory directory;
    write_text(directory / "has_memory", "0,900-901\n");

    if (const Nodes nodes = memory_nodes(directory / ""); !nodes.empty()) {
        CHECK(nodes == Nodes{0});
    }
    CHECK(memory_nodes(directory / "none").empty());
}

TEST(finds_no_nodes_where_the_kernel_does_not_tell) {
    const int status = status_in_child([] {
        forbid(SYS_get_mempolicy, ENOSYS);
        return memory_nodes().empty() ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}

TEST(deals_memory_out_to_nodes_in_turn) {
    CHECK(stripes(40 * kMiB, Nodes{0, 3}) ==
          (Stripes{{0, 16 * kMiB, 0}, {16 * kMiB, 16 * kMiB, 3}, {32 * kMiB, 8 * kMiB, 0}}));
    CHECK(stripes(40 * kMiB, Nodes{5}) == (Stripes{{0, 40 * kMiB, 5}}));
    CHECK(stripes(40 * kMiB, Nodes{}).empty());
}

TEST(deals_much_memory_out_in_longer_stripes_of_whole_units) {
    const Stripes all = stripes((std::size_t{1} << 40) + 4096, Nodes{0, 1});

    CHECK(all.size() <= 1024);
    CHECK(all.size() > 1000);
    CHECK_EQUAL(all.back().offset + all.back().length, (std::size_t{1} << 40) + 4096);
    for (const NodeStripe& stripe : all) {
        CHECK_EQUAL(stripe.offset % kPopulateUnitBytes, 0u);
    }
}

TEST(prefers_a_node_or_says_why_not) {
    const Room room(kMiB);

    const int error = prefer_node(room.bytes(), 0);
    CHECK(error == 0 || is_refusal(error));
    const int no_such_node = prefer_node(room.bytes(), 1'000);
    CHECK(no_such_node == EINVAL || is_refusal(no_such_node));
    CHECK_EQUAL(prefer_node(room.bytes(), 1'000'000), EINVAL);
}

TEST(spreads_an_arena_over_the_nodes_of_the_machine) {
    const TemporaryDirectory directory;
    write_text(directory / "has_memory", "0\n");

    const Arena arena(kPopulateUnitBytes, std::nullopt, Sharing::kShared, directory / "");

    CHECK_EQUAL(arena.node_refusal(), "");
}
