// The CUDA driver, opened at run time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "pilotlight/native/cuda_types.hpp"

namespace pilotlight::native::cuda {

/// A shared library that stays loaded until the process ends, as drivers ask.
class Library {
  public:
    /// Throws DeviceUnavailable.
    explicit Library(std::string path);

    /// Throws DeviceUnavailable.
    [[nodiscard]] void* symbol(const char* name) const;

  private:
    const std::string path_;
    void* handle_;
};

/// A function of the driver, which knows its own name.
template <typename... Arguments>
class Call {
  public:
    Call(const Library& library, const char* name)
        : name_(name), function_(reinterpret_cast<Function>(library.symbol(name))) {}

    [[nodiscard]] const char* name() const noexcept { return name_; }
    Result operator()(Arguments... arguments) const noexcept { return function_(arguments...); }

  private:
    using Function = Result (*)(Arguments...);

    const char* name_;
    Function function_;
};

/// The calls that are used, and no others; of those that the driver has in several versions,
/// the one that its header has meant since CUDA 11. Immutable; thread-safe.
class Driver {
  public:
    /// Throws DeviceUnavailable for a library that is not there or lacks a call.
    explicit Driver(const std::string& path) : library_(path) {}
    Driver(const Driver&) = delete;
    Driver& operator=(const Driver&) = delete;

    /// The driver that the environment variable PILOTLIGHT_CUDA_LIBRARY names, else libcuda.so.1;
    /// each is loaded once. Throws DeviceUnavailable.
    [[nodiscard]] static std::shared_ptr<const Driver> of_this_machine();

    /// "CUDA_ERROR_OUT_OF_MEMORY".
    [[nodiscard]] std::string name_of(Result result) const;

  private:
    const Library library_;

  public:
    const Call<unsigned> init{library_, "cuInit"};
    const Call<Result, const char**> get_error_name{library_, "cuGetErrorName"};

    const Call<int*> device_get_count{library_, "cuDeviceGetCount"};
    const Call<DeviceNumber*, int> device_get{library_, "cuDeviceGet"};
    const Call<char*, int, DeviceNumber> device_get_name{library_, "cuDeviceGetName"};
    const Call<int*, DeviceAttribute, DeviceNumber> device_get_attribute{library_,
                                                                         "cuDeviceGetAttribute"};
    const Call<std::size_t*, DeviceNumber> device_total_memory{library_, "cuDeviceTotalMem_v2"};

    const Call<Context*, DeviceNumber> primary_context_retain{library_, "cuDevicePrimaryCtxRetain"};
    const Call<DeviceNumber> primary_context_release{library_, "cuDevicePrimaryCtxRelease_v2"};
    const Call<Context> context_push{library_, "cuCtxPushCurrent_v2"};
    const Call<Context*> context_pop{library_, "cuCtxPopCurrent_v2"};
    const Call<> context_synchronize{library_, "cuCtxSynchronize"};

    const Call<std::size_t*, std::size_t*> memory_get_info{library_, "cuMemGetInfo_v2"};
    const Call<std::size_t*, const AllocationProperties*, Granularity> memory_get_granularity{
        library_, "cuMemGetAllocationGranularity"};
    const Call<DeviceAddress*, std::size_t, std::size_t, DeviceAddress, unsigned long long>
        address_reserve{library_, "cuMemAddressReserve"};
    const Call<DeviceAddress, std::size_t> address_free{library_, "cuMemAddressFree"};
    const Call<MemoryHandle*, std::size_t, const AllocationProperties*, unsigned long long>
        memory_create{library_, "cuMemCreate"};
    const Call<MemoryHandle> memory_release{library_, "cuMemRelease"};
    const Call<DeviceAddress, std::size_t, std::size_t, MemoryHandle, unsigned long long>
        memory_map{library_, "cuMemMap"};
    const Call<DeviceAddress, std::size_t> memory_unmap{library_, "cuMemUnmap"};
    const Call<DeviceAddress, std::size_t, const AccessDescription*, std::size_t> memory_set_access{
        library_, "cuMemSetAccess"};
    const Call<void*, MemoryHandle, HandleType, unsigned long long> memory_export{
        library_, "cuMemExportToShareableHandle"};
    const Call<MemoryHandle*, void*, HandleType> memory_import{library_,
                                                               "cuMemImportFromShareableHandle"};

    const Call<void*, std::size_t, unsigned> host_register{library_, "cuMemHostRegister_v2"};
    const Call<void*> host_unregister{library_, "cuMemHostUnregister"};

    const Call<Stream*, unsigned> stream_create{library_, "cuStreamCreate"};
    const Call<Stream> stream_destroy{library_, "cuStreamDestroy_v2"};
    const Call<Stream> stream_synchronize{library_, "cuStreamSynchronize"};
    const Call<Event*, unsigned> event_create{library_, "cuEventCreate"};
    const Call<Event> event_destroy{library_, "cuEventDestroy_v2"};
    const Call<Event, Stream> event_record{library_, "cuEventRecord"};
    const Call<Event> event_synchronize{library_, "cuEventSynchronize"};

    const Call<DeviceAddress, const void*, std::size_t, Stream> copy_to_device{
        library_, "cuMemcpyHtoDAsync_v2"};
    const Call<const Copy2D*, Stream> copy_rows{library_, "cuMemcpy2DAsync_v2"};
    const Call<void*, DeviceAddress, std::size_t> copy_to_host{library_, "cuMemcpyDtoH_v2"};
};

}  // namespace pilotlight::native::cuda
