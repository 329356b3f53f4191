// The kernel's queues for many reads at once.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "pilotlight/native/descriptor.hpp"

struct io_uring_cqe;
struct io_uring_params;
struct io_uring_sqe;

namespace pilotlight::native {

/// A read that is over.
struct Completion {
    std::uint64_t tag = 0;
    std::int32_t result = 0;  ///< the bytes read, or -errno
};

/// One io_uring, with what the first kernels that had it know. Not thread-safe.
///
/// What is in flight must be over before it goes: the kernel writes into the targets until then.
class Uring {
  public:
    /// Null where the kernel lacks it, forbids it or has no room for it.
    [[nodiscard]] static std::unique_ptr<Uring> open(unsigned n_entries) noexcept;

    /// Have the kernel begin a read; false if it refuses. `target` must stay where it is until
    /// the read is over; no more than `n_entries` may be in flight.
    [[nodiscard]] bool begin_read(int fd, const iovec& target, std::uint64_t offset,
                                  std::uint64_t tag) noexcept;

    /// Wait for one of those in flight; there is one.
    [[nodiscard]] Completion wait() noexcept;

  private:
    // A part of the ring's memory.
    class Mapping {
      public:
        Mapping() = default;
        Mapping(int fd, std::uint64_t offset, std::size_t size) noexcept;
        Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
        Mapping& operator=(Mapping&& other) noexcept {
            std::swap(bytes_, other.bytes_);
            return *this;
        }
        Mapping(const Mapping&) = delete;
        Mapping& operator=(const Mapping&) = delete;
        ~Mapping();

        explicit operator bool() const noexcept { return !bytes_.empty(); }
        template <typename T>
        [[nodiscard]] T* at(std::size_t offset) const noexcept {
            return reinterpret_cast<T*>(bytes_.data() + offset);
        }

      private:
        std::span<std::byte> bytes_;
    };

    explicit Uring(Descriptor ring) noexcept : ring_(std::move(ring)) {}
    [[nodiscard]] bool map(const io_uring_params& params) noexcept;
    [[nodiscard]] bool answers() noexcept;
    [[nodiscard]] bool submit(const io_uring_sqe& entry) noexcept;
    [[nodiscard]] std::optional<Completion> take() noexcept;

    const Descriptor ring_;
    Mapping submissions_;
    Mapping completions_;
    Mapping entries_memory_;
    io_uring_sqe* entries_ = nullptr;
    unsigned* submission_head_ = nullptr;
    unsigned* submission_tail_ = nullptr;
    unsigned* submission_array_ = nullptr;
    unsigned submission_mask_ = 0;
    unsigned* completion_head_ = nullptr;
    unsigned* completion_tail_ = nullptr;
    io_uring_cqe* completed_ = nullptr;
    unsigned completion_mask_ = 0;
};

}  // namespace pilotlight::native
