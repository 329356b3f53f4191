#include <poll.h>

#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/loader.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kChunk = std::size_t{64} << 10;
constexpr std::size_t kBlock = std::size_t{8} << 10;
constexpr Seconds kDeadline{30};

struct Fixture {
    TemporaryDirectory directory;
    std::shared_ptr<ChunkPool> pool = std::make_shared<ChunkPool>(256, kChunk);
    Loader loader{pool, 4, kBlock};

    // A plan for one file, chunk by chunk, into newly allocated chunks of the pool.
    LoadPlan plan_for(const std::string& name) {
        const std::string path = directory / name;
        const FileIdentity identity = identity_of(path);
        LoadPlan plan{.files = {{.path = path, .identity = identity}}, .chunks = {}};
        const std::size_t n_chunks = (identity.size_bytes + kChunk - 1) / kChunk;
        const std::vector<ChunkIndex> targets = pool->allocate(n_chunks);
        for (std::uint32_t i = 0; i < n_chunks; ++i) {
            const std::uint64_t offset = i * kChunk;
            plan.chunks.push_back({.file = 0,
                                   .offset = offset,
                                   .length = std::min(kChunk, identity.size_bytes - offset),
                                   .number = i,
                                   .target = targets[i],
                                   .expected_crc32c = {}});
        }
        return plan;
    }

    bool holds(const LoadPlan& plan, const std::vector<std::byte>& bytes) const {
        std::span<const std::byte> left = bytes;
        for (const ChunkPlan& chunk : plan.chunks) {
            const auto held = pool->bytes(chunk.target).first(chunk.length);
            if (std::memcmp(held.data(), left.data(), held.size()) != 0) {
                return false;
            }
            left = left.subspan(held.size());
        }
        return left.empty();
    }
};

const LoadOutcome& outcome_of(const Load& load) {
    CHECK(load.wait(kDeadline));
    return load.outcome();
}

bool is_readable(int fd) {
    pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&poll, 1, 0) == 1;
}

}  // namespace

TEST(reads_a_file_into_its_chunks) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(5 * kChunk + 777);
    write_file(f.directory / "a", bytes);
    const LoadPlan plan = f.plan_for("a");

    const auto load = f.loader.submit(plan);
    const LoadOutcome& outcome = outcome_of(*load);

    CHECK(f.holds(plan, bytes));
    CHECK_EQUAL(outcome.bytes_read, bytes.size());
    CHECK_EQUAL(load->progress().done_bytes, bytes.size());
    CHECK_EQUAL(outcome.crc32c.size(), 6u);
    CHECK_EQUAL(outcome.crc32c[1], crc32c(std::span(bytes).subspan(kChunk, kChunk)));
    CHECK_EQUAL(outcome.crc32c[5], crc32c(std::span(bytes).last(777)));
    CHECK(outcome.busy.count() > 0);
    f.pool->check_integrity();
}

TEST(announces_the_end_once) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100));

    const auto load = f.loader.submit(f.plan_for("a"));
    CHECK(load->wait(kDeadline));

    CHECK(is_readable(f.loader.completion_fd()));
    CHECK_EQUAL(f.loader.finished().size(), 1u);
    CHECK(!is_readable(f.loader.completion_fd()));
    CHECK(f.loader.finished().empty());
}

TEST(accepts_right_checksums_and_names_the_chunk_of_a_wrong_one) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(2 * kChunk);
    write_file(f.directory / "a", bytes);
    LoadPlan plan = f.plan_for("a");
    plan.chunks[0].expected_crc32c = crc32c(std::span(bytes).first(kChunk));
    plan.chunks[1].expected_crc32c = 0x12345678;

    const auto load = f.loader.submit(plan);
    const auto error = CHECK_THROWS(ChecksumMismatch, outcome_of(*load));

    CHECK_EQUAL(error.file, f.directory / "a");
    CHECK_EQUAL(error.chunk, 1u);
    CHECK_EQUAL(error.expected, 0x12345678u);
}

TEST(fails_when_the_file_is_not_what_it_was) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(3 * kChunk));
    const LoadPlan plan = f.plan_for("a");
    std::filesystem::resize_file(f.directory / "a", kChunk);

    const auto load = f.loader.submit(plan);

    (void)CHECK_THROWS(FileChanged, outcome_of(*load));
    CHECK_EQUAL(f.pool->accounts().cached, 3u);
    CHECK_EQUAL(f.loader.finished().size(), 1u);
}

