// Translates between Python and the library; decides nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/chunk_view.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/load.hpp"
#include "pilotlight/native/loader.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace pilotlight::native {

void bind_device(nb::module_& m);
void bind_disk(nb::module_& m);

namespace {

using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

// path, device, inode, size_bytes, mtime_ns, ctime_ns
using FileTuple =
    std::tuple<nb::bytes, std::uint64_t, std::uint64_t, std::uint64_t, std::int64_t, std::int64_t>;
// file, offset, length, number in the file, target, offset in the target, is the target shared,
// is the chunk there already, expected CRC-32C
using ChunkTuple = std::tuple<std::uint32_t, std::uint64_t, std::uint64_t, std::uint32_t,
                              ChunkIndex, std::uint64_t, bool, bool, std::optional<std::uint32_t>>;
// chunk of the plan, memory of the plan, then as in CopySpan
using CopyTuple = std::tuple<std::uint64_t, std::uint32_t, std::uint64_t, std::uint64_t,
                             std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
using MemoryTuple = std::tuple<std::shared_ptr<Device>, std::shared_ptr<DeviceMemory>>;

// Its end waits for threads that may need the GIL themselves: what they let go of last belongs to
// Python.
class BoundLoader final : public Loader {
  public:
    using Loader::Loader;
    BoundLoader(const BoundLoader&) = delete;
    BoundLoader& operator=(const BoundLoader&) = delete;
    ~BoundLoader() {
        const nb::gil_scoped_release released;
        close();
    }
};

void set_python_error(const char* name, const auto&... arguments) {
    const nb::object type = nb::module_::import_("pilotlight.native_loader.errors").attr(name);
    const nb::object error = type(arguments...);
    PyErr_SetObject(type.ptr(), error.ptr());
}

// A file name need not be UTF-8; it comes back as os.fsdecode gives it.
nb::object decoded(const std::string& path) {
    return nb::steal(
        PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size())));
}

void translate(const std::exception_ptr& failure, void* /*payload*/) {
    try {
        std::rethrow_exception(failure);
    } catch (const MemoryRefused& error) {
        set_python_error("MemoryRefused", error.action, error.error_number);
    } catch (const std::bad_alloc&) {
        set_python_error("MemoryRefused", "malloc", ENOMEM);
    } catch (const PoolExhausted& error) {
        set_python_error("PoolExhausted", error.wanted, error.free, error.cached, error.bound);
    } catch (const ChunkStateError& error) {
        set_python_error("ChunkStateError", error.chunk, error.expected, error.actual);
    } catch (const PoolClosed&) {
        set_python_error("PoolClosed");
    } catch (const PoolBusy& error) {
        set_python_error("PoolBusy", error.n_chunks);
    } catch (const ReadFailed& error) {
        set_python_error("ReadFailed", decoded(error.file), error.offset, error.error_number);
    } catch (const FileChanged& error) {
        set_python_error("FileChanged", decoded(error.file), error.what_changed);
    } catch (const ChecksumMismatch& error) {
        set_python_error("ChecksumMismatch", decoded(error.file), error.chunk, error.expected,
                         error.actual);
    } catch (const DeviceUnavailable& error) {
        set_python_error("DeviceUnavailable", error.device, error.reason);
    } catch (const DeviceMemoryRefused& error) {
        set_python_error("DeviceMemoryRefused", error.device, error.wanted_bytes, error.free_bytes);
    } catch (const DeviceFailed& error) {
        set_python_error("DeviceFailed", error.device, error.call, error.code);
    } catch (const LoadCancelled&) {
        set_python_error("LoadCancelled");
    } catch (const LoaderClosed&) {
        set_python_error("LoaderClosed");
    }
}

FilePlan file_plan(const FileTuple& file) {
    const auto& [path, device, inode, size_bytes, mtime_ns, ctime_ns] = file;
    return {.path = std::string(path.c_str(), path.size()),
            .identity = {.device = device,
                         .inode = inode,
                         .size_bytes = size_bytes,
                         .mtime_ns = mtime_ns,
                         .ctime_ns = ctime_ns}};
}

ChunkPlan chunk_plan(const ChunkTuple& chunk) {
    const auto& [file, offset, length, number, target, target_offset, is_shared, is_resident,
                 expected] = chunk;
    return {.file = file,
            .offset = offset,
            .length = length,
            .number = number,
            .target = target,
            .target_offset = target_offset,
            .is_shared = is_shared,
            .is_resident = is_resident,
            .expected_crc32c = expected,
            .copies = {}};
}

// Copies of one chunk into one memory follow each other.
void add_copy(LoadPlan& plan, const CopyTuple& copy) {
    const auto& [chunk, memory, from, to, length, n_rows, from_stride, to_stride] = copy;
    if (chunk >= plan.chunks.size()) {
        throw std::invalid_argument("a copy of the plan belongs to no chunk");
    }
    std::vector<ChunkCopies>& copies = plan.chunks[chunk].copies;
    if (copies.empty() || copies.back().memory != memory) {
        copies.push_back({.memory = memory, .spans = {}});
    }
    copies.back().spans.push_back({.from = from,
                                   .to = to,
                                   .length = length,
                                   .n_rows = n_rows,
                                   .from_stride = from_stride,
                                   .to_stride = to_stride});
}

