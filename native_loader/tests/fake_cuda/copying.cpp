#include "copying.hpp"

#include <cstring>
#include <utility>

namespace fake_cuda {
namespace {

std::int64_t now_ns() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::size_t extent(const Copy& copy, std::size_t stride) {
    return (copy.n_rows - 1) * stride + copy.length;
}

// A copy on its way: with all that it needs to do no harm even where it is wrong.
struct Underway {
    Copy copy;
    std::weak_ptr<Mapping> mapping;
    std::shared_ptr<Physical> physical;
    std::byte* to = nullptr;
    std::shared_ptr<Registration> registration;  ///< of the source; none where it has none
    std::vector<std::byte> staged;               ///< what such a source held
};

enum class Pinned { kWholly, kPartly, kNot };

struct PinnedRange {
    Pinned kind = Pinned::kNot;
    std::shared_ptr<Registration> registration;
};

PinnedRange pinned_range(const Machine& machine, const void* memory, std::size_t size) {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    for (const auto& [address, registration] : machine.registrations) {
        const std::uintptr_t end = address + registration->size;
        if (address <= begin && begin + size <= end) {
            return {.kind = Pinned::kWholly, .registration = registration};
        }
        if (begin < end && address < begin + size) {
            return {.kind = Pinned::kPartly, .registration = nullptr};
        }
    }
    return {};
}

// Of memory that is not registered a driver takes a copy before it returns; of memory that is
// so in part it takes nothing.
bool take_source(Machine& machine, Underway& underway) {
    Copy& copy = underway.copy;
    const std::size_t size = extent(copy, copy.from_stride);
    const PinnedRange range = pinned_range(machine, copy.from, size);
    if (range.kind == Pinned::kPartly) {
        return false;
    }
    if (range.kind == Pinned::kWholly) {
        underway.registration = range.registration;
        ++underway.registration->n_in_use;
        return true;
    }
    ++machine.n_unpinned_copies;
    underway.staged.assign(copy.from, copy.from + size);
    copy.from = underway.staged.data();
    return true;
}

void move_bytes(const Underway& underway) {
    const Copy& copy = underway.copy;
    for (std::size_t row = 0; row < copy.n_rows; ++row) {
        std::memcpy(underway.to + row * copy.to_stride, copy.from + row * copy.from_stride,
                    copy.length);
    }
}

void take_time(const Device& device, std::int64_t begin_ns, std::size_t size) {
    const double speed = device.bytes_per_second;
    if (speed <= 0) {
        return;
    }
    const auto nanoseconds = static_cast<std::int64_t>(static_cast<double>(size) / speed * 1e9);
    std::this_thread::sleep_until(
        std::chrono::steady_clock::time_point(std::chrono::nanoseconds(begin_ns + nanoseconds)));
}

// Whether the device still copies, after this copy's turn has come.
bool is_working(Machine& machine, Device& device) {
    const std::scoped_lock lock(machine.mutex);
    const Result failure = machine.called("copy");
    if (failure != Result::kSuccess) {
        device.failure = failure;
    }
    return device.failure == Result::kSuccess;
}

void end(Machine& machine, const Device& device, const Underway& underway, std::int64_t begin_ns) {
    const std::scoped_lock lock(machine.mutex);
    machine.copies.push_back({.device = device.number,
                              .is_pinned = underway.registration ? 1 : 0,
                              .bytes = underway.copy.length * underway.copy.n_rows,
                              .begin_ns = begin_ns,
                              .end_ns = now_ns()});
    if (underway.registration) {
        --underway.registration->n_in_use;
    }
    if (underway.mapping.expired()) {
        machine.misuse("memory was unmapped before a copy into it was done");
    }
}

void carry_out(Device& device, const Underway& underway) {
    Machine& machine = Machine::instance();
    const std::scoped_lock link(device.link);
    const std::int64_t begin_ns = now_ns();
    if (is_working(machine, device)) {
        move_bytes(underway);
        take_time(device, begin_ns, underway.copy.length * underway.copy.n_rows);
    }
    end(machine, device, underway, begin_ns);
}

}  // namespace

Result begin_copy(Machine& machine, Stream& stream, const Copy& copy) {
    const std::shared_ptr<Mapping> mapping =
        mapping_of(machine, copy.to, extent(copy, copy.to_stride));
    if (!mapping || !mapping->is_accessible) {
        machine.misuse("a copy goes where no memory is mapped");
        return Result::kInvalidValue;
    }
    const auto underway = std::make_shared<Underway>(
        Underway{.copy = copy,
                 .mapping = mapping,
                 .physical = mapping->physical,
                 .to = mapping->physical->bytes().data() + (copy.to - mapping->address),
                 .registration = nullptr,
                 .staged = {}});
    if (!take_source(machine, *underway)) {
        return Result::kInvalidValue;
    }
    stream.add([device = stream.device(), underway] { carry_out(*device, *underway); });
    return Result::kSuccess;
}

std::shared_ptr<Mapping> mapping_of(const Machine& machine, DeviceAddress address,
                                    std::size_t size) {
    auto place = machine.mappings.upper_bound(address);
    if (place == machine.mappings.begin()) {
        return nullptr;
    }
    const std::shared_ptr<Mapping>& mapping = (--place)->second;
    const std::size_t offset = address - mapping->address;
    const std::size_t room = mapping->physical->bytes().size();
    return offset < room && size <= room - offset ? mapping : nullptr;
}

}  // namespace fake_cuda
