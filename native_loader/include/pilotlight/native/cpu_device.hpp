// This machine's DRAM as a device.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "pilotlight/native/device.hpp"

namespace pilotlight::native {

/// Each allocation is an arena of its own, which gets its memory as it is copied into, and other
/// processes map it privately. Copies are done by the thread that begins them. Thread-safe.
class CpuDevice final : public Device {
  public:
    [[nodiscard]] const std::string& name() const noexcept override { return name_; }
    /// Also throws MemoryRefused where the kernel refuses something else than memory.
    [[nodiscard]] std::shared_ptr<DeviceMemory> allocate(std::size_t size_bytes) override;
    [[nodiscard]] std::shared_ptr<DeviceMemory> attach(int fd, std::size_t size_bytes) override;
    /// As the kernel counts: a control group may allow less.
    [[nodiscard]] DeviceSpace space() override;
    [[nodiscard]] std::unique_ptr<CopyQueue> make_queue() override;
    /// Always true: its copies need no such thing.
    [[nodiscard]] bool pin(std::span<std::byte> memory) noexcept override;
    void unpin(std::span<std::byte> memory) noexcept override;
    void read(const DeviceMemory& from, std::uint64_t offset, std::span<std::byte> into) override;

  private:
    const std::string name_ = "cpu";
};

}  // namespace pilotlight::native
