// The tests' side of the fake driver.
#include <algorithm>
#include <cstdint>

#include "machine.hpp"

using fake_cuda::Failure;
using fake_cuda::Machine;
using pilotlight::native::cuda::Result;

namespace {

template <typename Change>
void change(const Change& make) {
    Machine& machine = Machine::instance();
    const std::scoped_lock lock(machine.mutex);
    make(machine);
}

template <typename All>
std::int64_t size_of(const All& all) {
    return static_cast<std::int64_t>(all.size());
}

}  // namespace

extern "C" {

void fake_cuda_reset(int n_devices, std::size_t bytes_of_each) {
    Machine::instance().reset(n_devices, bytes_of_each);
}

void fake_cuda_set_bandwidth(int device, double bytes_per_second) {
    change([&](Machine& machine) {
        machine.devices.at(static_cast<std::size_t>(device))->bytes_per_second = bytes_per_second;
    });
}

void fake_cuda_set_event_delay(std::int64_t nanoseconds) {
    change([&](Machine& machine) { machine.event_delay = std::chrono::nanoseconds(nanoseconds); });
}

void fake_cuda_set_max_pitch(int bytes) {
    change([&](Machine& machine) { machine.max_pitch = bytes; });
}

void fake_cuda_set_exportable(int is_exportable) {
    change([&](Machine& machine) { machine.is_exportable = is_exportable != 0; });
}

void fake_cuda_set_virtual_memory(int is_supported) {
    change([&](Machine& machine) { machine.has_virtual_memory = is_supported != 0; });
}

void fake_cuda_fail(const char* function, int nth, int code, int n_times) {
    change([&](Machine& machine) {
        const std::int64_t first = machine.n_calls[function] + nth;
        machine.failures.emplace(function, Failure{.first = first,
                                                   .last = first + n_times - 1,
                                                   .code = static_cast<Result>(code)});
    });
}

void fake_cuda_break(int device, int code) {
    change([&](Machine& machine) {
        machine.devices.at(static_cast<std::size_t>(device))->failure = static_cast<Result>(code);
    });
}

std::int64_t fake_cuda_n_calls(const char* function) {
    std::int64_t n_calls = 0;
    change([&](Machine& machine) { n_calls = machine.n_calls[function]; });
    return n_calls;
}

FakeCudaCounts fake_cuda_counts() {
    FakeCudaCounts counts{};
    change([&](Machine& machine) {
        for (const auto& device : machine.devices) {
            counts.contexts += device->n_retained;
        }
        counts.handles = size_of(machine.handles);
        counts.reservations = size_of(machine.reservations);
        counts.mappings = size_of(machine.mappings);
        counts.streams = size_of(machine.streams);
        counts.events = size_of(machine.events);
        counts.registrations = size_of(machine.registrations);
        counts.unpinned_copies = machine.n_unpinned_copies;
        counts.misuses = machine.n_misuses;
    });
    return counts;
}

const char* fake_cuda_last_misuse() {
    const char* misuse = nullptr;
    change([&](Machine& machine) { misuse = machine.last_misuse.c_str(); });
    return misuse;
}

std::size_t fake_cuda_copies(FakeCudaCopy* copies, std::size_t room) {
    std::size_t n_copies = 0;
    change([&](Machine& machine) {
        n_copies = machine.copies.size();
        std::copy_n(machine.copies.begin(), std::min(room, n_copies), copies);
    });
    return n_copies;
}
}
