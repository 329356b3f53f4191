// What the CUDA driver API is spoken in, as far as it is used: its binary interface, declared
// here so that building needs nothing of CUDA. The names are the driver's, in our spelling.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pilotlight::native::cuda {

using DeviceNumber = int;
using DeviceAddress = unsigned long long;
using MemoryHandle = unsigned long long;
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;
using Array = struct ArrayTag*;

enum class Result : int {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kDeinitialized = 4,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidContext = 201,
    kEccUncorrectable = 214,
    kInvalidHandle = 400,
    kIllegalAddress = 700,
    kHostMemoryAlreadyRegistered = 712,
    kHostMemoryNotRegistered = 713,
    kNotPermitted = 800,
    kNotSupported = 801,
    kUnknown = 999,
};

enum class DeviceAttribute : int {
    kMaxPitch = 11,
    kVirtualMemoryManagement = 102,
    kPosixFileDescriptors = 103,
};

enum class MemoryType : unsigned { kHost = 1, kDevice = 2 };
enum class LocationType : int { kDevice = 1 };
enum class AllocationType : int { kPinned = 1 };
enum class HandleType : int { kNone = 0, kPosixFileDescriptor = 1 };
enum class AccessFlags : int { kReadWrite = 3 };
enum class Granularity : int { kMinimum = 0, kRecommended = 1 };

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventBlockingSync = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostRegisterPortable = 1;

struct Location {
    LocationType type = LocationType::kDevice;
    int id = 0;
};

struct AllocationFlags {
    unsigned char compression_type = 0;
    unsigned char gpu_direct_rdma_capable = 0;
    unsigned short usage = 0;
    unsigned char reserved[4] = {};
};

struct AllocationProperties {
    AllocationType type = AllocationType::kPinned;
    HandleType requested_handle_types = HandleType::kNone;
    Location location;
    void* win32_handle_metadata = nullptr;
    AllocationFlags flags;
};
static_assert(sizeof(AllocationProperties) == 32);

struct AccessDescription {
    Location location;
    AccessFlags flags = AccessFlags::kReadWrite;
};
static_assert(sizeof(AccessDescription) == 12);

struct Copy2D {
    std::size_t source_x_bytes = 0;
    std::size_t source_y = 0;
    MemoryType source_type = MemoryType::kHost;
    const void* source_host = nullptr;
    DeviceAddress source_device = 0;
    Array source_array = nullptr;
    std::size_t source_pitch = 0;
    std::size_t target_x_bytes = 0;
    std::size_t target_y = 0;
    MemoryType target_type = MemoryType::kDevice;
    void* target_host = nullptr;
    DeviceAddress target_device = 0;
    Array target_array = nullptr;
    std::size_t target_pitch = 0;
    std::size_t width_bytes = 0;
    std::size_t height = 0;
};
static_assert(sizeof(Copy2D) == 128);

}  // namespace pilotlight::native::cuda
