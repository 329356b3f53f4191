#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "forbidden_calls.hpp"
#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/loader.hpp"
#include "wrapped_device.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kChunk = std::size_t{64} << 10;
constexpr std::size_t kBlock = std::size_t{8} << 10;
constexpr Seconds kDeadline{30};

struct Fixture {
    TemporaryDirectory directory;
    std::shared_ptr<ChunkPool> pool = std::make_shared<ChunkPool>(256, kChunk);
    Loader loader{pool, {.n_readers = 4, .depth = 1, .block_bytes = kBlock}};

    // A plan for one file, chunk by chunk, into newly allocated chunks of the pool.
    LoadPlan plan_for(const std::string& name) {
        const std::string path = directory / name;
        const FileIdentity identity = identity_of(path);
        LoadPlan plan{.files = {{.path = path, .identity = identity}},
                      .chunks = {},
                      .priority = 0,
                      .use_page_cache = false,
                      .memories = {},
                      .staging = {}};
        const std::size_t n_chunks = (identity.size_bytes + kChunk - 1) / kChunk;
        const std::vector<ChunkIndex> targets = pool->allocate(n_chunks);
        for (std::uint32_t i = 0; i < n_chunks; ++i) {
            const std::uint64_t offset = i * kChunk;
            plan.chunks.push_back({.file = 0,
                                   .offset = offset,
                                   .length = std::min(kChunk, identity.size_bytes - offset),
                                   .number = i,
                                   .target = targets[i],
                                   .target_offset = 0,
                                   .is_shared = false,
                                   .is_resident = false,
                                   .expected_crc32c = {},
                                   .copies = {}});
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

std::vector<std::byte> held_by(Device& device, const DeviceMemory& memory) {
    std::vector<std::byte> bytes(memory.size_bytes());
    device.read(memory, 0, bytes);
    return bytes;
}

// Each chunk goes, as it lies, into one memory of the file's size.
void copy_to(const TargetMemory& target, LoadPlan& plan) {
    const auto memory = static_cast<std::uint32_t>(plan.memories.size());
    plan.memories.push_back(target);
    for (ChunkPlan& chunk : plan.chunks) {
        chunk.copies.push_back(
            {.memory = memory, .spans = {{.from = 0, .to = chunk.offset, .length = chunk.length}}});
    }
}

// Give the chunks' own places back and have them pass through some of those.
void stream_through(std::size_t n_staging, ChunkPool& pool, LoadPlan& plan) {
    std::vector<ChunkIndex> places;
    for (const ChunkPlan& chunk : plan.chunks) {
        places.push_back(chunk.target);
    }
    plan.staging.assign(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(n_staging));
    pool.release(std::span(places).subspan(n_staging));
}

// A device whose nth copy fails.
class FailingDevice final : public WrappedDevice {
  public:
    explicit FailingDevice(int n) : WrappedDevice("failing", false), n_copies_left_(n) {}

  private:
    void before_copy(const DeviceMemory& /*into*/) override {
        if (--n_copies_left_ == 0) {
            throw DeviceFailed("failing", "copy", "BROKEN");
        }
    }

    int n_copies_left_;
};

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
    (void)CHECK_THROWS(std::invalid_argument,
                       Loader(f.pool, {.n_readers = 4, .depth = 1, .block_bytes = 1000}));
    (void)CHECK_THROWS(std::invalid_argument,
                       Loader(f.pool, {.n_readers = 0, .depth = 1, .block_bytes = kBlock}));
    (void)CHECK_THROWS(std::invalid_argument, Loader(f.pool, {.n_readers = 65}));
    (void)CHECK_THROWS(std::invalid_argument, Loader(f.pool, {.depth = 65}));
    (void)CHECK_THROWS(std::invalid_argument, Loader(f.pool, {.block_bytes = ~std::size_t{4095}}));
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

TEST(copies_what_it_reads_into_devices) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(5 * kChunk + 777);
    write_file(f.directory / "a", bytes);
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory one{.device = device, .memory = device->allocate(bytes.size())};
    const TargetMemory other{.device = device, .memory = device->allocate(bytes.size())};
    LoadPlan plan = f.plan_for("a");
    copy_to(one, plan);
    copy_to(other, plan);

    const auto load = f.loader.submit(plan);
    const LoadOutcome& outcome = outcome_of(*load);

    CHECK(f.holds(plan, bytes));
    CHECK(held_by(*device, *one.memory) == bytes);
    CHECK(held_by(*device, *other.memory) == bytes);
    CHECK_EQUAL(outcome.copied_bytes, 2 * bytes.size());
    CHECK_EQUAL(load->progress().copied_bytes, load->progress().total_copied_bytes);
    CHECK(outcome.copy_time.count() > 0);
    CHECK(!outcome.is_unpinned);
}

TEST(streams_a_file_through_fewer_chunks_than_it_has) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(50 * kChunk + 1);
    write_file(f.directory / "a", bytes);
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory target{.device = device, .memory = device->allocate(bytes.size())};
    LoadPlan plan = f.plan_for("a");
    copy_to(target, plan);
    stream_through(3, *f.pool, plan);

    const auto load = f.loader.submit(plan);
    (void)outcome_of(*load);

    CHECK(held_by(*device, *target.memory) == bytes);
    CHECK_EQUAL(f.pool->accounts().cached, 3u);
    CHECK(f.pool->populated_bytes() <= kPopulateUnitBytes);
    f.pool->release(plan.staging);
}

TEST(streams_side_by_side_and_past_each_other) {
    Fixture f;
    const auto device = std::make_shared<CpuDevice>();
    std::vector<std::vector<std::byte>> contents;
    std::vector<TargetMemory> targets;
    std::vector<std::shared_ptr<Load>> loads;
    for (unsigned i = 0; i < 6; ++i) {
        const std::string name = std::to_string(i);
        contents.push_back(random_bytes((4 * i + 2) * kChunk + i, i));
        write_file(f.directory / name, contents.back());
        targets.push_back({.device = device, .memory = device->allocate(contents.back().size())});
        LoadPlan plan = f.plan_for(name);
        plan.priority = i % 2;
        copy_to(targets.back(), plan);
        stream_through(1 + i % 2, *f.pool, plan);
        loads.push_back(f.loader.submit(plan));
    }

    for (std::size_t i = 0; i < loads.size(); ++i) {
        (void)outcome_of(*loads[i]);
        CHECK(held_by(*device, *targets[i].memory) == contents[i]);
    }
    f.pool->check_integrity();
}

TEST(cuts_columns_out_of_rows) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(64 * 100);
    write_file(f.directory / "a", bytes);
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory target{.device = device, .memory = device->allocate(64 * 25)};
    LoadPlan plan = f.plan_for("a");
    plan.memories.push_back(target);
    plan.chunks[0].copies.push_back({.memory = 0,
                                     .spans = {{.from = 50,
                                                .to = 0,
                                                .length = 25,
                                                .n_rows = 64,
                                                .from_stride = 100,
                                                .to_stride = 25}}});

