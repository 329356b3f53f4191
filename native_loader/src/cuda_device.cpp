#include "pilotlight/native/cuda_device.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "pilotlight/native/cuda_memory.hpp"
#include "pilotlight/native/cuda_pins.hpp"
#include "pilotlight/native/cuda_queue.hpp"
#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

using cuda::Current;
using cuda::DeviceAttribute;
using cuda::DeviceNumber;
using cuda::Driver;
using cuda::Result;

constexpr std::size_t kModelNameBytes = 256;

std::string device_name(int number) {
    return "cuda:" + std::to_string(number);
}

// Before there is a context, what fails means that the device can't be used.
template <typename... Parameters, typename... Arguments>
void require(const Driver& driver, const std::string& device, const cuda::Call<Parameters...>& call,
             Arguments... arguments) {
    const Result result = call(arguments...);
    if (result != Result::kSuccess) {
        throw DeviceUnavailable(device,
                                std::string(call.name()) + " answered " + driver.name_of(result));
    }
}

int count(const Driver& driver, const std::string& device) {
    require(driver, device, driver.init, 0U);
    int n_devices = 0;
    require(driver, device, driver.device_get_count, &n_devices);
    return n_devices;
}

DeviceNumber find(const Driver& driver, int number) {
    const std::string name = device_name(number);
    const int n_devices = count(driver, name);
    if (number < 0 || number >= n_devices) {
        throw DeviceUnavailable(name, "the driver knows " + std::to_string(n_devices) + " devices");
    }
    DeviceNumber device = 0;
    require(driver, name, driver.device_get, &device, number);
    return device;
}

int attribute(const Driver& driver, DeviceNumber device, DeviceAttribute attribute) {
    int value = 0;
    require(driver, device_name(device), driver.device_get_attribute, &value, attribute, device);
    return value;
}

std::size_t total_memory(const Driver& driver, DeviceNumber device) {
    std::size_t total_bytes = 0;
    require(driver, device_name(device), driver.device_total_memory, &total_bytes, device);
    return total_bytes;
}

// Memory that can't be shared is still good for whoever allocates it.
cuda::AllocationProperties properties_of(const Driver& driver, DeviceNumber device) {
    cuda::AllocationProperties properties;
    properties.location.id = device;
    if (attribute(driver, device, DeviceAttribute::kPosixFileDescriptors) != 0) {
        properties.requested_handle_types = cuda::HandleType::kPosixFileDescriptor;
    }
    return properties;
}

}  // namespace

int n_cuda_devices() {
    return count(*Driver::of_this_machine(), "cuda");
}

CudaDeviceInfo cuda_device_info(int number) {
    const std::shared_ptr<const Driver> driver = Driver::of_this_machine();
    const DeviceNumber device = find(*driver, number);
    std::array<char, kModelNameBytes> model{};
    require(*driver, device_name(number), driver->device_get_name, model.data(),
            static_cast<int>(model.size() - 1), device);
    return {.model = model.data(), .total_bytes = total_memory(*driver, device)};
}

CudaDevice::CudaDevice(int number) {
    const std::shared_ptr<const Driver> driver = Driver::of_this_machine();
    const DeviceNumber device = find(*driver, number);
    if (attribute(*driver, device, DeviceAttribute::kVirtualMemoryManagement) == 0) {
        throw DeviceUnavailable(device_name(number), "it has no virtual memory management");
    }
    properties_ = properties_of(*driver, device);
    max_pitch_ = static_cast<std::size_t>(attribute(*driver, device, DeviceAttribute::kMaxPitch));
    total_bytes_ = total_memory(*driver, device);
    context_ = std::make_shared<const cuda::PrimaryContext>(driver, device_name(number), device);
    context_->require(driver->memory_get_granularity, &granularity_, &properties_,
                      cuda::Granularity::kRecommended);
}

std::shared_ptr<DeviceMemory> CudaDevice::allocate(std::size_t size_bytes) {
    if (size_bytes > total_bytes_) {
        throw DeviceMemoryRefused(name(), size_bytes, space().free_bytes);
    }
    return cuda::Memory::create(context_, size_bytes, whole_granules(size_bytes), properties_);
}

std::shared_ptr<DeviceMemory> CudaDevice::attach(int fd, std::size_t size_bytes) {
    if (size_bytes > total_bytes_) {
        throw std::invalid_argument("the device has not that much memory");
    }
    return cuda::Memory::attach(context_, size_bytes, whole_granules(size_bytes), fd);
}

// At least one, for the driver maps nothing less.
std::size_t CudaDevice::whole_granules(std::size_t size_bytes) const {
    const std::size_t n_granules = (size_bytes + granularity_ - 1) / granularity_;
    return std::max(n_granules, std::size_t{1}) * granularity_;
}

DeviceSpace CudaDevice::space() {
    const Current current(*context_);
    DeviceSpace space;
    context_->require(context_->driver().memory_get_info, &space.free_bytes, &space.total_bytes);
    return space;
}

std::unique_ptr<CopyQueue> CudaDevice::make_queue() {
    return std::make_unique<cuda::Queue>(context_, max_pitch_);
}

bool CudaDevice::pin(std::span<std::byte> memory) noexcept {
    return cuda::Pins::of_this_process().add(context_, memory);
}

void CudaDevice::unpin(std::span<std::byte> memory) noexcept {
    cuda::Pins::of_this_process().remove(memory);
}

void CudaDevice::read(const DeviceMemory& from, std::uint64_t offset, std::span<std::byte> into) {
    if (offset > from.size_bytes() || into.size() > from.size_bytes() - offset) {
        throw std::out_of_range("a read beyond the device's memory");
    }
    const auto* memory = dynamic_cast<const cuda::Memory*>(&from);
    if (memory == nullptr || memory->context().number() != context_->number()) {
        throw std::invalid_argument("the memory is another device's");
    }
    if (into.empty()) {
        return;
    }
    const Current current(*context_);
    context_->require(context_->driver().copy_to_host, static_cast<void*>(into.data()),
                      cuda::DeviceAddress{memory->address() + offset}, into.size());
}

}  // namespace pilotlight::native
