// What tests do to the fake driver, beside calling it. Thread-safe.
//
// The library answers the calls of the CUDA driver that Pilotlight uses. Its devices' memory
// is memfds, its streams are threads, its addresses are no addresses of the process. Programs
// that can't call it configure it by the environment, read when it is loaded:
//
//   FAKE_CUDA_DEVICES      bytes of each device, "1073741824,1073741824"
//   FAKE_CUDA_BANDWIDTH    bytes per second of each device's link
//   FAKE_CUDA_EVENT_DELAY  microseconds
//   FAKE_CUDA_FAIL         "cuMemCreate:2:2,cuEventRecord:1:999": function, nth call, code
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

/// What lives in this process, and what was done wrong.
struct FakeCudaCounts {
    std::int64_t contexts;  ///< times that primary contexts were retained and not released
    std::int64_t handles;
    std::int64_t reservations;
    std::int64_t mappings;
    std::int64_t streams;
    std::int64_t events;
    std::int64_t registrations;
    std::int64_t unpinned_copies;  ///< from memory that was not registered, so far
    std::int64_t misuses;          ///< that a real driver would answer with less than an error
};

struct FakeCudaCopy {
    std::int32_t device;
    std::int32_t is_pinned;
    std::uint64_t bytes;
    std::int64_t begin_ns;  ///< on the steady clock
    std::int64_t end_ns;
};

/// Forget everything, and have such devices.
void fake_cuda_reset(int n_devices, std::size_t bytes_of_each);
/// 0 for no limit.
void fake_cuda_set_bandwidth(int device, double bytes_per_second);
void fake_cuda_set_event_delay(std::int64_t nanoseconds);
void fake_cuda_set_max_pitch(int bytes);
/// Without one, devices export no memory.
void fake_cuda_set_exportable(int is_exportable);
/// Without it, devices have no virtual memory management.
void fake_cuda_set_virtual_memory(int is_supported);

/// Have the nth call of a function from now on, and `n_times - 1` after it, answer `code`
/// without doing anything. The function "copy" is what a stream does when a copy's turn comes:
/// that fails for good what is done on its device.
void fake_cuda_fail(const char* function, int nth, int code, int n_times);
/// Have every later call for a device answer `code`.
void fake_cuda_break(int device, int code);

[[nodiscard]] std::int64_t fake_cuda_n_calls(const char* function);
[[nodiscard]] FakeCudaCounts fake_cuda_counts();
/// "" where nothing was. Valid until the next reset.
[[nodiscard]] const char* fake_cuda_last_misuse();
/// Copy the first `room` of the copies done so far, in the order of their ends; return how many
/// there are.
[[nodiscard]] std::size_t fake_cuda_copies(FakeCudaCopy* copies, std::size_t room);
}
