#include "pilotlight/native/cpu_device.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>

#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/chunk_view.hpp"
#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

constexpr std::size_t kPageBytes = 4096;

// At least a page, for the kernel maps nothing less.
std::size_t whole_pages(std::size_t size_bytes) {
    return std::max((size_bytes + kPageBytes - 1) / kPageBytes, std::size_t{1}) * kPageBytes;
}

DeviceSpace space_of_this_machine() {
    std::ifstream lines("/proc/meminfo");
    std::map<std::string, std::size_t> kibibytes;
    std::string name;
    std::size_t value = 0;
    std::string rest;
    while (lines >> name >> value && std::getline(lines, rest)) {
        kibibytes[name] = value;
    }
    return {.total_bytes = kibibytes["MemTotal:"] << 10,
            .free_bytes = kibibytes["MemAvailable:"] << 10};
}

Descriptor duplicate_of(int fd) {
    Descriptor duplicate(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!duplicate) {
        throw MemoryRefused("fcntl(F_DUPFD_CLOEXEC)", errno);
    }
    return duplicate;
}

// A file that can shrink would kill whoever maps it.
void check_is_sealed(int fd) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        throw std::invalid_argument("the descriptor is not one of a device's memory");
    }
}

class CpuMemory : public DeviceMemory {
  public:
    [[nodiscard]] std::uint64_t address() const noexcept override {
        return reinterpret_cast<std::uintptr_t>(host_bytes().data());
    }
    [[nodiscard]] std::size_t size_bytes() const noexcept override { return host_bytes().size(); }
    /// Have the range be writable without a fault. Throws MemoryRefused.
    virtual void populate(std::size_t offset, std::size_t length) const = 0;
};

class OwnMemory final : public CpuMemory {
  public:
    explicit OwnMemory(std::size_t size_bytes)
        : size_bytes_(size_bytes), arena_(std::make_unique<Arena>(whole_pages(size_bytes))) {}

    [[nodiscard]] std::span<std::byte> host_bytes() const noexcept override {
        return arena_->bytes().first(size_bytes_);
    }
    [[nodiscard]] Descriptor exported() const override { return duplicate_of(arena_->fd()); }
    void populate(std::size_t offset, std::size_t length) const override {
        arena_->populate(offset, length);
    }

  private:
    const std::size_t size_bytes_;
    const std::unique_ptr<Arena> arena_;
};

// What another process exported: a private mapping of pages that are there already.
class AttachedMemory final : public CpuMemory {
  public:
    AttachedMemory(int fd, std::size_t size_bytes)
        : fd_(duplicate_of(fd)),
          view_(fd, whole_pages(size_bytes), std::array{ChunkIndex{0}}, size_bytes) {}

    [[nodiscard]] std::span<std::byte> host_bytes() const noexcept override {
        return view_.bytes();
    }
    [[nodiscard]] Descriptor exported() const override { return duplicate_of(fd_.get()); }
    void populate(std::size_t /*offset*/, std::size_t /*length*/) const override {}

  private:
    const Descriptor fd_;
    const ChunkView view_;
};

const CpuMemory& as_cpu_memory(const DeviceMemory& memory) {
    const auto* own = dynamic_cast<const CpuMemory*>(&memory);
    if (own == nullptr) {
        throw std::invalid_argument("the memory is another device's");
    }
    return *own;
}

// The copies are done when the call that begins them returns.
class ReachedMark final : public CopyMark {
  public:
    void wait() override {}
};

class CpuQueue final : public CopyQueue {
  public:
    explicit CpuQueue(std::string device) : device_(std::move(device)) {}

    void copy(const DeviceMemory& into, std::span<const std::byte> from,
              std::span<const CopySpan> spans) override {
        const CpuMemory& memory = as_cpu_memory(into);
        check_spans(spans, from.size(), memory.size_bytes());
        for (const CopySpan& span : spans) {
            if (span.n_rows == 0 || span.length == 0) {
                continue;
            }
            populate(memory, span);
            copy_rows(memory.host_bytes().data() + span.to, from.data() + span.from, span);
        }
    }
    [[nodiscard]] std::unique_ptr<CopyMark> mark() override {
        return std::make_unique<ReachedMark>();
    }
    void drain() noexcept override {}

  private:
    void populate(const CpuMemory& memory, const CopySpan& span) {
        const std::size_t length = (span.n_rows - 1) * span.to_stride + span.length;
        try {
            memory.populate(span.to, length);
        } catch (const MemoryRefused&) {
            throw DeviceMemoryRefused(device_, length, space_of_this_machine().free_bytes);
        }
    }

    static void copy_rows(std::byte* into, const std::byte* from, const CopySpan& span) {
        for (std::uint64_t row = 0; row < span.n_rows; ++row) {
            std::memcpy(into + row * span.to_stride, from + row * span.from_stride, span.length);
        }
    }

    const std::string device_;
};

}  // namespace

std::shared_ptr<DeviceMemory> CpuDevice::allocate(std::size_t size_bytes) {
    const std::size_t free_bytes = space().free_bytes;
    if (size_bytes > free_bytes) {
        throw DeviceMemoryRefused(name_, size_bytes, free_bytes);
    }
    return std::make_shared<OwnMemory>(size_bytes);
}

std::shared_ptr<DeviceMemory> CpuDevice::attach(int fd, std::size_t size_bytes) {
    check_is_sealed(fd);
    return std::make_shared<AttachedMemory>(fd, size_bytes);
}

DeviceSpace CpuDevice::space() {
    return space_of_this_machine();
}

std::unique_ptr<CopyQueue> CpuDevice::make_queue() {
    return std::make_unique<CpuQueue>(name_);
}

bool CpuDevice::pin(std::span<std::byte> /*memory*/) noexcept {
    return true;
}

void CpuDevice::unpin(std::span<std::byte> /*memory*/) noexcept {}

void CpuDevice::read(const DeviceMemory& from, std::uint64_t offset, std::span<std::byte> into) {
    const std::span<const std::byte> bytes = as_cpu_memory(from).host_bytes();
    if (offset > bytes.size() || into.size() > bytes.size() - offset) {
        throw std::out_of_range("a read beyond the device's memory");
    }
    std::ranges::copy(bytes.subspan(offset, into.size()), into.begin());
}

}  // namespace pilotlight::native