    (void)outcome_of(*f.loader.submit(plan));

    const std::vector<std::byte> cut = held_by(*device, *target.memory);
    for (std::size_t row = 0; row < 64; ++row) {
        CHECK(std::memcmp(&cut[row * 25], &bytes[row * 100 + 50], 25) == 0);
    }
}

TEST(a_copy_that_fails_fails_its_load_alone) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(20 * kChunk);
    write_file(f.directory / "a", bytes);
    write_file(f.directory / "b", bytes);
    const auto failing = std::make_shared<FailingDevice>(4);
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory target{.device = device, .memory = device->allocate(bytes.size())};
    LoadPlan broken = f.plan_for("a");
    copy_to({.device = failing, .memory = failing->allocate(bytes.size())}, broken);
    stream_through(2, *f.pool, broken);
    LoadPlan sound = f.plan_for("b");
    copy_to(target, sound);

    const auto first = f.loader.submit(broken);
    const auto second = f.loader.submit(sound);

    CHECK_EQUAL(CHECK_THROWS(DeviceFailed, outcome_of(*first)).device, "failing");
    CHECK(!outcome_of(*second).is_unpinned);
    CHECK(held_by(*device, *target.memory) == bytes);
    f.pool->release(broken.staging);
    f.pool->check_integrity();
}

