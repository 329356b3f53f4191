// What becomes of loads when the kernel refuses what the library asks it for.
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../fuzz/system_calls.hpp"
#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/disk_probe.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/loader.hpp"

using namespace pilotlight::native;
using fuzz::Call;

namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kChunk = 4 * kBlock;
constexpr std::size_t kChunks = 3;
constexpr std::size_t kFileBytes = kChunks * kChunk;
constexpr Seconds kDeadline{30};

// Two files, and a loader that reads one block at a time, the first file first.
struct Fixture {
    explicit Fixture(std::size_t depth = 1)
        : loader(pool, {.n_readers = 1, .depth = depth, .block_bytes = kBlock}) {}

    LoadPlan plan_for(const std::string& name, unsigned seed) {
        const std::string path = directory / name;
        write_file(path, random_bytes(kFileBytes, seed));
        LoadPlan plan{.files = {{.path = path, .identity = identity_of(path)}},
                      .chunks = {},
                      .priority = -static_cast<std::int64_t>(seed),
                      .use_page_cache = false,
                      .memories = {},
                      .staging = {}};
        for (const ChunkIndex target : pool->allocate(kChunks)) {
            ChunkPlan chunk;
            chunk.number = static_cast<std::uint32_t>(plan.chunks.size());
            chunk.offset = chunk.number * kChunk;
            chunk.length = kChunk;
            chunk.target = target;
            plan.chunks.push_back(std::move(chunk));
        }
        return plan;
    }

    void check_holds(const LoadPlan& plan, unsigned seed) const {
        const std::vector<std::byte> bytes = random_bytes(kFileBytes, seed);
        for (const ChunkPlan& chunk : plan.chunks) {
            const auto held = pool->bytes(chunk.target);
            CHECK(std::memcmp(held.data(), bytes.data() + chunk.offset, chunk.length) == 0);
        }
    }

    void check_returns_all_chunks(const std::vector<LoadPlan>& plans) const {
        for (const LoadPlan& plan : plans) {
            for (const ChunkPlan& chunk : plan.chunks) {
                pool->release(std::vector{chunk.target});
            }
        }
        CHECK_EQUAL(pool->accounts().free, pool->n_chunks());
        pool->check_integrity();
    }

    TemporaryDirectory directory;
    std::shared_ptr<ChunkPool> pool = std::make_shared<ChunkPool>(2 * kChunks, kChunk);
    Loader loader;
};

const LoadOutcome& outcome_of(const std::shared_ptr<Load>& load) {
    CHECK(load->wait(kDeadline));
    return load->outcome();
}

fuzz::Faults once(Call call, std::uint64_t nth, int error_number) {
    return {.each = {{.call = call, .first = nth, .error_number = error_number}}};
}

fuzz::Faults always(Call call, int error_number) {
    return {.each = {{.call = call, .is_lasting = true, .error_number = error_number}}};
}

// Loads a file while calls fail, and another one after it; both must be right.
LoadOutcome load_in_spite_of(const fuzz::Faults& faults, std::size_t depth = 1,
                             bool use_page_cache = false) {
    Fixture f(depth);
    LoadPlan first = f.plan_for("a", 1);
    LoadPlan second = f.plan_for("b", 2);
    first.use_page_cache = second.use_page_cache = use_page_cache;
    const fuzz::ArmedFaults armed(faults);
    const auto load = f.loader.submit(first);
    const auto other = f.loader.submit(second);
    (void)outcome_of(other);
    LoadOutcome outcome = outcome_of(load);
    f.loader.close();
    f.check_holds(first, 1);
    f.check_holds(second, 2);
    f.check_returns_all_chunks({first, second});
    return outcome;
}

// The first of two loads fails so; the second one, and the first one tried again, do not.
template <typename Failure>
Failure failure_of_first(const fuzz::Faults& faults) {
    Fixture f;
    const LoadPlan first = f.plan_for("a", 1);
    const LoadPlan second = f.plan_for("b", 2);
    const fuzz::ArmedFaults armed(faults);
    const auto load = f.loader.submit(first);
    const auto other = f.loader.submit(second);
    const auto failure = CHECK_THROWS(Failure, outcome_of(load));
    (void)outcome_of(other);
    (void)outcome_of(f.loader.submit(first));
    f.loader.close();
    f.check_holds(first, 1);
    f.check_holds(second, 2);
    f.check_returns_all_chunks({first, second});
    return failure;
}

}  // namespace

TEST(an_io_error_in_the_middle_fails_that_load_alone) {
    const auto error = failure_of_first<ReadFailed>(once(Call::kPread, 5, EIO));

    CHECK_EQUAL(error.error_number, EIO);
    CHECK_EQUAL(error.offset, 5 * kBlock);
    CHECK(error.file.ends_with("/a"));
}

