// Mapping chunks, as a process does that was told of them by another one.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "contents.hpp"
#include "input.hpp"
#include "pilotlight/native/chunk_view.hpp"
#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/error.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kPoolChunks = 12;

std::shared_ptr<const ChunkPool> filled_pool(Sharing sharing) {
    auto fresh = std::make_shared<ChunkPool>(kPoolChunks, kPageBytes, std::nullopt, sharing);
    for (ChunkIndex chunk = 0; chunk < kPoolChunks; ++chunk) {
        fresh->populate(chunk, 0, kPageBytes);
        std::ranges::copy(fuzz::contents(chunk, kPageBytes), fresh->bytes(chunk).begin());
    }
    return fresh;
}

// The pool is the same for all inputs, for views never change it.
const ChunkPool& pool() {
    static const std::shared_ptr<const ChunkPool> made = filled_pool(Sharing::kShared);
    return *made;
}

// What a process may be sent instead of a pool.
Descriptor odd_descriptor(fuzz::Input& input) {
    switch (input.byte() % 4) {
        case 0: {
            Descriptor memfd(::memfd_create("odd", MFD_CLOEXEC));
            const std::uint64_t size = input.extent();
            // Sparse, so the largest ones cost nothing; too large ones stay empty.
            (void)!::ftruncate(memfd.get(), static_cast<off_t>(size));
            return memfd;
        }
        case 1:
            return Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        case 2:
            return Descriptor(::open("/", O_RDONLY | O_CLOEXEC));
        default:
            return {};
    }
}

std::vector<ChunkIndex> chunks(fuzz::Input& input) {
    std::vector<ChunkIndex> all(input.below(32));
    for (ChunkIndex& chunk : all) {
        chunk = input.one_in(16) ? static_cast<ChunkIndex>(input.extent())
                                 : static_cast<ChunkIndex>(input.below(kPoolChunks));
    }
    return all;
}

// Read every page, write to some: a signal or a change of the pool would be a finding.
void use(std::span<std::byte> bytes) {
    constexpr std::size_t kMostPages = 256;
    for (std::size_t i = 0; i < std::min(bytes.size(), kMostPages * kPageBytes); i += kPageBytes) {
        bytes[i] = static_cast<std::byte>(~std::to_integer<unsigned>(bytes[i]));
    }
    if (!bytes.empty()) {
        bytes.back() = std::byte{0};
    }
}

void check_view(const ChunkView& view, std::size_t chunk_bytes,
                const std::vector<ChunkIndex>& shown, std::size_t size_bytes, std::size_t offset) {
    require(view.bytes().size() == size_bytes, "a view is as long as its file");
    for (std::size_t i = 0; i < size_bytes; ++i) {
        const std::size_t position = offset + i;
        const std::size_t place =
            shown[position / chunk_bytes] * chunk_bytes + position % chunk_bytes;
        require(view.bytes()[i] == fuzz::byte_at(place / kPageBytes, place % kPageBytes),
                "a view shows the chunks in the order given");
    }
}

void view_pool(fuzz::Input& input) {
    const std::size_t chunk_bytes =
        input.one_in(4) ? input.extent() : kPageBytes * (1 + input.below(3));
    const std::vector<ChunkIndex> shown = chunks(input);
    const std::size_t size_bytes =
        input.one_in(4) ? input.extent() : shown.size() * chunk_bytes - input.byte();
    const std::size_t offset = input.one_in(2)   ? 0
                               : input.one_in(4) ? input.extent()
                                                 : input.byte();
    const ChunkView view(pool().fd(), chunk_bytes, shown, size_bytes, offset);
    check_view(view, chunk_bytes, shown, size_bytes, offset);
    use(view.bytes());
}

// Nothing is written here, for it would be written into the pool.
void view_private_pool(fuzz::Input& input) {
    static const std::shared_ptr<const ChunkPool> made = filled_pool(Sharing::kPrivate);
    std::vector<ChunkIndex> shown = chunks(input);
    if (!input.one_in(4)) {
        shown.resize(input.below(kPoolChunks));
        std::iota(shown.begin(), shown.end(), static_cast<ChunkIndex>(input.below(kPoolChunks)));
    }
    const std::size_t size_bytes =
        input.one_in(4) ? input.extent() : shown.size() * kPageBytes - input.byte();
    const std::size_t offset = input.one_in(4) ? input.extent() : input.byte();
    const ChunkView view(made, shown, size_bytes, offset);
    check_view(view, kPageBytes, shown, size_bytes, offset);
}

// Nothing is written here, for the largest descriptors hold more than this machine has.
void view_odd_descriptor(fuzz::Input& input) {
    const Descriptor odd = odd_descriptor(input);
    const std::size_t chunk_bytes = input.extent();
    const std::vector<ChunkIndex> shown = chunks(input);
    const std::size_t size_bytes = input.extent();
    const ChunkView view(odd.get(), chunk_bytes, shown, size_bytes, input.extent());
    require(view.bytes().empty() || view.bytes().front() == view.bytes().front(),
            "a view can be read");
}

void attach(fuzz::Input& input) {
    static const std::unique_ptr<Device> device = std::make_unique<CpuDevice>();
    const Descriptor odd = odd_descriptor(input);
    const bool is_pool = input.byte() % 2 == 0;
    const std::size_t size_bytes = input.extent();
    const auto memory = device->attach(is_pool ? pool().fd() : odd.get(), size_bytes);
    require(memory->size_bytes() == size_bytes, "memory is as long as asked for");
    if (is_pool) {
        use(memory->host_bytes());
    }
}

// Addresses alone cost nothing, so any size may be asked for.
void reserve(fuzz::Input& input) {
    const std::uint64_t size = input.extent();
    const AddressRange range(size);
    require(range.bytes().size() == size, "a range is as long as asked for");
    if (size != 0) {
        const std::size_t last_page = (size - 1) / kPageBytes * kPageBytes;
        unsigned char ignored = 0;
        require(::mincore(range.bytes().data() + last_page, kPageBytes, &ignored) == 0,
                "a range is reserved to its end");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    try {
        switch (input.byte() % 6) {
            case 0:
                view_odd_descriptor(input);
                break;
            case 1:
                attach(input);
                break;
            case 2:
                reserve(input);
                break;
            case 3:
                view_private_pool(input);
                break;
            default:
                view_pool(input);
        }
    } catch (const Error&) {
        // Each of its kinds has a Python exception.
    } catch (const std::invalid_argument&) {
    }
    for (ChunkIndex chunk = 0; chunk < kPoolChunks; ++chunk) {
        require(pool().bytes(chunk).front() == fuzz::byte_at(chunk, 0),
                "a view never changes the pool");
    }
    return 0;
}
