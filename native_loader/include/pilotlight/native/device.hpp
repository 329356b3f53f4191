// Where weights end up: devices behind one small interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "pilotlight/native/descriptor.hpp"

namespace pilotlight::native {

/// Rows of bytes on their way from a chunk into a device's memory; one row for a plain range,
/// whose strides say nothing.
struct CopySpan {
    std::uint64_t from = 0;    ///< of the first row, in the chunk
    std::uint64_t to = 0;      ///< of the first row, in the device's memory
    std::uint64_t length = 0;  ///< of each row, in bytes
    std::uint64_t n_rows = 1;
    std::uint64_t from_stride = 0;  ///< bytes from one row's start to the next's
    std::uint64_t to_stride = 0;

    bool operator==(const CopySpan&) const = default;
};

/// Throws std::out_of_range unless every span lies inside both, std::invalid_argument where
/// rows overlap.
void check_spans(std::span<const CopySpan> spans, std::uint64_t from_bytes, std::uint64_t to_bytes);

/// How much memory a device has.
struct DeviceSpace {
    std::size_t total_bytes = 0;
    std::size_t free_bytes = 0;
};

/// Memory on a device, given back with its owner. Immutable; thread-safe.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    virtual ~DeviceMemory() = default;

    /// As the device counts: not an address of this process's unless the device is its memory.
    [[nodiscard]] virtual std::uint64_t address() const noexcept = 0;
    [[nodiscard]] virtual std::size_t size_bytes() const noexcept = 0;
    /// The same memory for this process's loads and stores; empty where it has no such way to it.
    [[nodiscard]] virtual std::span<std::byte> host_bytes() const noexcept = 0;
    /// A descriptor by which another process maps it; the memory lives as long as one of them,
    /// or a mapping. Throws DeviceFailed.
    [[nodiscard]] virtual Descriptor exported() const = 0;
};

/// A point in a CopyQueue that is reached when all copies before it are done.
class CopyMark {
  public:
    CopyMark() = default;
    CopyMark(const CopyMark&) = delete;
    CopyMark& operator=(const CopyMark&) = delete;
    virtual ~CopyMark() = default;

    /// Wait until it is reached. Throws DeviceFailed if a copy before it failed.
    virtual void wait() = 0;
};

/// Copies of one device, done in order and asynchronously. Not thread-safe.
class CopyQueue {
  public:
    CopyQueue() = default;
    CopyQueue(const CopyQueue&) = delete;
    CopyQueue& operator=(const CopyQueue&) = delete;
    virtual ~CopyQueue() = default;

    /// Begin to copy; source and target stay as they are until a later mark is reached.
    /// Throws what check_spans throws, std::invalid_argument for another device's memory,
    /// DeviceFailed, DeviceMemoryRefused. A part of the copies may have begun then.
    virtual void copy(const DeviceMemory& into, std::span<const std::byte> from,
                      std::span<const CopySpan> spans) = 0;
    /// Throws DeviceFailed.
    [[nodiscard]] virtual std::unique_ptr<CopyMark> mark() = 0;
    /// Wait until nothing is being copied any more of what was begun so far, whether or not it
    /// arrived. Thread-safe.
    virtual void drain() noexcept = 0;
};

/// Thread-safe.
class Device {
  public:
    Device() = default;
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    virtual ~Device() = default;

    /// "cpu", "cuda:0".
    [[nodiscard]] virtual const std::string& name() const noexcept = 0;
    /// Throws DeviceMemoryRefused when it is full, DeviceFailed.
    [[nodiscard]] virtual std::shared_ptr<DeviceMemory> allocate(std::size_t size_bytes) = 0;
    /// Map what another process exported as such a size. Throws DeviceFailed, MemoryRefused,
    /// std::invalid_argument where it is smaller or of another kind.
    [[nodiscard]] virtual std::shared_ptr<DeviceMemory> attach(int fd, std::size_t size_bytes) = 0;
    /// Throws DeviceFailed.
    [[nodiscard]] virtual DeviceSpace space() = 0;
    /// Throws DeviceFailed.
    [[nodiscard]] virtual std::unique_ptr<CopyQueue> make_queue() = 0;
    /// Have memory of this process stay in place, so that copies from it run at the link's speed.
    /// Return false where the device or the system refuses; copies then work, but slower. A copy
    /// reads from one pinned range at a time. Each pin of a range ends by one unpin of it.
    [[nodiscard]] virtual bool pin(std::span<std::byte> memory) noexcept = 0;
    virtual void unpin(std::span<std::byte> memory) noexcept = 0;
    /// Copy back, for checks; waits. Throws DeviceFailed, std::out_of_range.
    virtual void read(const DeviceMemory& from, std::uint64_t offset,
                      std::span<std::byte> into) = 0;
};

}  // namespace pilotlight::native