TEST(memory_that_is_refused_fails_that_load_alone) {
    CHECK_EQUAL(failure_of_first<MemoryRefused>(once(Call::kMadvise, 0, ENOMEM)).error_number,
                ENOMEM);
}

TEST(a_lack_of_descriptors_fails_that_load_alone) {
    CHECK_EQUAL(failure_of_first<ReadFailed>(once(Call::kOpen, 0, EMFILE)).error_number, EMFILE);
}

TEST(a_file_that_can_not_be_looked_at_in_the_end_fails_that_load_alone) {
    // Each file is looked at as it is opened, for either way of reading; the second load's first
    // block is begun before the first load's last one is checked.
    CHECK_EQUAL(failure_of_first<ReadFailed>(once(Call::kFstat, 4, EIO)).error_number, EIO);
}

TEST(interrupted_and_short_reads_only_take_longer) {
    (void)load_in_spite_of(once(Call::kPread, 3, EINTR));
    (void)load_in_spite_of(
        {.each = {{.call = Call::kPread, .first = 1, .is_lasting = true, .most_bytes = 4096}}});
    (void)load_in_spite_of({.each = {{.call = Call::kPread, .first = 4, .most_bytes = 100}}});
}

TEST(direct_reads_that_are_refused_in_the_middle_go_on_through_the_page_cache) {
    CHECK_EQUAL(load_in_spite_of(once(Call::kPread, 4, EINVAL)).direct_refusal,
                std::strerror(EINVAL));
}

TEST(kernels_that_do_not_say_what_is_cached_are_asked_otherwise) {
    const LoadOutcome outcome = load_in_spite_of(always(Call::kCachestat, ENOSYS), 1, true);

    CHECK(outcome.page_cache_bytes <= kFileBytes);
    (void)load_in_spite_of(
        {.each = {{.call = Call::kCachestat, .is_lasting = true, .error_number = ENOSYS},
                  {.call = Call::kPreadv2, .is_lasting = true, .error_number = EAGAIN}}},
        1, true);
}

TEST(kernels_that_forbid_rings_are_read_by_threads) {
    (void)load_in_spite_of(always(Call::kUringSetup, EPERM), 4);
    (void)load_in_spite_of(always(Call::kUringEnter, EPERM), 4);
    (void)load_in_spite_of(
        {.each =
             {{.call = Call::kUringEnter, .first = 5, .is_lasting = true, .error_number = EBUSY}}},
        4);
}

TEST(kernels_that_can_not_populate_memory_at_once_have_it_allocated) {
    (void)load_in_spite_of(always(Call::kMadvise, EINVAL));
}

// Each time another allocation of the readers' fails, from the first to the last.
TEST(a_heap_without_memory_fails_a_load_and_nothing_else) {
    constexpr std::uint64_t kMoreThanThereAre = 60;
    int n_failed_in_all = 0;
    for (std::uint64_t nth = 0; nth < kMoreThanThereAre; ++nth) {
        Fixture f;
        const LoadPlan first = f.plan_for("a", 1);
        const LoadPlan second = f.plan_for("b", 2);
        const fuzz::ArmedFaults armed(once(Call::kNew, nth, ENOMEM));
        const auto load = f.loader.submit(first);
        const auto other = f.loader.submit(second);
        int n_failed = 0;
        for (const auto& each : {load, other}) {
            try {
                (void)outcome_of(each);
            } catch (const std::bad_alloc&) {
                ++n_failed;
            }
        }
        CHECK(n_failed <= 1);
        n_failed_in_all += n_failed;
        CHECK_EQUAL(f.loader.finished().size(), 2u);
        f.loader.close();
        f.check_returns_all_chunks({first, second});
    }
    CHECK(n_failed_in_all > 0);
}

// Each time another allocation of the probe's and its readers' fails, from the first on.
TEST(a_heap_without_memory_ends_a_probe_and_nothing_else) {
    constexpr std::size_t kSmallestProbed = std::size_t{16} << 20;
    constexpr std::uint64_t kMoreThanInOneWindow = 60;
    const TemporaryDirectory directory;
    const std::string path = directory / "f";
    write_file(path, std::vector<std::byte>(kSmallestProbed));
    int n_without_answer = 0;
    for (std::uint64_t nth = 0; nth < kMoreThanInOneWindow; ++nth) {
        const fuzz::ArmedFaults armed(once(Call::kNew, nth, ENOMEM));
        const ProbeResult result = probe_disk(path, identity_of(path), Seconds(0.01));
        CHECK_EQUAL(result.best.has_value(), result.why_not.empty());
        n_without_answer += result.best ? 0 : 1;
    }
    CHECK(n_without_answer > 0);
}