TEST(cancels_a_load_that_waits_for_another_one) {
    Fixture f;
    write_file(f.directory / "long", random_bytes(100 * kChunk));
    write_file(f.directory / "low", random_bytes(100 * kChunk, 2));
    LoadPlan plan = f.plan_for("low");
    plan.priority = -1;
    const auto first = f.loader.submit(f.plan_for("long"));
    const auto second = f.loader.submit(plan);

    f.loader.cancel(second);

    (void)CHECK_THROWS(LoadCancelled, outcome_of(*second));
    CHECK_EQUAL(outcome_of(*first).bytes_read, 100 * kChunk);
}

TEST(frees_the_chunks_of_a_cancelled_load) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100 * kChunk));
    const LoadPlan plan = f.plan_for("a");
    const auto load = f.loader.submit(plan);

    f.loader.cancel(load);
    CHECK(load->wait(kDeadline));
    std::vector<ChunkIndex> targets;
    for (const ChunkPlan& chunk : plan.chunks) {
        targets.push_back(chunk.target);
    }
    f.pool->release(targets);

    CHECK_EQUAL(f.pool->accounts().free, 256u);
}

TEST(cancelling_after_the_end_changes_nothing) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100));
    const auto load = f.loader.submit(f.plan_for("a"));
    CHECK(load->wait(kDeadline));

    f.loader.cancel(load);

    CHECK_EQUAL(load->outcome().bytes_read, 100u);
}

TEST(refuses_chunks_that_are_not_held_for_it) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100));
    LoadPlan plan = f.plan_for("a");
    f.pool->release(std::vector{plan.chunks[0].target});

    (void)CHECK_THROWS(ChunkStateError, f.loader.submit(plan));
    CHECK_EQUAL(f.pool->accounts().cached, 0u);
}

TEST(refuses_plans_that_make_no_sense) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100));
    LoadPlan plan = f.plan_for("a");
    plan.chunks[0].length = kChunk + 1;

    (void)CHECK_THROWS(std::invalid_argument, f.loader.submit(plan));
    (void)CHECK_THROWS(std::invalid_argument, Loader(f.pool, 4, 1000));
    (void)CHECK_THROWS(std::invalid_argument, Loader(f.pool, 0, kBlock));
}

TEST(ends_at_once_with_nothing_to_read) {
    Fixture f;

    const auto load = f.loader.submit({});

    CHECK(load->is_done());
    CHECK_EQUAL(load->outcome().bytes_read, 0u);
}

TEST(closing_cancels_what_runs) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(200 * kChunk));
    const auto load = f.loader.submit(f.plan_for("a"));

    f.loader.close();

    CHECK(load->is_done());
    CHECK_EQUAL(f.loader.finished().size(), 1u);
    (void)CHECK_THROWS(LoaderClosed, f.loader.submit({}));
    f.pool->close();
}

TEST(many_loads_at_once_all_arrive) {
    Fixture f;
    std::vector<std::vector<std::byte>> contents;
    std::vector<LoadPlan> plans;
    std::vector<std::shared_ptr<Load>> loads;
    for (unsigned i = 0; i < 12; ++i) {
        const std::string name = std::to_string(i);
        contents.push_back(random_bytes((i + 1) * kChunk + i, i));
        write_file(f.directory / name, contents.back());
        plans.push_back(f.plan_for(name));
        plans.back().priority = i % 3;
    }

    for (const LoadPlan& plan : plans) {
        loads.push_back(f.loader.submit(plan));
    }

    for (std::size_t i = 0; i < loads.size(); ++i) {
        CHECK_EQUAL(outcome_of(*loads[i]).bytes_read, contents[i].size());
        CHECK(f.holds(plans[i], contents[i]));
    }
    f.pool->check_integrity();
}

TEST(takes_what_the_page_cache_holds_when_told_to) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(3 * kChunk + 5);
    write_file(f.directory / "a", bytes);
    LoadPlan plan = f.plan_for("a");
    plan.use_page_cache = true;

    const auto load = f.loader.submit(plan);

    const LoadOutcome& outcome = outcome_of(*load);
    CHECK(f.holds(plan, bytes));
    CHECK(outcome.page_cache_bytes <= outcome.bytes_read);
}
