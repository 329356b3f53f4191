// The devices of this machine, by their names.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "pilotlight/native/device.hpp"

namespace pilotlight::native {

/// What is known of a device before it is opened.
struct DeviceInfo {
    std::string name;   ///< "cpu", "cuda:0"
    std::string model;  ///< "NVIDIA H200"; empty for the CPU
    std::size_t total_bytes = 0;
};

/// The CPU, then the GPUs; those alone where there is no driver or no GPU.
[[nodiscard]] std::vector<DeviceInfo> available_devices();

/// The device of that name: "cpu", "cuda:1", or "cuda", which is "cuda:0". It is one object for
/// all who hold it at the same time. Throws DeviceUnavailable, DeviceFailed. Thread-safe.
[[nodiscard]] std::shared_ptr<Device> open_device(const std::string& name);

}  // namespace pilotlight::native