TEST(says_that_a_device_pins_nothing) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(3 * kChunk));
    const auto device = std::make_shared<FailingDevice>(100);
    LoadPlan plan = f.plan_for("a");
    copy_to({.device = device, .memory = device->allocate(3 * kChunk)}, plan);

    CHECK(outcome_of(*f.loader.submit(plan)).is_unpinned);
}

TEST(cancels_a_load_that_streams) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(200 * kChunk));
    const auto device = std::make_shared<CpuDevice>();
    LoadPlan plan = f.plan_for("a");
    copy_to({.device = device, .memory = device->allocate(200 * kChunk)}, plan);
    stream_through(2, *f.pool, plan);
    const auto load = f.loader.submit(plan);

    f.loader.cancel(load);

    (void)CHECK_THROWS(LoadCancelled, outcome_of(*load));
    f.pool->release(plan.staging);
    CHECK_EQUAL(f.pool->accounts().free, 256u);
}

TEST(refuses_copies_that_leave_their_chunk_or_memory) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(100));
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory target{.device = device, .memory = device->allocate(1000)};
    const LoadPlan plan = f.plan_for("a");
    const auto refused = [&](const CopySpan& span, std::uint32_t memory = 0) {
        LoadPlan bad = plan;
        bad.memories.push_back(target);
        bad.chunks[0].copies.push_back({.memory = memory, .spans = {span}});
        (void)CHECK_THROWS(std::invalid_argument, f.loader.submit(bad));
    };

    refused({.from = 0, .to = 0, .length = 100}, 1);
    refused({.from = 0, .to = 0, .length = 0});
    refused({.from = 1, .to = 0, .length = 100});
    refused({.from = ~std::uint64_t{0}, .to = 0, .length = 2});
    refused({.from = 0, .to = 901, .length = 100});
    refused({.from = 0, .to = 0, .length = 10, .n_rows = 0});
    refused({.from = 0, .to = 0, .length = 10, .n_rows = 11, .from_stride = 10, .to_stride = 10});
    refused({.from = 0, .to = 0, .length = 10, .n_rows = 5, .from_stride = 5, .to_stride = 10});
    refused({.from = 0,
             .to = 0,
             .length = 1,
             .n_rows = 3,
             .from_stride = std::uint64_t{1} << 63,
             .to_stride = 1});
    CHECK_EQUAL(f.pool->accounts().cached, 1u);
}

TEST(small_files_share_a_chunk) {
    Fixture f;
    std::vector<std::vector<std::byte>> contents;
    std::vector<std::shared_ptr<Load>> loads;
    const ChunkIndex chunk = f.pool->allocate(1).front();
    f.pool->bind(std::vector{chunk});
    for (unsigned i = 0; i < 4; ++i) {
        const std::string name = std::to_string(i);
        contents.push_back(random_bytes(10'000 + i, i));
        write_file(f.directory / name, contents.back());
        LoadPlan plan = f.plan_for(name);
        f.pool->release(std::vector{plan.chunks[0].target});
        plan.chunks[0].target = chunk;
        plan.chunks[0].target_offset = i * 12'288;
        plan.chunks[0].is_shared = true;
        loads.push_back(f.loader.submit(plan));
    }

    for (std::size_t i = 0; i < loads.size(); ++i) {
        CHECK_EQUAL(outcome_of(*loads[i]).crc32c[0], crc32c(contents[i]));
        const auto held = f.pool->bytes(chunk).subspan(i * 12'288, contents[i].size());
        CHECK(std::memcmp(held.data(), contents[i].data(), held.size()) == 0);
    }
    f.pool->unbind(std::vector{chunk});
    f.pool->release(std::vector{chunk});
    f.pool->check_integrity();
}

TEST(refuses_places_that_leave_their_chunk_or_are_not_shared) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(8192));
    LoadPlan plan = f.plan_for("a");
    plan.chunks[0].is_shared = true;
    const auto refused = [&](std::uint64_t target_offset, bool is_shared) {
        LoadPlan bad = plan;
        bad.chunks[0].target_offset = target_offset;
        bad.chunks[0].is_shared = is_shared;
        (void)CHECK_THROWS(std::invalid_argument, f.loader.submit(bad));
    };

    refused(4096, false);
    refused(100, true);
    refused(kChunk - 4096, true);
    refused(~std::uint64_t{4095}, true);
}

TEST(reads_by_io_uring_where_the_kernel_has_it) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(40 * kChunk + 9);
    write_file(f.directory / "a", bytes);
    const LoadPlan plan = f.plan_for("a");
    f.loader.configure(plan.files[0].identity.device,
                       {.n_readers = 2, .depth = 8, .block_bytes = 3 * kBlock});

    const auto load = f.loader.submit(plan);
    const LoadOutcome& outcome = outcome_of(*load);

    CHECK(f.holds(plan, bytes));
    CHECK_EQUAL(outcome.crc32c[7], crc32c(std::span(bytes).subspan(7 * kChunk, kChunk)));
}

