// Copies to a CUDA device.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "pilotlight/native/cuda_memory.hpp"
#include "pilotlight/native/device.hpp"

namespace pilotlight::native::cuda {

/// A stream of its own; its marks are events. Not thread-safe.
class Queue final : public CopyQueue {
  public:
    /// Rows further apart than `max_pitch` bytes are copied one by one. Throws DeviceFailed.
    Queue(ContextPointer context, std::size_t max_pitch);
    ~Queue() override;

    void copy(const DeviceMemory& into, std::span<const std::byte> from,
              std::span<const CopySpan> spans) override;
    [[nodiscard]] std::unique_ptr<CopyMark> mark() override;
    void drain() noexcept override;

  private:
    void copy_span(DeviceAddress into, const std::byte* from, const CopySpan& span);
    void copy_range(DeviceAddress into, const std::byte* from, std::size_t length);
    void copy_rows(DeviceAddress into, const std::byte* from, const CopySpan& span);

    const ContextPointer context_;
    const std::size_t max_pitch_;
    Stream stream_ = nullptr;
};

}  // namespace pilotlight::native::cuda
