// NVIDIA's GPUs, by the CUDA driver.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "pilotlight/native/cuda_context.hpp"
#include "pilotlight/native/device.hpp"

namespace pilotlight::native {

/// What is known of a GPU before it is used.
struct CudaDeviceInfo {
    std::string model;  ///< "NVIDIA H200"
    std::size_t total_bytes = 0;
};

/// How many there are. Throws DeviceUnavailable where there is no driver.
[[nodiscard]] int n_cuda_devices();
/// Throws DeviceUnavailable for a number that none has.
[[nodiscard]] CudaDeviceInfo cuda_device_info(int number);

/// One GPU. Memory is a mapping of physical memory, in the granularity that the driver
/// recommends, so that another process can map it too. Thread-safe.
class CudaDevice final : public Device {
  public:
    /// Throws DeviceUnavailable where there is no driver or no such device, or it lacks virtual
    /// memory management; DeviceFailed.
    explicit CudaDevice(int number);

    [[nodiscard]] const std::string& name() const noexcept override { return context_->device(); }
    [[nodiscard]] std::shared_ptr<DeviceMemory> allocate(std::size_t size_bytes) override;
    [[nodiscard]] std::shared_ptr<DeviceMemory> attach(int fd, std::size_t size_bytes) override;
    [[nodiscard]] DeviceSpace space() override;
    [[nodiscard]] std::unique_ptr<CopyQueue> make_queue() override;
    [[nodiscard]] bool pin(std::span<std::byte> memory) noexcept override;
    void unpin(std::span<std::byte> memory) noexcept override;
    void read(const DeviceMemory& from, std::uint64_t offset, std::span<std::byte> into) override;

  private:
    [[nodiscard]] std::size_t whole_granules(std::size_t size_bytes) const;

    std::shared_ptr<const cuda::PrimaryContext> context_;
    cuda::AllocationProperties properties_;
    std::size_t granularity_ = 0;
    std::size_t max_pitch_ = 0;
    std::size_t total_bytes_ = 0;
};

}  // namespace pilotlight::native
