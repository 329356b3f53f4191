#include "pilotlight/native/cuda_memory.hpp"

#include <fcntl.h>

#include <utility>

namespace pilotlight::native::cuda {
namespace {

std::size_t free_bytes(const PrimaryContext& context) {
    const Current current(context);
    std::size_t free = 0;
    std::size_t total = 0;
    context.require(context.driver().memory_get_info, &free, &total);
    return free;
}

}  // namespace

std::shared_ptr<Memory> Memory::create(const ContextPointer& context, std::size_t size_bytes,
                                       std::size_t padded_bytes,
                                       const AllocationProperties& properties) {
    const Driver& driver = context->driver();
    MemoryHandle handle = 0;
    const Result result = driver.memory_create(&handle, padded_bytes, &properties, 0);
    if (result == Result::kOutOfMemory) {
        throw DeviceMemoryRefused(context->device(), padded_bytes, free_bytes(*context));
    }
    context->check(driver.memory_create.name(), result);
    return std::make_shared<Memory>(std::make_unique<const Physical>(context, handle), size_bytes,
                                    padded_bytes);
}

std::shared_ptr<Memory> Memory::attach(const ContextPointer& context, std::size_t size_bytes,
                                       std::size_t padded_bytes, int fd) {
    MemoryHandle handle = 0;
    // The driver takes the descriptor itself where it says pointer.
    void* descriptor = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
    context->require(context->driver().memory_import, &handle, descriptor,
                     HandleType::kPosixFileDescriptor);
    return std::make_shared<Memory>(std::make_unique<const Physical>(context, handle), size_bytes,
                                    padded_bytes);
}

Memory::Memory(std::unique_ptr<const Physical> physical, std::size_t size_bytes,
               std::size_t padded_bytes)
    : physical_(std::move(physical)),
      size_bytes_(size_bytes),
      range_(context().driver(), padded_bytes) {
    const Driver& driver = context().driver();
    context().require(driver.address_reserve, &range_.address, padded_bytes, 0, 0, 0);
    context().require(driver.memory_map, range_.address, padded_bytes, 0, physical_->handle(), 0);
    range_.is_mapped = true;
    const AccessDescription access{.location = {.id = context().number()}};
    context().require(driver.memory_set_access, range_.address, padded_bytes, &access,
                      std::size_t{1});
}

// Tensors may go while kernels that read them are still queued, and to unmap waits for none.
Memory::~Memory() {
    try {
        const Current current(context());
        (void)context().driver().context_synchronize();
    } catch (const DeviceFailed&) {
        // The device does nothing any more.
        return;
    }
}

Memory::Range::~Range() {
    if (is_mapped) {
        (void)driver.memory_unmap(address, size_bytes);
    }
    if (address != 0) {
        (void)driver.address_free(address, size_bytes);
    }
}

Descriptor Memory::exported() const {
    int fd = -1;
    context().require(context().driver().memory_export, static_cast<void*>(&fd),
                      physical_->handle(), HandleType::kPosixFileDescriptor, 0);
    Descriptor exported(fd);
    (void)::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return exported;
}

}  // namespace pilotlight::native::cuda
