#include "pilotlight/native/arena.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

// Values of <linux/mman.h> and <linux/fcntl.h> that older headers lack.
constexpr int kMadvPopulateWrite = 23;
constexpr int kMadvCollapse = 25;
constexpr int kSealFutureWrite = 0x0010;

// In units: on a machine whose memory is fragmented every attempt makes the kernel search, and
// in vain until others have freed some.
constexpr int kLongestPauseOfHuge = 32;

constexpr int kHugeAttempts = 3;

constexpr std::size_t kPageBytes = 4096;

Descriptor make_memfd(std::size_t size) {
    Descriptor memfd(::memfd_create("pilotlight-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memfd) {
        throw MemoryRefused("memfd_create", errno);
    }
    if (::ftruncate(memfd.get(), static_cast<off_t>(size)) != 0) {
        throw MemoryRefused("ftruncate", errno);
    }
    return memfd;
}

// Counts its owner while it lives.
class Counted {
  public:
    explicit Counted(std::atomic<int>& count) noexcept : count_(count) { ++count_; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() { --count_; }

  private:
    std::atomic<int>& count_;
};

}  // namespace

AddressRange::AddressRange(std::size_t size) {
    const std::size_t reserved = size + kPopulateUnitBytes;
    if (reserved < size) {
        throw MemoryRefused("mmap", ENOMEM);
    }
    void* start =
        ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        throw MemoryRefused("mmap", errno);
    }
    reserved_ = {static_cast<std::byte*>(start), reserved};
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    const std::size_t gap =
        (kPopulateUnitBytes - address % kPopulateUnitBytes) % kPopulateUnitBytes;
    bytes_ = reserved_.subspan(gap, size);
}

AddressRange::AddressRange(AddressRange&& other) noexcept
    : reserved_(std::exchange(other.reserved_, {})), bytes_(std::exchange(other.bytes_, {})) {}