TEST(copies_what_is_resident_and_reads_the_rest) {
    Fixture f;
    const std::vector<std::byte> bytes = random_bytes(6 * kChunk + 3);
    write_file(f.directory / "a", bytes);
    const auto device = std::make_shared<CpuDevice>();
    const TargetMemory target{.device = device, .memory = device->allocate(bytes.size())};
    LoadPlan plan = f.plan_for("a");
    CHECK(f.loader.submit(plan)->wait(kDeadline));
    copy_to(target, plan);
    for (const std::size_t chunk : {0u, 1u, 2u, 5u}) {
        plan.chunks[chunk].is_resident = true;
    }
    f.pool->bind(std::vector{plan.chunks[1].target});

    const auto load = f.loader.submit(plan);

    CHECK_EQUAL(outcome_of(*load).bytes_read, 2 * kChunk + 3);
    CHECK_EQUAL(load->progress().total_bytes, 2 * kChunk + 3);
    CHECK(held_by(*device, *target.memory) == bytes);
    f.pool->check_integrity();
}

TEST(ends_at_once_where_all_is_resident) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(2 * kChunk));
    LoadPlan plan = f.plan_for("a");
    CHECK(f.loader.submit(plan)->wait(kDeadline));
    for (ChunkPlan& chunk : plan.chunks) {
        chunk.is_resident = true;
    }

    const auto load = f.loader.submit(plan);

    CHECK_EQUAL(outcome_of(*load).bytes_read, 0u);
}

// A device whose copies are done when they are let go.
class HeldDevice final : public WrappedDevice {
  public:
    HeldDevice() : WrappedDevice("held") {}

    void let_go() {
        is_held_ = false;
        is_held_.notify_all();
    }
    int n_copies() const { return n_copies_; }
    const DeviceMemory* last_target() const { return last_target_; }

  private:
    void before_copy(const DeviceMemory& into) override {
        is_held_.wait(true);
        ++n_copies_;
        last_target_ = &into;
    }

    std::atomic<bool> is_held_ = true;
    std::atomic<int> n_copies_ = 0;
    std::atomic<const DeviceMemory*> last_target_ = nullptr;
};

// A plan that only copies, from chunks that were loaded before.
LoadPlan resident_plan(Fixture& f, const std::string& name, const std::shared_ptr<Device>& device) {
    LoadPlan plan = f.plan_for(name);
    CHECK(f.loader.submit(plan)->wait(kDeadline));
    for (ChunkPlan& chunk : plan.chunks) {
        chunk.is_resident = true;
    }
    copy_to({.device = device, .memory = device->allocate(plan.chunks.size() * kChunk)}, plan);
    return plan;
}

TEST(cancels_copies_that_wait_for_their_device) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(50 * kChunk));
    const auto device = std::make_shared<HeldDevice>();
    const auto load = f.loader.submit(resident_plan(f, "a", device));

    f.loader.cancel(load);
    device->let_go();

    (void)CHECK_THROWS(LoadCancelled, outcome_of(*load));
    CHECK(device->n_copies() < 10);
}

TEST(copies_what_is_urgent_before_what_waits) {
    Fixture f;
    write_file(f.directory / "long", random_bytes(50 * kChunk));
    write_file(f.directory / "urgent", random_bytes(kChunk, 2));
    const auto device = std::make_shared<HeldDevice>();
    const LoadPlan low = resident_plan(f, "long", device);
    LoadPlan high = resident_plan(f, "urgent", device);
    high.priority = 5;
    const auto first = f.loader.submit(low);
    const auto second = f.loader.submit(high);

    device->let_go();
    (void)outcome_of(*second);

    CHECK(first->progress().copied_bytes < 20 * kChunk);
    (void)outcome_of(*first);
    CHECK_EQUAL(device->n_copies(), 51);
    CHECK_EQUAL(device->last_target(), low.memories[0].memory.get());
}

