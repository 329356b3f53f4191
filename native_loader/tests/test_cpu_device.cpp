#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

namespace {

std::vector<std::byte> read_all(CpuDevice& device, const DeviceMemory& memory) {
    std::vector<std::byte> bytes(memory.size_bytes());
    device.read(memory, 0, bytes);
    return bytes;
}

void copy(CpuDevice& device, const DeviceMemory& into, const std::vector<std::byte>& from,
          const std::vector<CopySpan>& spans) {
    const auto queue = device.make_queue();
    queue->copy(into, from, spans);
    queue->mark()->wait();
}

class ForeignMemory final : public DeviceMemory {
  public:
    [[nodiscard]] std::uint64_t address() const noexcept override { return 0; }
    [[nodiscard]] std::size_t size_bytes() const noexcept override { return 100; }
    [[nodiscard]] std::span<std::byte> host_bytes() const noexcept override { return {}; }
    [[nodiscard]] Descriptor exported() const override { return {}; }
};

}  // namespace

TEST(copies_ranges_and_rows) {
    CpuDevice device;
    const auto memory = device.allocate(100);
    const std::vector<std::byte> source = random_bytes(64);

    copy(device, *memory, source,
         {{.from = 0, .to = 90, .length = 10},
          {.from = 2, .to = 4, .length = 3, .n_rows = 4, .from_stride = 16, .to_stride = 5}});

    const std::vector<std::byte> held = read_all(device, *memory);
    CHECK(std::memcmp(&held[90], &source[0], 10) == 0);
    for (std::size_t row = 0; row < 4; ++row) {
        CHECK(std::memcmp(&held[4 + 5 * row], &source[2 + 16 * row], 3) == 0);
    }
    CHECK_EQUAL(static_cast<int>(held[7]), 0);
}

TEST(copies_nothing_where_there_is_nothing) {
    CpuDevice device;
    const auto memory = device.allocate(0);

    copy(device, *memory, {}, {{.length = 0}, {.length = 5, .n_rows = 0}});

    CHECK_EQUAL(memory->size_bytes(), 0u);
}

TEST(its_memory_has_an_address_of_this_process) {
    CpuDevice device;
    const auto memory = device.allocate(5000);

    CHECK_EQUAL(memory->address(), reinterpret_cast<std::uintptr_t>(memory->host_bytes().data()));
    CHECK_EQUAL(memory->host_bytes().size(), 5000u);
}

TEST(others_attach_what_was_exported) {
    CpuDevice device;
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

TEST(what_is_written_into_attached_memory_stays_there) {
    CpuDevice device;
    const auto memory = device.allocate(300);
    const auto attached = device.attach(memory->exported().get(), 300);

    copy(device, *attached, random_bytes(300), {{.length = 300}});

    CHECK(read_all(device, *memory) == std::vector<std::byte>(300));
}

TEST(exported_descriptors_are_closed_in_programs_that_are_started) {
    CpuDevice device;

    const Descriptor exported = device.allocate(1)->exported();

    CHECK((::fcntl(exported.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST(attaches_no_more_than_there_is) {
    CpuDevice device;
    const Descriptor exported = device.allocate(4096)->exported();

    (void)CHECK_THROWS(std::invalid_argument, device.attach(exported.get(), 4097));
    (void)CHECK_THROWS(std::invalid_argument,
                       device.attach(exported.get(), std::numeric_limits<std::size_t>::max()));
}

TEST(attaches_nothing_that_could_shrink) {
    CpuDevice device;
    const Descriptor unsealed(::memfd_create("unsealed", MFD_CLOEXEC));
    CHECK_EQUAL(::ftruncate(unsealed.get(), 4096), 0);

    (void)CHECK_THROWS(std::invalid_argument, device.attach(unsealed.get(), 4096));
    (void)CHECK_THROWS(std::invalid_argument, device.attach(-1, 4096));
}

TEST(refuses_more_memory_than_the_machine_has) {
    CpuDevice device;

    const auto error = CHECK_THROWS(DeviceMemoryRefused, device.allocate(std::size_t{1} << 60));

    CHECK_EQUAL(error.device, "cpu");
    CHECK_EQUAL(error.wanted_bytes, std::size_t{1} << 60);
    CHECK(error.free_bytes > 0);
    const DeviceSpace space = device.space();
    CHECK(0 < space.free_bytes && space.free_bytes <= space.total_bytes);
}

TEST(neither_copies_nor_reads_beyond_its_memory) {
    CpuDevice device;
    const auto memory = device.allocate(10);
    std::vector<std::byte> room(10);

    (void)CHECK_THROWS(std::out_of_range,
                       copy(device, *memory, random_bytes(11), {{.length = 11}}));
    (void)CHECK_THROWS(std::out_of_range, device.read(*memory, 1, room));
    (void)CHECK_THROWS(std::out_of_range, device.read(*memory, 11, {}));
}

TEST(refuses_the_memory_of_other_devices) {
    CpuDevice device;
    const ForeignMemory foreign;

    (void)CHECK_THROWS(std::invalid_argument, copy(device, foreign, {}, {}));
    (void)CHECK_THROWS(std::invalid_argument, device.read(foreign, 0, {}));
}

TEST(pins_whatever_it_is_given) {
    CpuDevice device;
    std::vector<std::byte> memory(100);

    CHECK(device.pin(memory));
    device.unpin(memory);
}
