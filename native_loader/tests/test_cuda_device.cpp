#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "fake_driver.hpp"
#include "files.hpp"
#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/cuda_device.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;
using cuda::Result;

namespace {

constexpr std::size_t kGranularity = std::size_t{2} << 20;
constexpr std::size_t kTotal = std::size_t{64} << 20;

std::vector<std::byte> read_all(Device& device, const DeviceMemory& memory) {
    std::vector<std::byte> bytes(memory.size_bytes());
    device.read(memory, 0, bytes);
    return bytes;
}

void copy(Device& device, const DeviceMemory& into, const std::vector<std::byte>& from,
          const std::vector<CopySpan>& spans) {
    const auto queue = device.make_queue();
    queue->copy(into, from, spans);
    queue->mark()->wait();
}

}  // namespace

TEST(copies_ranges) {
    const FakeDriver fake;
    {
        CudaDevice device(1);
        const auto memory = device.allocate(1000);
        const std::vector<std::byte> source = random_bytes(500);

        copy(device, *memory, source,
             {{.from = 0, .to = 500, .length = 250}, {.from = 250, .to = 750, .length = 250}});

        const std::vector<std::byte> held = read_all(device, *memory);
        CHECK(std::equal(source.begin(), source.end(), held.begin() + 500));
        CHECK_EQUAL(FakeDriver::copies().at(0).device, 1);
    }
    FakeDriver::check_clean();
}

TEST(copies_rows_by_one_call) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(1000);
        const std::vector<std::byte> source = random_bytes(400);

        copy(device, *memory, source,
             {{.from = 10, .to = 20, .length = 5, .n_rows = 8, .from_stride = 40, .to_stride = 7}});

        const std::vector<std::byte> held = read_all(device, *memory);
        for (std::ptrdiff_t row = 0; row < 8; ++row) {
            CHECK(std::equal(source.begin() + 10 + 40 * row, source.begin() + 15 + 40 * row,
                             held.begin() + 20 + 7 * row));
        }
        CHECK_EQUAL(fake_cuda_n_calls("cuMemcpy2DAsync_v2"), 1);
        CHECK_EQUAL(fake_cuda_n_calls("cuMemcpyHtoDAsync_v2"), 0);
    }
    FakeDriver::check_clean();
}

TEST(copies_rows_without_gaps_as_one_range) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(100);
        const std::vector<std::byte> source = random_bytes(100);

        copy(device, *memory, source,
             {{.length = 10, .n_rows = 10, .from_stride = 10, .to_stride = 10}});

        CHECK(read_all(device, *memory) == source);
        CHECK_EQUAL(fake_cuda_n_calls("cuMemcpyHtoDAsync_v2"), 1);
    }
    FakeDriver::check_clean();
}

TEST(copies_rows_too_far_apart_one_by_one) {
    const FakeDriver fake;
    fake_cuda_set_max_pitch(30);
    {
        CudaDevice device(0);
        const auto memory = device.allocate(30);
        const std::vector<std::byte> source = random_bytes(100);

        copy(device, *memory, source,
             {{.length = 10, .n_rows = 3, .from_stride = 31, .to_stride = 10}});

        const std::vector<std::byte> held = read_all(device, *memory);
        CHECK(std::equal(held.begin() + 20, held.end(), source.begin() + 62));
        CHECK_EQUAL(fake_cuda_n_calls("cuMemcpyHtoDAsync_v2"), 3);
    }
    FakeDriver::check_clean();
}

TEST(copies_nothing_where_there_is_nothing) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(0);

        copy(device, *memory, {}, {{.length = 0}, {.length = 5, .n_rows = 0}});

        CHECK_EQUAL(memory->size_bytes(), 0u);
        CHECK(read_all(device, *memory).empty());
        CHECK(FakeDriver::copies().empty());
    }
    FakeDriver::check_clean();
}

TEST(its_memory_is_none_of_this_process) {
    const FakeDriver fake;
    CudaDevice device(0);

    CHECK(device.allocate(100)->host_bytes().empty());
}

TEST(tells_how_much_memory_there_is) {
    const FakeDriver fake;
    CudaDevice device(0);
    const auto memory = device.allocate(kGranularity + 1);

    const DeviceSpace space = device.space();

    CHECK_EQUAL(space.total_bytes, kTotal);
    CHECK_EQUAL(space.free_bytes, kTotal - 2 * kGranularity);
}

TEST(out_of_memory_is_an_ordinary_refusal) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(kTotal - kGranularity);

        const auto error = CHECK_THROWS(DeviceMemoryRefused, device.allocate(kGranularity + 1));

        CHECK_EQUAL(error.device, "cuda:0");
        CHECK_EQUAL(error.wanted_bytes, 2 * kGranularity);
        CHECK_EQUAL(error.free_bytes, kGranularity);
        CHECK(device.allocate(kGranularity) != nullptr);
    }
    FakeDriver::check_clean();
}

