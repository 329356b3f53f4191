// Translates between Python and the devices; decides nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pilotlight/native/device.hpp"
#include "pilotlight/native/devices.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace pilotlight::native {
namespace {

using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

// To give memory back may wait for the device, which the GIL must not.
std::shared_ptr<DeviceMemory> given_back_without_gil(std::shared_ptr<DeviceMemory> memory) {
    DeviceMemory* address = memory.get();
    return {address, [held = std::move(memory)](DeviceMemory* /*address*/) mutable {
                if (PyGILState_Check() == 0) {
                    held.reset();
                    return;
                }
                const nb::gil_scoped_release released;
                held.reset();
            }};
}

std::shared_ptr<DeviceMemory> allocate(Device& device, std::size_t size_bytes) {
    return given_back_without_gil(device.allocate(size_bytes));
}

std::shared_ptr<DeviceMemory> attach(Device& device, int fd, std::size_t size_bytes) {
    return given_back_without_gil(device.attach(fd, size_bytes));
}

nb::bytes read(Device& device, const DeviceMemory& memory, std::uint64_t offset,
               std::size_t size_bytes) {
    // Whoever reads more than there is gets no room for it first.
    std::vector<std::byte> bytes(std::min(size_bytes, memory.size_bytes() + 1));
    {
        const nb::gil_scoped_release released;
        device.read(memory, offset, bytes);
    }
    return nb::bytes(bytes.data(), bytes.size());
}

void write(Device& device, const DeviceMemory& memory, std::uint64_t offset,
           const nb::object& data) {
    Py_buffer view;
    if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) {
        throw nb::python_error();
    }
    const auto release = [](Py_buffer* buffer) { PyBuffer_Release(buffer); };
    const std::unique_ptr<Py_buffer, decltype(release)> held(&view, release);
    const std::span<const std::byte> source(static_cast<const std::byte*>(view.buf),
                                            static_cast<std::size_t>(view.len));
    const std::vector<CopySpan> spans{{.from = 0, .to = offset, .length = source.size()}};
    const nb::gil_scoped_release released;
    const std::unique_ptr<CopyQueue> queue = device.make_queue();
    queue->copy(memory, source, spans);
    queue->mark()->wait();
}

// Whoever holds a buffer of it holds the memory.
int memory_buffer(PyObject* self, Py_buffer* buffer, int flags) {
    const std::span<std::byte> bytes = nb::inst_ptr<DeviceMemory>(self)->host_bytes();
    if (bytes.data() == nullptr) {
        PyErr_SetString(PyExc_BufferError, "the device's memory has no address in this process");
        return -1;
    }
    return PyBuffer_FillInfo(buffer, self, bytes.data(), static_cast<Py_ssize_t>(bytes.size()), 0,
                             flags);
}

PyType_Slot memory_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(memory_buffer)},
                              {0, nullptr}};

}  // namespace

void bind_device(nb::module_& m) {
    nb::class_<DeviceInfo>(m, "DeviceInfo", "What is known of a device before it is opened.")
        .def_ro("name", &DeviceInfo::name)
        .def_ro("model", &DeviceInfo::model)
        .def_ro("total_bytes", &DeviceInfo::total_bytes);
    nb::class_<DeviceSpace>(m, "DeviceSpace", "How much memory a device has.")
        .def_ro("total_bytes", &DeviceSpace::total_bytes)
        .def_ro("free_bytes", &DeviceSpace::free_bytes);
    nb::class_<DeviceMemory>(m, "DeviceMemory", nb::type_slots(memory_slots),
                             "Memory on a device; the CPU's is a buffer. Thread-safe.")
        .def_prop_ro("address", &DeviceMemory::address)
        .def_prop_ro("size_bytes", &DeviceMemory::size_bytes)
        .def(
            "export", [](const DeviceMemory& memory) { return memory.exported().release(); },
            WithoutGil());
    nb::class_<Device>(m, "Device", "A device. Thread-safe.")
        .def_prop_ro("name", &Device::name)
        .def("allocate", &allocate, "size_bytes"_a, WithoutGil())
        .def("attach", &attach, "fd"_a, "size_bytes"_a, WithoutGil())
        .def("space", &Device::space, WithoutGil())
        .def("read", &read, "memory"_a, "offset"_a, "size_bytes"_a)
        .def("write", &write, "memory"_a, "offset"_a, "data"_a,
             nb::sig("def write(self, memory: DeviceMemory, offset: int,"
                     " data: bytes | bytearray | memoryview) -> None"));
    m.def("available_devices", &available_devices, WithoutGil());
    m.def("open_device", &open_device, "name"_a, WithoutGil());
}

}  // namespace pilotlight::native
