#include "pilotlight/native/devices.hpp"

#include <charconv>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>

#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/cuda_device.hpp"
#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

constexpr std::string_view kCpu = "cpu";
constexpr std::string_view kCuda = "cuda";
constexpr std::string_view kCudaPrefix = "cuda:";

// The number in "cuda:1"; 0 in "cuda".
std::optional<int> cuda_number(std::string_view name) {
    if (name == kCuda) {
        return 0;
    }
    if (!name.starts_with(kCudaPrefix)) {
        return std::nullopt;
    }
    const std::string_view digits = name.substr(kCudaPrefix.size());
    int number = 0;
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), number);
    const bool is_number = error == std::errc() && end == digits.end() && digits.front() != '-';
    return is_number ? std::optional(number) : std::nullopt;
}

std::shared_ptr<Device> make_device(const std::string& name, std::optional<int> number) {
    if (name == kCpu) {
        return std::make_shared<CpuDevice>();
    }
    if (!number) {
        throw DeviceUnavailable(name, "devices are called 'cpu', 'cuda', 'cuda:1'");
    }
    return std::make_shared<CudaDevice>(*number);
}

int n_cuda_devices_if_any() {
    try {
        return n_cuda_devices();
    } catch (const DeviceUnavailable&) {
        return 0;
    }
}

}  // namespace

std::vector<DeviceInfo> available_devices() {
    std::vector<DeviceInfo> found{
        {.name = std::string(kCpu), .model = "", .total_bytes = CpuDevice().space().total_bytes}};
    const int n_devices = n_cuda_devices_if_any();
    for (int number = 0; number < n_devices; ++number) {
        CudaDeviceInfo info = cuda_device_info(number);
        found.push_back({.name = std::string(kCudaPrefix) + std::to_string(number),
                         .model = std::move(info.model),
                         .total_bytes = info.total_bytes});
    }
    return found;
}

std::shared_ptr<Device> open_device(const std::string& name) {
    static std::mutex mutex;
    static std::map<std::string, std::weak_ptr<Device>> opened;
    const std::optional<int> number = cuda_number(name);
    const std::string key = number ? std::string(kCudaPrefix) + std::to_string(*number) : name;
    // To open a GPU takes a while, and the drivers of several open one after the other anyway.
    const std::scoped_lock lock(mutex);
    const auto found = opened.find(key);
    if (found != opened.end()) {
        if (std::shared_ptr<Device> device = found->second.lock()) {
            return device;
        }
    }
    std::shared_ptr<Device> device = make_device(key, number);
    opened[key] = device;
    return device;
}

}  // namespace pilotlight::native
