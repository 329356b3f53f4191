#include "system_calls.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <thread>
#include <utility>

// The real ones, and ours in their place.
extern "C" {
ssize_t __real_pread(int fd, void* into, std::size_t length, off_t offset);
ssize_t __real_preadv2(int fd, const iovec* targets, int n_targets, off_t offset, int flags);
int __real_open(const char* path, int flags, ...);
int __real_fstat(int fd, struct stat* status);
int __real_madvise(void* start, std::size_t length, int advice);
int __real_fallocate(int fd, int mode, off_t offset, off_t length);
void* __real_mmap(void* start, std::size_t length, int protection, int flags, int fd, off_t offset);
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
}

namespace fuzz {
namespace {

constexpr long kCachestatNumber = 451;

// So long that other threads come to something, and so short that a second has many inputs.
constexpr unsigned kMomentMicroseconds = 300;

Faults armed;
std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Call::kCount)> n_calls{};
std::atomic<bool> is_armed = false;
std::atomic<bool> is_harmed = false;
std::atomic<std::thread::id> arming_thread;

// The fault that this call meets, none most of the time.
const Fault* next_fault(Call call) noexcept {
    if (!is_armed) {
        return nullptr;
    }
    const std::uint64_t number = n_calls[static_cast<std::size_t>(call)]++;
    if (armed.is_slow && (call == Call::kPread || call == Call::kUringEnter)) {
        ::usleep(kMomentMicroseconds);
    }
    const auto met = std::ranges::find_if(armed.each, [&](const Fault& fault) {
        return fault.call == call &&
               (number == fault.first || (fault.is_lasting && number > fault.first));
    });
    if (met == armed.each.end()) {
        return nullptr;
    }
    if (!met->is_harmless) {
        is_harmed = true;
    }
    return &*met;
}

// Whether the call is refused; errno says why.
bool is_refused(Call call) noexcept {
    const Fault* fault = next_fault(call);
    if (fault == nullptr) {
        return false;
    }
    errno = fault->error_number;
    return true;
}

Fault refused(Call call, int error_number, bool is_harmless = false) {
    return {.call = call, .error_number = error_number, .is_harmless = is_harmless};
}

Fault odd_read(Input& input) {
    switch (input.byte() % 5) {
        case 0:
            return refused(Call::kPread, EINTR, true);
        case 1:
            // Whoever reads directly goes on through the page cache.
            return refused(Call::kPread, EINVAL);
        case 2:
            return refused(Call::kPread, EIO);
        case 3:
            return {.most_bytes = 4096 * (1 + input.below(3)), .is_harmless = true};
        default:
            return {.most_bytes = input.byte()};
    }
}

Fault odd_fault(Input& input) {
    switch (input.byte() % 18) {
        case 0:
            return refused(Call::kPreadv2, EAGAIN, true);
        case 1:
            return refused(Call::kOpen, input.byte() % 2 == 0 ? EMFILE : EACCES);
        case 2:
            // Every second open asks for direct reads.
            return refused(Call::kOpen, EINVAL);
        case 3:
            return refused(Call::kFstat, EIO);
        case 4:
            return refused(Call::kMadvise, ENOMEM);
        case 5:
            // As before Linux 5.14.
            return refused(Call::kMadvise, EINVAL, true);
        case 6:
            return refused(Call::kFallocate, ENOSPC);
        case 7:
            return refused(Call::kMmap, ENOMEM);
        case 8:
            return refused(Call::kCachestat, ENOSYS, true);
        case 9:
            return refused(Call::kUringSetup, EPERM, true);
        case 10:
            return refused(Call::kUringEnter, EPERM, true);
        case 11:
        case 12:
            return refused(Call::kNew, ENOMEM);
        default:
            return odd_read(input);
    }
}

}  // namespace

Faults odd_faults(Input& input, std::size_t n_most) {
    Faults faults{.each = std::vector<Fault>(input.below(n_most + 1)), .is_slow = input.one_in(4)};
    for (Fault& fault : faults.each) {
        fault = odd_fault(input);
        fault.first = input.below(fault.call == Call::kNew ? 16 : 6);
        // Whoever asks again after an interruption would do so for ever.
        fault.is_lasting = input.byte() % 2 == 0 && fault.error_number != EINTR;
    }
    return faults;
}

ArmedFaults::ArmedFaults(Faults faults) {
    armed = std::move(faults);
    std::ranges::fill(n_calls, 0);
    is_harmed = false;
    arming_thread = std::this_thread::get_id();
    is_armed = true;
}

ArmedFaults::~ArmedFaults() {
    is_armed = false;
}

bool ArmedFaults::has_done_harm() const noexcept {
    return is_harmed;
}

}  // namespace fuzz

using fuzz::Call;

// All forms that a sanitizer's runtime would otherwise pair with others of its own.
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
    const bool is_own = fuzz::arming_thread.load() == std::this_thread::get_id();
    return !is_own && fuzz::is_refused(Call::kNew) ? nullptr : std::malloc(size);
}

void* operator new(std::size_t size) {
    void* memory = operator new(size, std::nothrow);
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}

void operator delete(void* memory) noexcept {
    std::free(memory);
}

void operator delete(void* memory, std::size_t /*size*/) noexcept {
    std::free(memory);
}

void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept {
    std::free(memory);
}

extern "C" {

ssize_t __wrap_pread(int fd, void* into, std::size_t length, off_t offset) {
    if (const fuzz::Fault* fault = fuzz::next_fault(Call::kPread)) {
        if (fault->error_number != 0) {
            errno = fault->error_number;
            return -1;
        }
        const ssize_t count = __real_pread(fd, into, length, offset);
        return std::min(count, static_cast<ssize_t>(fault->most_bytes));
    }
    return __real_pread(fd, into, length, offset);
}

ssize_t __wrap_preadv2(int fd, const iovec* targets, int n_targets, off_t offset, int flags) {
    return fuzz::is_refused(Call::kPreadv2) ? -1
                                            : __real_preadv2(fd, targets, n_targets, offset, flags);
}

int __wrap_open(const char* path, int flags, ...) {
    // Nobody here makes files by it, so there is no mode.
    return fuzz::is_refused(Call::kOpen) ? -1 : __real_open(path, flags);
}

int __wrap_fstat(int fd, struct stat* status) {
    return fuzz::is_refused(Call::kFstat) ? -1 : __real_fstat(fd, status);
}

int __wrap_madvise(void* start, std::size_t length, int advice) {
    return fuzz::is_refused(Call::kMadvise) ? -1 : __real_madvise(start, length, advice);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t length) {
    return fuzz::is_refused(Call::kFallocate) ? -1 : __real_fallocate(fd, mode, offset, length);
}

void* __wrap_mmap(void* start, std::size_t length, int protection, int flags, int fd,
                  off_t offset) {
    return fuzz::is_refused(Call::kMmap)
               ? MAP_FAILED
               : __real_mmap(start, length, protection, flags, fd, offset);
}

// With as many arguments as any system call has, as the C library's own one reads them.
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {
    const bool is_refused =
        (number == fuzz::kCachestatNumber && fuzz::is_refused(Call::kCachestat)) ||
        (number == SYS_io_uring_setup && fuzz::is_refused(Call::kUringSetup)) ||
        (number == SYS_io_uring_enter && fuzz::is_refused(Call::kUringEnter));
    return is_refused ? -1 : __real_syscall(number, a, b, c, d, e, f);
}

}  // extern "C"
