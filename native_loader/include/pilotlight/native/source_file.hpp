// A weight file that is being read.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "pilotlight/native/descriptor.hpp"

namespace pilotlight::native {

/// Blocks are multiples of this and start at multiples of it, in the file and in memory:
/// no file system or disk is known that asks more of direct reads.
inline constexpr std::size_t kDirectAlignment = 4096;

/// Two files with equal identities hold the same bytes: writing changes ctime_ns.
struct FileIdentity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t size_bytes = 0;
    std::int64_t mtime_ns = 0;
    std::int64_t ctime_ns = 0;

    bool operator==(const FileIdentity&) const = default;
};

/// What `pread` does: returns the number of bytes read, or -1 with errno set.
using ReadCall = std::function<ssize_t(std::byte* into, std::size_t length, std::uint64_t offset)>;

enum class ReadStatus {
    kDone,
    kEnded,    ///< the file ends before the asked-for range does
    kRefused,  ///< EINVAL: this kind of reading is not supported by the file system
};

/// Read `length` bytes at `offset` into `room`, however many calls it takes.
///
/// Every call starts and ends at a multiple of `alignment` (1 for buffered reads), so `room`
/// must have space for `length` rounded up to it. Throws ReadFailed for other errors.
[[nodiscard]] ReadStatus read_range(const ReadCall& read, std::span<std::byte> room,
                                    std::uint64_t offset, std::size_t length, std::size_t alignment,
                                    const std::string& path);

/// An open weight file: direct where the file system allows it, else through the page cache.
/// Thread-safe.
class SourceFile {
  public:
    /// Throws ReadFailed if it can't be opened, FileChanged if it is another file by now.
    [[nodiscard]] static std::unique_ptr<SourceFile> open(const std::string& path,
                                                          const FileIdentity& expected);

    /// Fill the start of `room` with `length` bytes at `offset`, which is a multiple of
    /// kDirectAlignment; `room` has space for `length` rounded up to it.
    void read(std::span<std::byte> room, std::uint64_t offset, std::size_t length);

    /// The same through the page cache.
    void read_buffered(std::span<std::byte> room, std::uint64_t offset, std::size_t length) const;

    /// Fill the start of `room` as `read_buffered` does if the page cache holds the whole range.
    /// Returns false, with anything in `room`, if it does not or the kernel can't say.
    [[nodiscard]] bool read_cached(std::span<std::byte> room, std::uint64_t offset,
                                   std::size_t length) const;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }

    /// For direct reads of others, which say by `read` what they could not do; -1 where direct
    /// reads are refused.
    [[nodiscard]] int direct_fd() const noexcept { return is_direct_ ? direct_.get() : -1; }

    /// Throws FileChanged if the file is not what it was when it was opened.
    void check_unchanged() const;

    /// Why direct reads were refused; empty where they were not.
    [[nodiscard]] std::string direct_refusal() const;

  private:
    SourceFile(std::string path, const FileIdentity& identity, Descriptor buffered);
    void open_direct();
    void refuse_direct(int error_number);

    const std::string path_;
    const FileIdentity identity_;
    const Descriptor buffered_;
    Descriptor direct_;
    std::atomic<bool> is_direct_ = false;
    mutable std::mutex refusal_mutex_;
    std::string refusal_;
};

}  // namespace pilotlight::native
