// The driver's functions, as far as Pilotlight calls them.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "calling.hpp"
#include "copying.hpp"

namespace driver = pilotlight::native::cuda;

using fake_cuda::begin_copy;
using fake_cuda::ContextStack;
using fake_cuda::Copy;
using fake_cuda::Device;
using fake_cuda::Entered;
using fake_cuda::found;
using fake_cuda::handle_of;
using fake_cuda::id_of;
using fake_cuda::kGranularity;
using fake_cuda::Machine;
using fake_cuda::Mapping;
using fake_cuda::mapping_of;
using fake_cuda::Physical;
using fake_cuda::Registration;
using fake_cuda::taken;

using driver::AccessDescription;
using driver::AllocationProperties;
using driver::Copy2D;
using driver::DeviceAddress;
using driver::DeviceAttribute;
using driver::DeviceNumber;
using driver::Granularity;
using driver::HandleType;
using driver::MemoryHandle;
using driver::Result;

namespace {

constexpr std::array<std::pair<Result, const char*>, 16> kNames{{
    {Result::kSuccess, "CUDA_SUCCESS"},
    {Result::kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
    {Result::kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
    {Result::kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED"},
    {Result::kDeinitialized, "CUDA_ERROR_DEINITIALIZED"},
    {Result::kNoDevice, "CUDA_ERROR_NO_DEVICE"},
    {Result::kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
    {Result::kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
    {Result::kEccUncorrectable, "CUDA_ERROR_ECC_UNCORRECTABLE"},
    {Result::kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
    {Result::kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {Result::kHostMemoryAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
    {Result::kHostMemoryNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"},
    {Result::kNotPermitted, "CUDA_ERROR_NOT_PERMITTED"},
    {Result::kNotSupported, "CUDA_ERROR_NOT_SUPPORTED"},
    {Result::kUnknown, "CUDA_ERROR_UNKNOWN"},
}};

std::shared_ptr<Device> device_of(const Machine& machine, int number) {
    const bool is_known = 0 <= number && number < static_cast<int>(machine.devices.size());
    return is_known ? machine.devices[static_cast<std::size_t>(number)] : nullptr;
}

std::shared_ptr<fake_cuda::Stream> stream_of(const Entered& entered, driver::Stream handle) {
    const std::shared_ptr<fake_cuda::Stream> stream = found(entered.machine.streams, id_of(handle));
    return stream && stream->device() == entered.device ? stream : nullptr;
}

bool overlaps_registration(const Machine& machine, std::uintptr_t begin, std::size_t size) {
    return std::ranges::any_of(machine.registrations, [&](const auto& entry) {
        return begin < entry.first + entry.second->size && entry.first < begin + size;
    });
}

bool is_context_used(const Machine& machine, const std::shared_ptr<Device>& device) {
    const auto is_of_device = [&](const auto& entry) { return entry.second->device == device; };
    const auto is_on_device = [&](const auto& entry) { return entry.second->device() == device; };
    return std::ranges::any_of(machine.events, is_of_device) ||
           std::ranges::any_of(machine.streams, is_on_device);
}

Result carry_rows(const char* function, driver::Stream stream, const Copy& copy) {
    Entered entered(function);
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const std::shared_ptr<fake_cuda::Stream> target = stream_of(entered, stream);
    return target ? begin_copy(entered.machine, *target, copy) : Result::kInvalidHandle;
}

void reach(fake_cuda::Event& event, std::chrono::nanoseconds delay) {
    std::this_thread::sleep_for(delay);
    {
        const std::scoped_lock lock(event.mutex);
        ++event.n_reached;
    }
    event.changed.notify_all();
}

}  // namespace

extern "C" {

Result cuInit(unsigned /*flags*/) {
    const Entered entered("cuInit");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    return entered.machine.devices.empty() ? Result::kNoDevice : Result::kSuccess;
}

Result cuGetErrorName(Result result, const char** name) {
    const auto* place = std::ranges::find(kNames, result, &std::pair<Result, const char*>::first);
    *name = place == kNames.end() ? nullptr : place->second;
    return *name == nullptr ? Result::kInvalidValue : Result::kSuccess;
}

Result cuDeviceGetCount(int* count) {
    const Entered entered("cuDeviceGetCount");
    *count = static_cast<int>(entered.machine.devices.size());
    return entered.result();
}

Result cuDeviceGet(DeviceNumber* device, int ordinal) {
    const Entered entered("cuDeviceGet");
    *device = ordinal;
    return device_of(entered.machine, ordinal) ? entered.result() : Result::kInvalidDevice;
}

Result cuDeviceGetName(char* name, int length, DeviceNumber device) {
    const Entered entered("cuDeviceGetName");
    const std::string text = "Fake " + std::to_string(device);
    std::memset(name, 0, static_cast<std::size_t>(length));
    text.copy(name, static_cast<std::size_t>(length) - 1);
    return entered.result();
}

Result cuDeviceGetAttribute(int* value, DeviceAttribute attribute, DeviceNumber /*device*/) {
    const Entered entered("cuDeviceGetAttribute");
    switch (attribute) {
        case DeviceAttribute::kMaxPitch:
            *value = entered.machine.max_pitch;
            break;
        case DeviceAttribute::kVirtualMemoryManagement:
            *value = entered.machine.has_virtual_memory ? 1 : 0;
            break;
        case DeviceAttribute::kPosixFileDescriptors:
            *value = entered.machine.is_exportable ? 1 : 0;
            break;
    }
    return entered.result();
}

Result cuDeviceTotalMem_v2(std::size_t* bytes, DeviceNumber number) {
    const Entered entered("cuDeviceTotalMem_v2");
    *bytes = entered.machine.devices.at(static_cast<std::size_t>(number))->total_bytes;
    return entered.result();
}

Result cuDevicePrimaryCtxRetain(driver::Context* context, DeviceNumber number) {
    const Entered entered("cuDevicePrimaryCtxRetain");
    if (entered.result() == Result::kSuccess) {
        ++entered.machine.devices.at(static_cast<std::size_t>(number))->n_retained;
        *context = handle_of<driver::Context>(static_cast<std::uint64_t>(number) + 1);
    }
    return entered.result();
}

Result cuDevicePrimaryCtxRelease_v2(DeviceNumber number) {
    const Entered entered("cuDevicePrimaryCtxRelease_v2");
    const std::shared_ptr<Device> device = device_of(entered.machine, number);
    if (!device || device->n_retained == 0) {
        entered.machine.misuse("a context is released more often than it was retained");
        return Result::kInvalidContext;
    }
    if (--device->n_retained == 0 && is_context_used(entered.machine, device)) {
        entered.machine.misuse("a context is released while it has streams or events");
    }
    return entered.result();
}

Result cuCtxPushCurrent_v2(driver::Context context) {
    const Entered entered("cuCtxPushCurrent_v2");
    const std::shared_ptr<Device> device =
        device_of(entered.machine, static_cast<int>(id_of(context)) - 1);
    if (!device || device->n_retained == 0) {
        entered.machine.misuse("a context is entered that nobody retains");
        return Result::kInvalidContext;
    }
    if (entered.result() == Result::kSuccess) {
        ContextStack::of_this_thread().push(device);
    }
    return entered.result();
}

Result cuCtxPopCurrent_v2(driver::Context* context) {
    const Entered entered("cuCtxPopCurrent_v2");
    const std::shared_ptr<Device> device = ContextStack::of_this_thread().pop();
    if (!device) {
        entered.machine.misuse("a context is left that was not entered");
        return Result::kInvalidContext;
    }
    *context = handle_of<driver::Context>(static_cast<std::uint64_t>(device->number) + 1);
    return entered.result();
}

Result cuCtxSynchronize() {
    Entered entered("cuCtxSynchronize");
    if (!entered.device) {
        return Result::kInvalidContext;
    }
    std::vector<std::shared_ptr<fake_cuda::Stream>> streams;
    for (const auto& [id, stream] : entered.machine.streams) {
        if (stream->device() == entered.device) {
            streams.push_back(stream);
        }
    }
    entered.unlock();
    for (const std::shared_ptr<fake_cuda::Stream>& stream : streams) {
        stream->wait();
    }
    return entered.result_in_context();
}

Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
    const Entered entered("cuMemGetInfo_v2");
    const Result result = entered.result_in_context();
    if (result == Result::kSuccess) {
        *total = entered.device->total_bytes;
        *free = *total - entered.device->used_bytes;
    }
    return result;
}

Result cuMemGetAllocationGranularity(std::size_t* granularity,
                                     const AllocationProperties* /*properties*/,
                                     Granularity /*option*/) {
    const Entered entered("cuMemGetAllocationGranularity");
    *granularity = kGranularity;
    return entered.result();
}

Result cuMemAddressReserve(DeviceAddress* address, std::size_t size, std::size_t /*alignment*/,
                           DeviceAddress /*wanted*/, unsigned long long /*flags*/) {
    const Entered entered("cuMemAddressReserve");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    if (size == 0 || size % kGranularity != 0) {
        return Result::kInvalidValue;
    }
    Machine& machine = entered.machine;
    *address = machine.next_address;
    // With a gap, so that what runs over the end hits nothing.
    machine.next_address += size + kGranularity;
    machine.reservations[*address] = size;
    return Result::kSuccess;
}

Result cuMemAddressFree(DeviceAddress address, std::size_t size) {
    const Entered entered("cuMemAddressFree");
    const auto place = entered.machine.reservations.find(address);
    if (place == entered.machine.reservations.end() || place->second != size) {
        entered.machine.misuse("addresses are freed that were not reserved");
        return Result::kInvalidValue;
    }
    if (entered.machine.mappings.contains(address)) {
        entered.machine.misuse("addresses are freed while memory is mapped there");
    }
    entered.machine.reservations.erase(place);
    return entered.result();
}

Result cuMemCreate(MemoryHandle* handle, std::size_t size, const AllocationProperties* properties,
                   unsigned long long /*flags*/) {
    const Entered entered("cuMemCreate");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    const std::shared_ptr<Device> device = device_of(entered.machine, properties->location.id);
    if (!device || size == 0 || size % kGranularity != 0) {
        return Result::kInvalidValue;
    }
    if (device->failure != Result::kSuccess) {
        return device->failure;
    }
    if (size > device->total_bytes - device->used_bytes) {
        return Result::kOutOfMemory;
    }
    std::shared_ptr<Physical> physical = Physical::create(
        device, size, properties->requested_handle_types == HandleType::kPosixFileDescriptor);
    if (!physical) {
        return Result::kOutOfMemory;
    }
    *handle = ++entered.machine.last_id;
    entered.machine.handles[*handle] = std::move(physical);
    return Result::kSuccess;
}

Result cuMemRelease(MemoryHandle handle) {
    const Entered entered("cuMemRelease");
    if (!taken(entered.machine.handles, handle)) {
        entered.machine.misuse("memory is released that is not held");
        return Result::kInvalidValue;
    }
    return entered.result();
}

Result cuMemMap(DeviceAddress address, std::size_t size, std::size_t offset, MemoryHandle handle,
                unsigned long long /*flags*/) {
    const Entered entered("cuMemMap");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    Machine& machine = entered.machine;
    const std::shared_ptr<Physical> physical = found(machine.handles, handle);
    const auto reserved = machine.reservations.find(address);
    const bool fits = physical && physical->bytes().size() == size && offset == 0 &&
                      reserved != machine.reservations.end() && reserved->second == size;
    if (!fits || machine.mappings.contains(address)) {
        return Result::kInvalidValue;
    }
    machine.mappings[address] = std::make_shared<Mapping>(
        Mapping{.address = address, .physical = physical, .is_accessible = false});
    return Result::kSuccess;
}

Result cuMemUnmap(DeviceAddress address, std::size_t size) {
    const Entered entered("cuMemUnmap");
    const std::shared_ptr<Mapping> mapping = found(entered.machine.mappings, address);
    if (!mapping || mapping->physical->bytes().size() != size) {
        entered.machine.misuse("memory is unmapped that is not mapped");
        return Result::kInvalidValue;
    }
    entered.machine.mappings.erase(address);
    return entered.result();
}

Result cuMemSetAccess(DeviceAddress address, std::size_t size, const AccessDescription* access,
                      std::size_t n_accesses) {
    const Entered entered("cuMemSetAccess");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    const std::shared_ptr<Mapping> mapping = found(entered.machine.mappings, address);
    if (!mapping || mapping->physical->bytes().size() != size || n_accesses != 1 ||
        access->flags != driver::AccessFlags::kReadWrite) {
        return Result::kInvalidValue;
    }
    mapping->is_accessible = true;
    return Result::kSuccess;
}

Result cuMemExportToShareableHandle(void* descriptor, MemoryHandle handle, HandleType type,
                                    unsigned long long /*flags*/) {
    const Entered entered("cuMemExportToShareableHandle");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    const std::shared_ptr<Physical> physical = found(entered.machine.handles, handle);
    if (!physical || !physical->is_exportable() || type != HandleType::kPosixFileDescriptor) {
        return Result::kInvalidValue;
    }
    *static_cast<int*>(descriptor) = physical->exported();
    return Result::kSuccess;
}

Result cuMemImportFromShareableHandle(MemoryHandle* handle, void* descriptor, HandleType type) {
    const Entered entered("cuMemImportFromShareableHandle");
    if (entered.result() != Result::kSuccess) {
        return entered.result();
    }
    std::shared_ptr<Physical> physical = Physical::imported(static_cast<int>(id_of(descriptor)));
    if (!physical || type != HandleType::kPosixFileDescriptor) {
        return Result::kInvalidValue;
    }
    *handle = ++entered.machine.last_id;
    entered.machine.handles[*handle] = std::move(physical);
    return Result::kSuccess;
}

Result cuMemHostRegister_v2(void* memory, std::size_t size, unsigned flags) {
    const Entered entered("cuMemHostRegister_v2");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    if (overlaps_registration(entered.machine, begin, size)) {
        return Result::kHostMemoryAlreadyRegistered;
    }
    if (size == 0 || flags != driver::kHostRegisterPortable) {
        return Result::kInvalidValue;
    }
    entered.machine.registrations[begin] =
        std::make_shared<Registration>(Registration{.size = size, .n_in_use = 0});
    return Result::kSuccess;
}

Result cuMemHostUnregister(void* memory) {
    const Entered entered("cuMemHostUnregister");
    if (!entered.device) {
        return Result::kInvalidContext;
    }
    const std::shared_ptr<Registration> registration =
        taken(entered.machine.registrations, reinterpret_cast<std::uintptr_t>(memory));
    if (!registration) {
        entered.machine.misuse("memory is unregistered that was not registered");
        return Result::kHostMemoryNotRegistered;
    }
    if (registration->n_in_use > 0) {
        entered.machine.misuse("memory is unregistered before a copy from it is done");
    }
    return entered.result();
}

Result cuStreamCreate(driver::Stream* stream, unsigned flags) {
    const Entered entered("cuStreamCreate");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    if (flags != driver::kStreamNonBlocking) {
        return Result::kInvalidValue;
    }
    const std::uint64_t id = ++entered.machine.last_id;
    entered.machine.streams[id] = std::make_shared<fake_cuda::Stream>(entered.device);
    *stream = handle_of<driver::Stream>(id);
    return Result::kSuccess;
}

Result cuStreamDestroy_v2(driver::Stream stream) {
    Entered entered("cuStreamDestroy_v2");
    const std::shared_ptr<fake_cuda::Stream> ending = taken(entered.machine.streams, id_of(stream));
    if (!ending) {
        entered.machine.misuse("a stream is destroyed that is none");
        return Result::kInvalidHandle;
    }
    entered.unlock();
    return entered.result();
}

Result cuStreamSynchronize(driver::Stream stream) {
    Entered entered("cuStreamSynchronize");
    const std::shared_ptr<fake_cuda::Stream> waiting = stream_of(entered, stream);
    if (!waiting) {
        return Result::kInvalidHandle;
    }
    entered.unlock();
    waiting->wait();
    return entered.result_in_context();
}

Result cuEventCreate(driver::Event* event, unsigned /*flags*/) {
    const Entered entered("cuEventCreate");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const std::uint64_t id = ++entered.machine.last_id;
    entered.machine.events[id] = std::make_shared<fake_cuda::Event>(entered.device);
    *event = handle_of<driver::Event>(id);
    return Result::kSuccess;
}

Result cuEventDestroy_v2(driver::Event event) {
    const Entered entered("cuEventDestroy_v2");
    if (!taken(entered.machine.events, id_of(event))) {
        entered.machine.misuse("an event is destroyed that is none");
        return Result::kInvalidHandle;
    }
    return entered.result();
}

Result cuEventRecord(driver::Event event, driver::Stream stream) {
    const Entered entered("cuEventRecord");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const std::shared_ptr<fake_cuda::Event> recorded = found(entered.machine.events, id_of(event));
    const std::shared_ptr<fake_cuda::Stream> target = stream_of(entered, stream);
    if (!recorded || !target) {
        return Result::kInvalidHandle;
    }
    {
        const std::scoped_lock lock(recorded->mutex);
        ++recorded->n_recorded;
    }
    target->add([recorded, delay = entered.machine.event_delay] { reach(*recorded, delay); });
    return Result::kSuccess;
}

Result cuEventSynchronize(driver::Event event) {
    Entered entered("cuEventSynchronize");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const std::shared_ptr<fake_cuda::Event> waiting = found(entered.machine.events, id_of(event));
    if (!waiting) {
        return Result::kInvalidHandle;
    }
    entered.unlock();
    std::unique_lock lock(waiting->mutex);
    const std::uint64_t wanted = waiting->n_recorded;
    waiting->changed.wait(lock, [&] { return waiting->n_reached >= wanted; });
    return waiting->device->failure;
}

Result cuMemcpyHtoDAsync_v2(DeviceAddress to, const void* from, std::size_t size,
                            driver::Stream stream) {
    return carry_rows("cuMemcpyHtoDAsync_v2", stream,
                      {.from = static_cast<const std::byte*>(from), .to = to, .length = size});
}

Result cuMemcpy2DAsync_v2(const Copy2D* rows, driver::Stream stream) {
    const bool is_as_expected = rows->source_type == driver::MemoryType::kHost &&
                                rows->target_type == driver::MemoryType::kDevice &&
                                rows->source_x_bytes == 0 && rows->source_y == 0 &&
                                rows->target_x_bytes == 0 && rows->target_y == 0;
    const std::size_t max_pitch = [] {
        Machine& machine = Machine::instance();
        const std::scoped_lock lock(machine.mutex);
        return static_cast<std::size_t>(machine.max_pitch);
    }();
    const std::size_t least = std::min(rows->source_pitch, rows->target_pitch);
    const std::size_t greatest = std::max(rows->source_pitch, rows->target_pitch);
    if (!is_as_expected || least < rows->width_bytes || greatest > max_pitch) {
        return Result::kInvalidValue;
    }
    return carry_rows("cuMemcpy2DAsync_v2", stream,
                      {.from = static_cast<const std::byte*>(rows->source_host),
                       .from_stride = rows->source_pitch,
                       .to = rows->target_device,
                       .to_stride = rows->target_pitch,
                       .length = rows->width_bytes,
                       .n_rows = rows->height});
}

Result cuMemcpyDtoH_v2(void* to, DeviceAddress from, std::size_t size) {
    const Entered entered("cuMemcpyDtoH_v2");
    const Result result = entered.result_in_context();
    if (result != Result::kSuccess) {
        return result;
    }
    const std::shared_ptr<Mapping> mapping = mapping_of(entered.machine, from, size);
    if (!mapping || !mapping->is_accessible) {
        entered.machine.misuse("a copy comes from where no memory is mapped");
        return Result::kInvalidValue;
    }
    std::memcpy(to, mapping->physical->bytes().data() + (from - mapping->address), size);
    return Result::kSuccess;
}
}
