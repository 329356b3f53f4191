#include "pilotlight/native/source_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

std::int64_t nanoseconds(const timespec& time) {
    return time.tv_sec * kNanosecondsPerSecond + time.tv_nsec;
}

FileIdentity identity_of(int fd, const std::string& path) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) {
        throw ReadFailed(path, 0, errno);
    }
    return {.device = status.st_dev,
            .inode = status.st_ino,
            .size_bytes = static_cast<std::uint64_t>(status.st_size),
            .mtime_ns = nanoseconds(status.st_mtim),
            .ctime_ns = nanoseconds(status.st_ctim)};
}

std::string describe_change(const FileIdentity& before, const FileIdentity& now) {
    if (before.device != now.device || before.inode != now.inode) {
        return "it was replaced by another file";
    }
    if (before.size_bytes != now.size_bytes) {
        return "it was " + std::to_string(before.size_bytes) + " bytes long and is now " +
               std::to_string(now.size_bytes);
    }
    return "it was written to or had its attributes changed";
}

void check_identity(int fd, const std::string& path, const FileIdentity& expected) {
    const FileIdentity now = identity_of(fd, path);
    if (now != expected) {
        throw FileChanged(path, describe_change(expected, now));
    }
}

ReadCall pread_of(int fd) {
    return [fd](std::byte* into, std::size_t length, std::uint64_t offset) {
        return ::pread(fd, into, length, static_cast<off_t>(offset));
    };
}

std::size_t round_down(std::size_t value, std::size_t multiple) {
    return value / multiple * multiple;
}

std::size_t round_up(std::size_t value, std::size_t multiple) {
    return round_down(value + multiple - 1, multiple);
}

// Linux 6.5; the headers of older distributions do not know it yet.
constexpr long kCachestatCall = 451;

struct CachestatRange {
    std::uint64_t offset;
    std::uint64_t length;
};

struct Cachestat {
    std::uint64_t cached_pages;
    std::uint64_t dirty_pages;
    std::uint64_t writeback_pages;
    std::uint64_t evicted_pages;
    std::uint64_t recently_evicted_pages;
};

enum class CacheState { kWhole, kPartial, kUnknown };

CacheState cache_state(int fd, std::uint64_t offset, std::size_t length) noexcept {
    const CachestatRange range{.offset = offset, .length = length};
    Cachestat found{};
    if (length == 0 || ::syscall(kCachestatCall, fd, &range, &found, 0) != 0) {
        return CacheState::kUnknown;
    }
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t n_pages = (offset + length - 1) / page - offset / page + 1;
    return found.cached_pages >= n_pages ? CacheState::kWhole : CacheState::kPartial;
}

// For kernels without cachestat: the page cache answers by giving the bytes, and a read that
// would have to wait for the disk ends early or is refused.
bool read_without_waiting(int fd, std::span<std::byte> room, std::uint64_t offset) noexcept {
    while (!room.empty()) {
        const iovec target{.iov_base = room.data(), .iov_len = room.size()};
        const ssize_t count = ::preadv2(fd, &target, 1, static_cast<off_t>(offset), RWF_NOWAIT);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        room = room.subspan(static_cast<std::size_t>(count));
        offset += static_cast<std::uint64_t>(count);
    }
    return true;
}

}  // namespace

ReadStatus read_range(const ReadCall& read, std::span<std::byte> room, std::uint64_t offset,
                      std::size_t length, std::size_t alignment, const std::string& path) {
    std::size_t done = 0;
    while (done < length) {
        // A read that was cut short between two aligned places begins again at the one before.
        const std::size_t start = round_down(done, alignment);
        const std::size_t wanted = round_up(length - start, alignment);
        const ssize_t count = read(room.subspan(start, wanted).data(), wanted, offset + start);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno == EINVAL) {
            return ReadStatus::kRefused;
        }
        if (count < 0) {
            throw ReadFailed(path, offset + start, errno);
        }
        const std::size_t reached = start + static_cast<std::size_t>(count);
        if (reached <= done) {
            return ReadStatus::kEnded;
        }
        done = reached;
    }
    return ReadStatus::kDone;
}

std::unique_ptr<SourceFile> SourceFile::open(const std::string& path,
                                             const FileIdentity& expected) {
    // Without O_NONBLOCK a FIFO put in the file's place would hold the reader forever.
    Descriptor buffered(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!buffered) {
        throw ReadFailed(path, 0, errno);
    }
    check_identity(buffered.get(), path, expected);
    std::unique_ptr<SourceFile> file(new SourceFile(path, expected, std::move(buffered)));
    file->open_direct();
    return file;
}

SourceFile::SourceFile(std::string path, const FileIdentity& identity, Descriptor buffered)
    : path_(std::move(path)), identity_(identity), buffered_(std::move(buffered)) {}

void SourceFile::open_direct() {
    direct_ = Descriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT));
    if (!direct_) {
        // Other errors, such as too many open files, are no word of the file system's.
        if (errno != EINVAL && errno != EOPNOTSUPP) {
            throw ReadFailed(path_, 0, errno);
        }
        refuse_direct(errno);
        return;
    }
    check_identity(direct_.get(), path_, identity_);
    // Older kernels do not let an io_uring wait for a file that is not to be waited for.
    (void)::fcntl(direct_.get(), F_SETFL, ::fcntl(direct_.get(), F_GETFL) & ~O_NONBLOCK);
    is_direct_ = true;
}

void SourceFile::refuse_direct(int error_number) {
    const std::lock_guard lock(refusal_mutex_);
    is_direct_ = false;
    refusal_ = std::strerror(error_number);
}

void SourceFile::read(std::span<std::byte> room, std::uint64_t offset, std::size_t length) {
    if (!is_direct_) {
        read_buffered(room, offset, length);
        return;
    }
    switch (read_range(pread_of(direct_.get()), room, offset, length, kDirectAlignment, path_)) {
        case ReadStatus::kDone:
            return;
        case ReadStatus::kRefused:
            refuse_direct(EINVAL);
            [[fallthrough]];
        case ReadStatus::kEnded:
            // The page cache has the last word on where the file ends.
            read_buffered(room, offset, length);
    }
}

void SourceFile::read_buffered(std::span<std::byte> room, std::uint64_t offset,
                               std::size_t length) const {
    switch (read_range(pread_of(buffered_.get()), room, offset, length, 1, path_)) {
        case ReadStatus::kDone:
            return;
        case ReadStatus::kRefused:
            throw ReadFailed(path_, offset, EINVAL);
        case ReadStatus::kEnded:
            check_unchanged();
            throw FileChanged(path_, "it ended before its size was reached");
    }
}

bool SourceFile::read_cached(std::span<std::byte> room, std::uint64_t offset,
                             std::size_t length) const {
    switch (cache_state(buffered_.get(), offset, length)) {
        case CacheState::kWhole:
            read_buffered(room, offset, length);
            return true;
        case CacheState::kPartial:
            return false;
        case CacheState::kUnknown:
            break;
    }
    return read_without_waiting(buffered_.get(), room.first(length), offset);
}

void SourceFile::check_unchanged() const {
    check_identity(buffered_.get(), path_, identity_);
}

std::string SourceFile::direct_refusal() const {
    const std::lock_guard lock(refusal_mutex_);
    return refusal_;
}

}  // namespace pilotlight::native