std::shared_ptr<Load> submit(BoundLoader& loader, const std::vector<FileTuple>& files,
                             const std::vector<ChunkTuple>& chunks, std::int64_t priority,
                             bool use_page_cache, const std::vector<MemoryTuple>& memories,
                             const std::vector<CopyTuple>& copies,
                             const std::vector<ChunkIndex>& staging) {
    LoadPlan plan{.files = {},
                  .chunks = {},
                  .priority = priority,
                  .use_page_cache = use_page_cache,
                  .memories = {},
                  .staging = staging};
    for (const FileTuple& file : files) {
        plan.files.push_back(file_plan(file));
    }
    for (const ChunkTuple& chunk : chunks) {
        plan.chunks.push_back(chunk_plan(chunk));
    }
    for (const auto& [device, memory] : memories) {
        plan.memories.push_back({.device = device, .memory = memory});
    }
    for (const CopyTuple& copy : copies) {
        add_copy(plan, copy);
    }
    const nb::gil_scoped_release released;
    return loader.submit(std::move(plan));
}

std::uint32_t crc32c_of(const nb::object& data, std::uint32_t initial) {
    Py_buffer view;
    if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) {
        throw nb::python_error();
    }
    const auto release = [](Py_buffer* buffer) { PyBuffer_Release(buffer); };
    const std::unique_ptr<Py_buffer, decltype(release)> held(&view, release);
    const nb::gil_scoped_release released;
    return crc32c({static_cast<const std::byte*>(view.buf), static_cast<std::size_t>(view.len)},
                  initial);
}

// Whoever holds a buffer of a view holds the view, and with it the mapping.
int view_buffer(PyObject* self, Py_buffer* buffer, int flags) {
    const std::span<std::byte> bytes = nb::inst_ptr<ChunkView>(self)->bytes();
    return PyBuffer_FillInfo(buffer, self, bytes.data(), static_cast<Py_ssize_t>(bytes.size()), 0,
                             flags);
}

PyType_Slot view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(view_buffer)}, {0, nullptr}};

void bind_pool(nb::module_& m) {
    nb::class_<Accounts>(m, "Accounts", "How many chunks are where.")
        .def_ro("free", &Accounts::free)
        .def_ro("cached", &Accounts::cached)
        .def_ro("bound", &Accounts::bound)
        .def_ro("total", &Accounts::total);
    nb::class_<ChunkPool>(m, "ChunkPool", "One arena cut into chunks. Thread-safe.")
        .def(
            "__init__",
            [](ChunkPool* self, std::size_t n_chunks, std::size_t chunk_bytes,
               std::optional<unsigned> node, bool is_shared) {
                const Sharing sharing = is_shared ? Sharing::kShared : Sharing::kPrivate;
                new (self) ChunkPool(n_chunks, chunk_bytes, node, sharing);
            },
            "n_chunks"_a, "chunk_bytes"_a, "node"_a = nb::none(), "is_shared"_a = true)
        .def_prop_ro("is_shared", &ChunkPool::is_shared)
        .def_prop_ro("fd", &ChunkPool::fd)
        .def_prop_ro("n_chunks", &ChunkPool::n_chunks)
        .def_prop_ro("chunk_bytes", &ChunkPool::chunk_bytes)
        .def_prop_ro("populated_bytes", &ChunkPool::populated_bytes)
        .def_prop_ro("huge_bytes", &ChunkPool::huge_bytes)
        .def_prop_ro("node_refusal", &ChunkPool::node_refusal)
        .def("accounts", &ChunkPool::accounts, WithoutGil())
        .def("allocate", &ChunkPool::allocate, "n"_a, WithoutGil())
        .def(
            "bind",
            [](ChunkPool& pool, const std::vector<ChunkIndex>& chunks) { pool.bind(chunks); },
            "chunks"_a, WithoutGil())
        .def(
            "unbind",
            [](ChunkPool& pool, const std::vector<ChunkIndex>& chunks) { pool.unbind(chunks); },
            "chunks"_a, WithoutGil())
        .def(
            "release",
            [](ChunkPool& pool, const std::vector<ChunkIndex>& chunks) { pool.release(chunks); },
            "chunks"_a, WithoutGil())
        .def(
            "populate",
            [](ChunkPool& pool, ChunkIndex chunk) { pool.populate(chunk, 0, pool.chunk_bytes()); },
            "chunk"_a, WithoutGil())
        .def("populate_ahead", &ChunkPool::populate_ahead, "length"_a, WithoutGil())
        .def("check_integrity", &ChunkPool::check_integrity, WithoutGil())
        .def("close", &ChunkPool::close, WithoutGil());
    nb::class_<ChunkView>(m, "ChunkView", nb::type_slots(view_slots), nb::is_weak_referenceable(),
                          "Chunks of a pool as one contiguous, writable buffer.")
        .def(
            "__init__",
            [](ChunkView* self, int fd, std::size_t chunk_bytes,
               const std::vector<ChunkIndex>& chunks, std::size_t size_bytes, std::size_t offset) {
                new (self) ChunkView(fd, chunk_bytes, chunks, size_bytes, offset);
            },
            "fd"_a, "chunk_bytes"_a, "chunks"_a, "size_bytes"_a, "offset"_a = 0)
        .def(
            "__init__",
            [](ChunkView* self, std::shared_ptr<const ChunkPool> pool,
               const std::vector<ChunkIndex>& chunks, std::size_t size_bytes, std::size_t offset) {
                new (self) ChunkView(std::move(pool), chunks, size_bytes, offset);
            },
            "pool"_a, "chunks"_a, "size_bytes"_a, "offset"_a = 0);
}

