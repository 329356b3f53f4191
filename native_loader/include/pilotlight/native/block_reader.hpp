// How blocks get from a disk into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>

#include "pilotlight/native/source_file.hpp"

namespace pilotlight::native {

/// One block to read; `room` has space for `length` rounded up to kDirectAlignment.
struct ReadRequest {
    SourceFile* file = nullptr;
    std::span<std::byte> room;
    std::uint64_t offset = 0;  ///< in the file; a multiple of kDirectAlignment
    std::size_t length = 0;
    bool use_page_cache = false;  ///< for what is there
    std::uint64_t tag = 0;        ///< comes back with the answer
};

struct ReadAnswer {
    std::uint64_t tag = 0;
    bool is_from_page_cache = false;
    std::exception_ptr failure;
};

/// What one reader thread keeps in flight. Not thread-safe.
class BlockReader {
  public:
    BlockReader() = default;
    BlockReader(const BlockReader&) = delete;
    BlockReader& operator=(const BlockReader&) = delete;
    /// Waits for what is in flight.
    virtual ~BlockReader() = default;

    [[nodiscard]] virtual std::size_t depth() const noexcept = 0;
    /// Begin to read; at most `depth()` at a time. Never throws: failures are answers.
    virtual void start(const ReadRequest& request) noexcept = 0;
    /// Wait for any of those begun; there is one.
    [[nodiscard]] virtual ReadAnswer wait() noexcept = 0;
};

/// One at a time, by pread.
[[nodiscard]] std::unique_ptr<BlockReader> make_pread_reader();

/// Several at a time, by io_uring; null where the kernel forbids or lacks it.
[[nodiscard]] std::unique_ptr<BlockReader> make_uring_reader(std::size_t depth);

}  // namespace pilotlight::native
