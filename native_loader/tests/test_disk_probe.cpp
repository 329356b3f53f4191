#include <sys/syscall.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "forbidden_calls.hpp"
#include "pilotlight/native/disk_probe.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::chrono::duration<double> kLimit{0.05};

std::vector<std::byte> many_bytes() {
    return std::vector<std::byte>(32 * kMiB, std::byte{7});
}

}  // namespace

TEST(says_how_fast_a_disk_is_and_leaves_the_page_cache_alone) {
    const TemporaryDirectory directory;
    write_file(directory / "f", many_bytes());
    set_cached(directory / "f", false);

    const ProbeResult result = probe_disk(directory / "f", identity_of(directory / "f"), kLimit);

    CHECK(result.best.has_value());
    CHECK_EQUAL(result.why_not, "");
    CHECK_EQUAL(result.direct_refusal, "");
    CHECK(result.best->bytes_per_second > 0);
    CHECK(choose(result.measurements) == result.best);
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    const Room room(kMiB);
    CHECK(!file->read_cached(room.bytes(), 0, kMiB));
}

TEST(ends_when_its_time_is_over) {
    const TemporaryDirectory directory;
    write_file(directory / "f", many_bytes());

    const ProbeResult result =
        probe_disk(directory / "f", identity_of(directory / "f"), std::chrono::duration<double>(0));

    CHECK(!result.best);
    CHECK_EQUAL(result.why_not, "there was no time");
}

TEST(can_not_tell_by_a_small_file) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(100));
    write_file(directory / "empty", {});

    for (const char* name : {"f", "empty"}) {
        const std::string path = directory / name;
        const ProbeResult result = probe_disk(path, identity_of(path), kLimit);
        CHECK(!result.best);
        CHECK_EQUAL(result.why_not, "the file is too small");
    }
}

TEST(can_not_tell_by_a_file_that_is_not_there_or_is_another) {
    const TemporaryDirectory directory;
    write_file(directory / "f", many_bytes());
    FileIdentity identity = identity_of(directory / "f");
    identity.mtime_ns += 1;

    CHECK_EQUAL(probe_disk(directory / "f", identity, kLimit).why_not,
                "it was written to or had its attributes changed");
    CHECK_EQUAL(probe_disk(directory / "none", identity, kLimit).why_not,
                "the file can't be read: No such file or directory");
}

TEST(says_where_direct_reads_are_refused) {
    const TemporaryDirectory directory;
    write_file(directory / "f", many_bytes());
    const FileIdentity identity = identity_of(directory / "f");

    const int status = status_in_child([&] {
        forbid_direct_reads();
        const ProbeResult result = probe_disk(directory / "f", identity, kLimit);
        return !result.best && result.direct_refusal == "Invalid argument" &&
                       result.why_not == "direct reads are refused: Invalid argument"
                   ? 0
                   : 1;
    });

    CHECK_EQUAL(status, 0);
}

TEST(does_without_the_ring_where_it_is_forbidden) {
    const TemporaryDirectory directory;
    write_file(directory / "f", many_bytes());
    const FileIdentity identity = identity_of(directory / "f");

    const int status = status_in_child([&] {
        forbid(SYS_io_uring_setup, EPERM);
        const ProbeResult result = probe_disk(directory / "f", identity, kLimit);
        return result.best && result.best->settings.depth == 1 ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}
