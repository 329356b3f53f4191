// Memory of a CUDA device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "pilotlight/native/cuda_context.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/device.hpp"

namespace pilotlight::native::cuda {

using ContextPointer = std::shared_ptr<const PrimaryContext>;

/// Physical memory, which is kept while somebody holds, maps or has exported it. Immutable.
class Physical {
  public:
    Physical(ContextPointer context, MemoryHandle handle)
        : context_(std::move(context)), handle_(handle) {}
    Physical(const Physical&) = delete;
    Physical& operator=(const Physical&) = delete;
    ~Physical() { (void)context_->driver().memory_release(handle_); }

    [[nodiscard]] const ContextPointer& context() const noexcept { return context_; }
    [[nodiscard]] MemoryHandle handle() const noexcept { return handle_; }

  private:
    const ContextPointer context_;
    const MemoryHandle handle_;
};

/// Physical memory at an address of its device, in this process. Immutable; thread-safe.
class Memory final : public DeviceMemory {
  public:
    /// Take new memory. Throws DeviceMemoryRefused, DeviceFailed.
    [[nodiscard]] static std::shared_ptr<Memory> create(const ContextPointer& context,
                                                        std::size_t size_bytes,
                                                        std::size_t padded_bytes,
                                                        const AllocationProperties& properties);
    /// Map what another process exported. Throws DeviceFailed.
    [[nodiscard]] static std::shared_ptr<Memory> attach(const ContextPointer& context,
                                                        std::size_t size_bytes,
                                                        std::size_t padded_bytes, int fd);

    Memory(std::unique_ptr<const Physical> physical, std::size_t size_bytes,
           std::size_t padded_bytes);
    /// Waits for what still runs on the device, which may use it.
    ~Memory() override;

    [[nodiscard]] std::uint64_t address() const noexcept override { return range_.address; }
    [[nodiscard]] std::size_t size_bytes() const noexcept override { return size_bytes_; }
    [[nodiscard]] std::span<std::byte> host_bytes() const noexcept override { return {}; }
    [[nodiscard]] Descriptor exported() const override;

    [[nodiscard]] const PrimaryContext& context() const noexcept { return *physical_->context(); }

  private:
    struct Range {
        Range(const Driver& driver, std::size_t size_bytes)
            : driver(driver), size_bytes(size_bytes) {}
        Range(const Range&) = delete;
        Range& operator=(const Range&) = delete;
        ~Range();

        const Driver& driver;
        const std::size_t size_bytes;
        DeviceAddress address = 0;  ///< none until it is reserved
        bool is_mapped = false;
    };

    const std::unique_ptr<const Physical> physical_;
    const std::size_t size_bytes_;
    Range range_;
};

}  // namespace pilotlight::native::cuda