TEST(refuses_more_memory_than_it_has_at_all) {
    const FakeDriver fake;
    CudaDevice device(0);

    const auto error =
        CHECK_THROWS(DeviceMemoryRefused, device.allocate(std::numeric_limits<std::size_t>::max()));

    CHECK_EQUAL(error.free_bytes, kTotal);
}

TEST(an_allocation_that_fails_leaves_nothing_behind) {
    const std::array calls{"cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"};
    for (const char* call : calls) {
        const FakeDriver fake;
        {
            CudaDevice device(0);
            FakeDriver::fail(call);

            const auto error = CHECK_THROWS(DeviceFailed, device.allocate(100));

            CHECK_EQUAL(error.device, "cuda:0");
            CHECK_EQUAL(error.call, call);
            CHECK_EQUAL(error.code, "CUDA_ERROR_UNKNOWN");
            CHECK_EQUAL(device.space().free_bytes, kTotal);
            CHECK(device.allocate(100) != nullptr);
        }
        FakeDriver::check_clean();
    }
}

TEST(others_attach_what_was_exported) {
    const FakeDriver fake;
    {
        CudaDevice device(1);
        auto memory = device.allocate(300);
        const std::vector<std::byte> source = random_bytes(300);
        copy(device, *memory, source, {{.length = 300}});

        Descriptor exported = memory->exported();
        memory.reset();
        const auto attached = device.attach(exported.get(), 300);
        exported.reset();

        CHECK(read_all(device, *attached) == source);
        CHECK(device.attach(attached->exported().get(), 300)->size_bytes() == 300);
    }
    FakeDriver::check_clean();
}

TEST(exported_descriptors_are_closed_in_programs_that_are_started) {
    const FakeDriver fake;
    CudaDevice device(0);

    const Descriptor exported = device.allocate(1)->exported();

    CHECK((::fcntl(exported.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST(attaches_only_what_a_device_exported_as_that_size) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const Descriptor exported = device.allocate(kGranularity)->exported();
        const Descriptor foreign(::memfd_create("foreign", MFD_CLOEXEC));

        const auto larger =
            CHECK_THROWS(DeviceFailed, device.attach(exported.get(), kGranularity + 1));
        const auto other = CHECK_THROWS(DeviceFailed, device.attach(foreign.get(), 100));

        CHECK_EQUAL(larger.call, "cuMemMap");
        CHECK_EQUAL(other.call, "cuMemImportFromShareableHandle");
        (void)CHECK_THROWS(std::invalid_argument,
                           device.attach(exported.get(), std::numeric_limits<std::size_t>::max()));
    }
    FakeDriver::check_clean();
}

TEST(devices_that_can_not_share_memory_still_have_it) {
    const FakeDriver fake;
    fake_cuda_set_exportable(0);
    CudaDevice device(0);

    const auto memory = device.allocate(100);

    const auto error = CHECK_THROWS(DeviceFailed, memory->exported());
    CHECK_EQUAL(error.call, "cuMemExportToShareableHandle");
}

TEST(says_why_a_device_is_not_available) {
    for (const char* call : {"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute",
                             "cuDeviceTotalMem_v2"}) {
        const FakeDriver fake;
        FakeDriver::fail(call);

        const auto error = CHECK_THROWS(DeviceUnavailable, CudaDevice(0));

        CHECK_EQUAL(error.reason, std::string(call) + " answered CUDA_ERROR_UNKNOWN");
        FakeDriver::check_clean();
    }
}

TEST(needs_virtual_memory_management) {
    const FakeDriver fake;
    fake_cuda_set_virtual_memory(0);

    const auto error = CHECK_THROWS(DeviceUnavailable, CudaDevice(0));

    CHECK_EQUAL(error.reason, "it has no virtual memory management");
}

TEST(a_device_that_fails_to_open_leaves_nothing_behind) {
    for (const char* call : {"cuDevicePrimaryCtxRetain", "cuMemGetAllocationGranularity"}) {
        const FakeDriver fake;
        FakeDriver::fail(call, 1, Result::kEccUncorrectable);

        const auto error = CHECK_THROWS(DeviceFailed, CudaDevice(0));

        CHECK_EQUAL(error.call, call);
        CHECK_EQUAL(error.code, "CUDA_ERROR_ECC_UNCORRECTABLE");
        FakeDriver::check_clean();
    }
}

TEST(a_range_is_pinned_once_for_all_devices) {
    const FakeDriver fake;
    {
        CudaDevice first(0);
        CudaDevice second(1);
        std::vector<std::byte> memory(8192);

        CHECK(first.pin(memory));
        CHECK(second.pin(memory));
        CHECK_EQUAL(fake_cuda_counts().registrations, 1);
        first.unpin(memory);
        CHECK_EQUAL(fake_cuda_counts().registrations, 1);
        second.unpin(memory);
        second.unpin(memory);

        CHECK_EQUAL(fake_cuda_counts().registrations, 0);
    }
    FakeDriver::check_clean();
}

TEST(a_pin_outlives_the_device_that_made_it) {
    const FakeDriver fake;
    std::vector<std::byte> memory(8192);
    {
        CudaDevice second(1);
        {
            CudaDevice first(0);
            CHECK(first.pin(memory));
            CHECK(second.pin(memory));
            first.unpin(memory);
        }
        second.unpin(memory);
    }

    FakeDriver::check_clean();
}

TEST(a_pin_that_is_refused_can_be_had_later) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        std::vector<std::byte> memory(8192);
        for (const char* call : {"cuMemHostRegister_v2", "cuCtxPushCurrent_v2"}) {
            FakeDriver::fail(call, 1, Result::kNotSupported);

            CHECK(!device.pin(memory));
            CHECK(device.pin(memory));
            device.unpin(memory);
        }
        CHECK(device.pin(std::span(memory).first(4096)));
        CHECK(!device.pin(memory));
        device.unpin(std::span(memory).first(4096));
    }
    FakeDriver::check_clean();
}