void bind_load(nb::module_& m) {
    nb::class_<Progress>(m, "Progress", "How far a load is.")
        .def_ro("done_bytes", &Progress::done_bytes)
        .def_ro("total_bytes", &Progress::total_bytes)
        .def_ro("copied_bytes", &Progress::copied_bytes)
        .def_ro("total_copied_bytes", &Progress::total_copied_bytes)
        .def_ro("is_started", &Progress::is_started);
    const auto in_seconds = [](auto member) {
        return [member](const LoadOutcome& outcome) { return (outcome.*member).count(); };
    };
    nb::class_<LoadOutcome>(m, "LoadOutcome", "What a load that succeeded has to tell.")
        .def_ro("bytes_read", &LoadOutcome::bytes_read)
        .def_ro("page_cache_bytes", &LoadOutcome::page_cache_bytes)
        .def_ro("n_interruptions", &LoadOutcome::n_interruptions)
        .def_ro("direct_refusal", &LoadOutcome::direct_refusal)
        .def_ro("crc32c", &LoadOutcome::crc32c)
        .def_prop_ro("queued_seconds", in_seconds(&LoadOutcome::queued))
        .def_prop_ro("busy_seconds", in_seconds(&LoadOutcome::busy))
        .def_prop_ro("read_seconds", in_seconds(&LoadOutcome::read_time))
        .def_prop_ro("populate_seconds", in_seconds(&LoadOutcome::populate_time))
        .def_prop_ro("checksum_seconds", in_seconds(&LoadOutcome::checksum_time))
        .def_ro("copied_bytes", &LoadOutcome::copied_bytes)
        .def_prop_ro("copy_seconds", in_seconds(&LoadOutcome::copy_time))
        .def_ro("is_unpinned", &LoadOutcome::is_unpinned);
    nb::class_<Load>(m, "Load", "One load. Thread-safe.")
        .def_prop_ro("id", &Load::id)
        .def_prop_ro("is_done", &Load::is_done)
        .def("progress", &Load::progress)
        .def(
            "wait",
            [](const Load& load, std::optional<double> timeout) {
                return load.wait(timeout ? std::optional(Seconds(*timeout)) : std::nullopt);
            },
            "timeout"_a.none(), WithoutGil())
        .def("outcome", &Load::outcome);
    nb::class_<BoundLoader>(m, "Loader", "Reads checkpoints into a pool. Thread-safe.")
        .def(
            "__init__",
            [](BoundLoader* self, std::shared_ptr<ChunkPool> pool, std::size_t n_readers,
               std::size_t depth, std::size_t block_bytes) {
                new (self) BoundLoader(
                    std::move(pool),
                    {.n_readers = n_readers, .depth = depth, .block_bytes = block_bytes});
            },
            "pool"_a, "n_readers"_a, "depth"_a, "block_bytes"_a)
        .def(
            "configure",
            [](BoundLoader& loader, std::uint64_t disk, std::size_t n_readers, std::size_t depth,
               std::size_t block_bytes) {
                loader.configure(
                    disk, {.n_readers = n_readers, .depth = depth, .block_bytes = block_bytes});
            },
            "disk"_a, "n_readers"_a, "depth"_a, "block_bytes"_a, WithoutGil())
        .def("submit", &submit, "files"_a, "chunks"_a, "priority"_a, "use_page_cache"_a,
             "memories"_a, "copies"_a, "staging"_a)
        .def("cancel", &Loader::cancel, "load"_a, WithoutGil())
        .def("promote", &Loader::promote, "load"_a, "priority"_a, WithoutGil())
        .def_prop_ro("completion_fd", &Loader::completion_fd)
        .def("finished", &Loader::finished, WithoutGil())
        .def("close", &Loader::close, WithoutGil());
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Moves bytes: the chunk pool, the readers and the checksums.";
    nb::register_exception_translator(translate);
    // Tensors that live until the interpreter ends rightly hold their views until then.
    nb::set_leak_warnings(false);
    bind_pool(m);
    bind_load(m);
    bind_disk(m);
    bind_device(m);
    m.def("crc32c", &crc32c_of, "data"_a, "initial"_a = 0,
          nb::sig("def crc32c(data: bytes | bytearray | memoryview, initial: int = 0) -> int"));
}

}  // namespace pilotlight::native
