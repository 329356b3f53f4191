#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "forbidden_calls.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/source_file.hpp"

using namespace pilotlight::native;

namespace {

// A file in memory whose reads answer what a script says: a number of bytes at most, or -errno.
class ScriptedFile {
  public:
    ScriptedFile(std::vector<std::byte> bytes, std::deque<long> script)
        : bytes_(std::move(bytes)), script_(std::move(script)) {}

    ReadCall call() {
        return [this](std::byte* into, std::size_t length, std::uint64_t offset) -> ssize_t {
            offsets.push_back(offset);
            long limit = static_cast<long>(length);
            if (!script_.empty()) {
                limit = script_.front();
                script_.pop_front();
            }
            if (limit < 0) {
                errno = static_cast<int>(-limit);
                return -1;
            }
            const std::size_t left = offset < bytes_.size() ? bytes_.size() - offset : 0;
            const std::size_t count = std::min({length, left, static_cast<std::size_t>(limit)});
            std::memcpy(into, bytes_.data() + offset, count);
            return static_cast<ssize_t>(count);
        };
    }

    std::vector<std::uint64_t> offsets;

  private:
    std::vector<std::byte> bytes_;
    std::deque<long> script_;
};

using Offsets = std::vector<std::uint64_t>;

constexpr long kCachestatCall = 451;

// 0 if a file of 100,000 bytes is taken from the page cache when it is there, and only then.
int takes_what_is_cached() {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(100'000);
    write_file(directory / "f", bytes);
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    const Room room(bytes.size());
    set_cached(directory / "f", false);
    if (file->read_cached(room.bytes(), 0, bytes.size())) {
        return 1;
    }
    set_cached(directory / "f", true);
    return file->read_cached(room.bytes(), 0, bytes.size()) && room.begins_with(bytes) ? 0 : 2;
}

}  // namespace

TEST(goes_on_after_interruption_and_short_reads) {
    const std::vector<std::byte> bytes = random_bytes(10'000);
    ScriptedFile file(bytes, {-EINTR, 100, -EINTR, 5'000});
    std::vector<std::byte> room(10'000);

    const ReadStatus status = read_range(file.call(), room, 0, 10'000, 1, "f");

    CHECK(status == ReadStatus::kDone);
    CHECK(room == bytes);
    CHECK(file.offsets == (Offsets{0, 0, 100, 100, 5'100}));
}

TEST(begins_again_at_an_aligned_place_after_a_short_direct_read) {
    const std::vector<std::byte> bytes = random_bytes(10'000);
    ScriptedFile file(bytes, {5'000});
    std::vector<std::byte> room(12'288);

    const ReadStatus status = read_range(file.call(), room, 0, 10'000, 4096, "f");

    CHECK(status == ReadStatus::kDone);
    CHECK(std::memcmp(room.data(), bytes.data(), bytes.size()) == 0);
    CHECK(file.offsets == (Offsets{0, 4096}));
}

TEST(says_where_a_file_ends_early) {
    ScriptedFile file(random_bytes(5'000), {});
    std::vector<std::byte> room(12'288);

    CHECK(read_range(file.call(), room, 0, 10'000, 4096, "f") == ReadStatus::kEnded);
    CHECK(read_range(file.call(), room, 0, 10'000, 1, "f") == ReadStatus::kEnded);
}

TEST(says_when_reading_is_refused) {
    ScriptedFile file(random_bytes(5'000), {-EINVAL});
    std::vector<std::byte> room(8'192);

    CHECK(read_range(file.call(), room, 0, 5'000, 4096, "f") == ReadStatus::kRefused);
}

TEST(names_file_place_and_errno_of_a_failed_read) {
    ScriptedFile file(random_bytes(5'000), {1'000, -EIO});
    std::vector<std::byte> room(5'000);

    const auto error =
        CHECK_THROWS(ReadFailed, read_range(file.call(), room, 0, 5'000, 1, "weights"));

    CHECK_EQUAL(error.file, "weights");
    CHECK_EQUAL(error.offset, 1'000u);
    CHECK_EQUAL(error.error_number, EIO);
}

TEST(reads_a_file_whose_end_is_not_aligned) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(8'192 + 13);
    write_file(directory / "f", bytes);
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    alignas(4096) static std::byte room[12'288];

    file->read(room, 0, bytes.size());

    CHECK(std::memcmp(room, bytes.data(), bytes.size()) == 0);
    file->check_unchanged();
}

TEST(refuses_another_file_than_the_expected_one) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(100));
    const FileIdentity before = identity_of(directory / "f");
    write_file(directory / "g", random_bytes(100));
    std::filesystem::rename(directory / "g", directory / "f");

    const auto error = CHECK_THROWS(FileChanged, SourceFile::open(directory / "f", before));

    CHECK_EQUAL(error.what_changed, "it was replaced by another file");
}

TEST(notices_that_a_file_shrank) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(8'192));
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    std::filesystem::resize_file(directory / "f", 4'096);
    alignas(4096) static std::byte room[8'192];

    const auto error = CHECK_THROWS(FileChanged, file->read(room, 0, 8'192));

    CHECK_EQUAL(error.what_changed, "it was 8192 bytes long and is now 4096");
}

TEST(does_not_take_a_lack_of_descriptors_for_a_refusal_of_direct_reads) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(100));
    const FileIdentity expected = identity_of(directory / "f");
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    const int next = ::dup(0);
    ::close(next);
    const rlimit one_more{.rlim_cur = static_cast<rlim_t>(next) + 1, .rlim_max = before.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &one_more);

    const auto error = CHECK_THROWS(ReadFailed, SourceFile::open(directory / "f", expected));
    ::setrlimit(RLIMIT_NOFILE, &before);

    CHECK_EQUAL(error.error_number, EMFILE);
}

TEST(names_a_file_that_is_missing) {
    const auto error = CHECK_THROWS(ReadFailed, SourceFile::open("/nowhere/f", {}));

    CHECK_EQUAL(error.error_number, ENOENT);
}

TEST(takes_from_the_page_cache_what_is_there) {
    CHECK_EQUAL(takes_what_is_cached(), 0);
}

TEST(asks_older_kernels_for_the_bytes_to_know_what_is_cached) {
    const int status = status_in_child([] {
        forbid(kCachestatCall, ENOSYS);
        return takes_what_is_cached();
    });

    CHECK_EQUAL(status, 0);
}

TEST(does_not_take_a_part_from_the_page_cache) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(1 << 20);
    write_file(directory / "f", bytes);
    set_cached(directory / "f", false);
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    const Room room(bytes.size());
    file->read_buffered(room.bytes(), 0, 4096);

    CHECK(!file->read_cached(room.bytes(), 0, bytes.size()));
}

TEST(shows_no_descriptor_for_direct_reads_once_they_are_refused) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(8'192));
    const auto file = SourceFile::open(directory / "f", identity_of(directory / "f"));
    const Room room(3 * 4'096);
    CHECK(file->direct_fd() >= 0);

    file->read(room.bytes().subspan(1), 0, 8'192);  // No disk reads to an odd address.

    CHECK_EQUAL(file->direct_fd(), -1);
}
