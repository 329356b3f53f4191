// Translates between Python and the disk probe; decides nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "pilotlight/native/block_reader.hpp"
#include "pilotlight/native/disk_probe.hpp"
#include "pilotlight/native/disk_settings.hpp"
#include "pilotlight/native/source_file.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace pilotlight::native {
namespace {

// path, device, inode, size_bytes, mtime_ns, ctime_ns
using FileTuple =
    std::tuple<nb::bytes, std::uint64_t, std::uint64_t, std::uint64_t, std::int64_t, std::int64_t>;

ProbeResult probe(const FileTuple& file, double limit_seconds) {
    const auto& [path_bytes, device, inode, size_bytes, mtime_ns, ctime_ns] = file;
    const std::string path(path_bytes.c_str(), path_bytes.size());
    const FileIdentity identity{.device = device,
                                .inode = inode,
                                .size_bytes = size_bytes,
                                .mtime_ns = mtime_ns,
                                .ctime_ns = ctime_ns};
    const nb::gil_scoped_release released;
    return probe_disk(path, identity, std::chrono::duration<double>(limit_seconds));
}

}  // namespace

void bind_disk(nb::module_& m) {
    nb::class_<DiskSettings>(m, "DiskSettings", "How a disk is read best.")
        .def(
            "__init__",
            [](DiskSettings* self, std::size_t n_readers, std::size_t depth,
               std::size_t block_bytes) {
                new (self) DiskSettings{
                    .n_readers = n_readers, .depth = depth, .block_bytes = block_bytes};
            },
            "n_readers"_a, "depth"_a, "block_bytes"_a)
        .def_ro("n_readers", &DiskSettings::n_readers)
        .def_ro("depth", &DiskSettings::depth)
        .def_ro("block_bytes", &DiskSettings::block_bytes);
    nb::class_<DiskMeasurement>(m, "DiskMeasurement", "How fast a disk was with some settings.")
        .def_ro("settings", &DiskMeasurement::settings)
        .def_ro("bytes_per_second", &DiskMeasurement::bytes_per_second);
    nb::class_<ProbeResult>(m, "ProbeResult", "What a probe of a disk found out.")
        .def_ro("best", &ProbeResult::best)
        .def_ro("why_not", &ProbeResult::why_not)
        .def_ro("direct_refusal", &ProbeResult::direct_refusal)
        .def_ro("measurements", &ProbeResult::measurements);
    m.def("probe_disk", &probe, "file"_a, "limit_seconds"_a);
    m.def("has_uring", [] { return make_uring_reader(1) != nullptr; });
}

}  // namespace pilotlight::native