TEST(copies_from_memory_pinned_or_not) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(8192);
        std::vector<std::byte> source = random_bytes(8192);

        copy(device, *memory, source, {{.length = 8192}});
        CHECK(device.pin(source));
        copy(device, *memory, source, {{.length = 8192}});
        device.unpin(source);

        CHECK_EQUAL(fake_cuda_counts().unpinned_copies, 1);
        CHECK_EQUAL(FakeDriver::copies().at(1).is_pinned, 1);
        CHECK(read_all(device, *memory) == source);
    }
    FakeDriver::check_clean();
}

TEST(neither_copies_nor_reads_beyond_its_memory) {
    const FakeDriver fake;
    CudaDevice device(0);
    const auto memory = device.allocate(10);
    std::vector<std::byte> room(10);

    (void)CHECK_THROWS(std::out_of_range,
                       copy(device, *memory, random_bytes(11), {{.length = 11}}));
    (void)CHECK_THROWS(std::out_of_range, device.read(*memory, 1, room));
    (void)CHECK_THROWS(std::out_of_range, device.read(*memory, 11, {}));
}

TEST(refuses_the_memory_of_other_devices) {
    const FakeDriver fake;
    CudaDevice device(0);
    CpuDevice cpu;

    for (const auto& memory : {CudaDevice(1).allocate(10), cpu.allocate(10)}) {
        std::vector<std::byte> room(10);
        (void)CHECK_THROWS(std::invalid_argument, copy(device, *memory, {}, {}));
        (void)CHECK_THROWS(std::invalid_argument, device.read(*memory, 0, room));
    }
}

TEST(passes_on_what_the_driver_answers) {
    const FakeDriver fake;
    {
        CudaDevice device(0);
        const auto memory = device.allocate(10);
        const auto queue = device.make_queue();
        const std::vector<std::byte> source(100);
        std::vector<std::byte> room(10);
        const std::vector<CopySpan> range{{.length = 10}};
        const std::vector<CopySpan> rows{
            {.length = 2, .n_rows = 2, .from_stride = 4, .to_stride = 2}};
        const std::vector<std::pair<std::string, std::function<void()>>> cases{
            {"cuMemcpyHtoDAsync_v2", [&] { queue->copy(*memory, source, range); }},
            {"cuMemcpy2DAsync_v2", [&] { queue->copy(*memory, source, rows); }},
            {"cuEventCreate", [&] { (void)queue->mark(); }},
            {"cuEventRecord", [&] { (void)queue->mark(); }},
            {"cuEventSynchronize", [&] { queue->mark()->wait(); }},
            {"cuStreamCreate", [&] { (void)device.make_queue(); }},
            {"cuMemcpyDtoH_v2", [&] { device.read(*memory, 0, room); }},
            {"cuMemGetInfo_v2", [&] { (void)device.space(); }},
            {"cuMemExportToShareableHandle", [&] { (void)memory->exported(); }},
            {"cuCtxPushCurrent_v2", [&] { (void)device.space(); }},
        };
        for (const auto& [call, action] : cases) {
            FakeDriver::fail(call.c_str());
            const auto error = CHECK_THROWS(DeviceFailed, action());
            CHECK_EQUAL(error.call, call);
        }
    }
    FakeDriver::check_clean();
}