TEST(keeps_nothing_of_loads_that_nobody_holds) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(kChunk));
    const auto device = std::make_shared<CpuDevice>();
    std::weak_ptr<DeviceMemory> memory;
    std::weak_ptr<Load> load;
    {
        LoadPlan plan = f.plan_for("a");
        copy_to({.device = device, .memory = device->allocate(kChunk)}, plan);
        memory = plan.memories[0].memory;
        const auto submitted = f.loader.submit(std::move(plan));
        (void)outcome_of(*submitted);
        CHECK(memory.expired());
        load = submitted;
    }
    const auto deadline = Clock::now() + kDeadline;
    while (!load.expired() && Clock::now() < deadline) {
        std::this_thread::yield();  // The copier lets go of it last.
    }
    const auto next = f.loader.submit({});

    CHECK(load.expired());
    CHECK_EQUAL(f.loader.finished().size(), 1u);
}

TEST(leaves_everything_to_the_parent_after_a_fork) {
    Fixture f;
    write_file(f.directory / "a", random_bytes(20 * kChunk));
    const auto loader = std::make_shared<Loader>(f.pool, DiskSettings{.block_bytes = kBlock});
    const LoadPlan plan = f.plan_for("a");
    const auto load = loader->submit(plan);

    const pid_t child = ::fork();
    if (child == 0) {
        const auto is_closed = [](const auto& call) {
            try {
                call();
            } catch (const LoaderClosed&) {
                return true;
            }
            return false;
        };
        bool is_right = is_closed([&] { (void)loader->submit({}); });
        is_right = is_closed([&] { (void)load->wait(kDeadline); }) && is_right;
        loader->cancel(load);
        loader->close();
        loader->~Loader();
        ::_exit(is_right ? 0 : 1);
    }
    int status = -1;
    CHECK_EQUAL(::waitpid(child, &status, 0), child);

    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(outcome_of(*load).bytes_read, 20 * kChunk);
}

TEST(a_device_whose_queue_can_not_be_opened_fails_its_load_alone) {
    class NoQueues final : public WrappedDevice {
      public:
        NoQueues() : WrappedDevice("none") {}
        std::unique_ptr<CopyQueue> make_queue() override {
            throw DeviceFailed("none", "make_queue", "BROKEN");
        }
    };
    Fixture f;
    write_file(f.directory / "a", random_bytes(kChunk));
    const auto device = std::make_shared<NoQueues>();
    LoadPlan plan = f.plan_for("a");
    const LoadPlan plain = plan;
    copy_to({.device = device, .memory = device->allocate(kChunk)}, plan);

    (void)CHECK_THROWS(DeviceFailed, f.loader.submit(plan));
    const auto load = f.loader.submit(plain);

    f.loader.promote(*load, 3);
    CHECK_EQUAL(outcome_of(*load).bytes_read, kChunk);
    f.loader.close();
}

TEST(a_load_that_gets_no_memory_fails_alone) {
    const int status = status_in_child([] {
        Fixture f;
        const std::vector<std::byte> bytes = random_bytes(kChunk);
        write_file(f.directory / "small", bytes);
        write_file(f.directory / "large", random_bytes(100 * kChunk));
        const LoadPlan small = f.plan_for("small");
        const LoadPlan large = f.plan_for("large");
        f.pool->populate(small.chunks[0].target, 0, kChunk);

        forbid(SYS_madvise, ENOMEM);
        const auto refused = f.loader.submit(large);
        const auto load = f.loader.submit(small);

        (void)CHECK_THROWS(MemoryRefused, outcome_of(*refused));
        (void)outcome_of(*load);
        CHECK(f.holds(small, bytes));
        f.pool->check_integrity();
        CHECK_EQUAL(f.pool->accounts().cached, 101u);
        return 0;
    });

    CHECK_EQUAL(status, 0);
}