AddressRange& AddressRange::operator=(AddressRange&& other) noexcept {
    std::swap(reserved_, other.reserved_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

AddressRange::~AddressRange() {
    if (!reserved_.empty()) {
        ::munmap(reserved_.data(), reserved_.size());
    }
}

Arena::Arena(std::size_t size, std::optional<unsigned> node, Sharing sharing,
             const std::string& node_directory)
    : memfd_(sharing == Sharing::kShared ? make_memfd(size) : Descriptor()),
      range_(size),
      n_units_((size + kPopulateUnitBytes - 1) / kPopulateUnitBytes),
      units_(std::make_unique<std::atomic<UnitState>[]>(n_units_)),
      huge_attempts_(kLongestPauseOfHuge) {
    const int kind = is_shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* mapped =
        ::mmap(bytes().data(), size, PROT_READ | PROT_WRITE, kind | MAP_FIXED, memfd_.get(), 0);
    if (mapped == MAP_FAILED) {
        throw MemoryRefused("mmap", errno);
    }
    // Our own mapping stays writable: the seal forbids only later ones.
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | kSealFutureWrite;
    if (is_shared() && ::fcntl(memfd_.get(), F_ADD_SEALS, kSeals) != 0) {
        throw MemoryRefused("fcntl(F_ADD_SEALS)", errno);
    }
    // Refused where the kernel is built without huge pages, which is no error.
    (void)::madvise(bytes().data(), size, MADV_HUGEPAGE);
    if (node) {
        choose_nodes({&*node, 1});
    } else if (const std::vector<unsigned> nodes = memory_nodes(node_directory); nodes.size() > 1) {
        choose_nodes(nodes);
    }
}

void Arena::choose_nodes(std::span<const unsigned> nodes) {
    for (const NodeStripe& stripe : stripes(bytes().size(), nodes)) {
        const int error = prefer_node(bytes().subspan(stripe.offset, stripe.length), stripe.node);
        if (error != 0) {
            node_refusal_ = "node " + std::to_string(stripe.node) + ": " + std::strerror(error);
            return;
        }
    }
}

void Arena::populate(std::size_t offset, std::size_t length) {
    const std::size_t last =
        std::min(n_units_, (offset + length + kPopulateUnitBytes - 1) / kPopulateUnitBytes);
    for (std::size_t unit = offset / kPopulateUnitBytes; unit < last; ++unit) {
        if (units_[unit].load(std::memory_order_acquire) != UnitState::kPopulated) {
            const Counted populating(n_populating_);
            (void)populate_unit(unit);
        }
    }
}

std::size_t Arena::populate_ahead(std::size_t n_units) {
    std::size_t n_populated = 0;
    std::size_t unit = first_empty_;
    while (unit < n_units_ && n_populated < n_units && n_populating_ == 0) {
        n_populated += populate_unit(unit) ? 1 : 0;
        first_empty_ = ++unit;
    }
    return n_populated;
}

// Returns false if it had its memory before.
bool Arena::populate_unit(std::size_t unit) {
    std::atomic<UnitState>& state = units_[unit];
    for (;;) {
        UnitState seen = state.load(std::memory_order_acquire);
        if (seen == UnitState::kPopulated) {
            return false;
        }
        if (seen == UnitState::kBusy) {
            state.wait(UnitState::kBusy, std::memory_order_acquire);
            continue;
        }
        if (state.compare_exchange_strong(seen, UnitState::kBusy, std::memory_order_acquire)) {
            break;
        }
    }
    try {
        fill(unit_bytes(unit));
    } catch (...) {
        // Not only MemoryRefused: without memory there may be none for its message either.
        state.store(UnitState::kEmpty, std::memory_order_release);
        state.notify_all();
        throw;
    }
    state.store(UnitState::kPopulated, std::memory_order_release);
    state.notify_all();
    return true;
}

void Arena::fill(std::span<std::byte> memory) {
    // Private memory has huge pages from the start, where there are any.
    if (is_shared() && make_huge(memory)) {
        huge_bytes_ += memory.size();
    } else if (::madvise(memory.data(), memory.size(), kMadvPopulateWrite) != 0) {
        if (errno != EINVAL) {
            throw MemoryRefused("madvise(MADV_POPULATE_WRITE)", errno);
        }
        fill_without_populating(memory);
    }
    populated_bytes_ += memory.size();
}

// Before Linux 5.14.
void Arena::fill_without_populating(std::span<std::byte> memory) {
    if (!is_shared()) {
        std::memset(memory.data(), 0, memory.size());
        return;
    }
    // The file gets its memory, our page table is filled by faults.
    const auto offset = static_cast<off_t>(memory.data() - bytes().data());
    if (::fallocate(memfd_.get(), 0, offset, static_cast<off_t>(memory.size())) != 0) {
        throw MemoryRefused("fallocate", errno);
    }
}

// MADV_COLLAPSE gives a memfd huge pages even where the administrator has not turned them on
// for all shared memory. It wants one page to be there already. Measured against small pages:
// populated in half the time, and a worker maps the bytes thirty times faster.
bool Arena::make_huge(std::span<std::byte> memory) noexcept {
    if (memory.size() != kPopulateUnitBytes || !huge_attempts_.may_try()) {
        return false;
    }
    if (::madvise(memory.data(), kPageBytes, kMadvPopulateWrite) == 0) {
        // The first attempt may have found no huge page and made room for one.
        for (int attempt = 0; attempt < kHugeAttempts; ++attempt) {
            if (::madvise(memory.data(), memory.size(), kMadvCollapse) == 0) {
                huge_attempts_.succeeded();
                return true;
            }
        }
    }
    huge_attempts_.failed();
    return false;
}

std::span<std::byte> Arena::unit_bytes(std::size_t unit) const noexcept {
    const std::size_t offset = unit * kPopulateUnitBytes;
    return bytes().subspan(offset, std::min(kPopulateUnitBytes, bytes().size() - offset));
}

std::size_t Arena::populated_bytes() const noexcept {
    return populated_bytes_;
}

std::size_t Arena::huge_bytes() const noexcept {
    return huge_bytes_;
}

}  // namespace pilotlight::native
