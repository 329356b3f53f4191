#include "pilotlight/native/uring.hpp"

#include <linux/io_uring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace pilotlight::native {
namespace {

long enter(int ring, unsigned to_submit, unsigned to_complete) noexcept {
    const unsigned flags = to_complete == 0 ? 0 : IORING_ENTER_GETEVENTS;
    return ::syscall(SYS_io_uring_enter, ring, to_submit, to_complete, flags, nullptr, 0);
}

unsigned acquire(unsigned* shared) noexcept {
    return std::atomic_ref(*shared).load(std::memory_order_acquire);
}

void release(unsigned* shared, unsigned value) noexcept {
    std::atomic_ref(*shared).store(value, std::memory_order_release);
}

}  // namespace

Uring::Mapping::Mapping(int fd, std::uint64_t offset, std::size_t size) noexcept {
    void* start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                         static_cast<off_t>(offset));
    if (start != MAP_FAILED) {
        // A child that shared the queues could take entries out of them.
        (void)::madvise(start, size, MADV_DONTFORK);
        bytes_ = {static_cast<std::byte*>(start), size};
    }
}

Uring::Mapping::~Mapping() {
    if (!bytes_.empty()) {
        ::munmap(bytes_.data(), bytes_.size());
    }
}

std::unique_ptr<Uring> Uring::open(unsigned n_entries) noexcept {
    io_uring_params params{};
    const long fd = ::syscall(SYS_io_uring_setup, n_entries, &params);
    if (fd < 0) {
        return nullptr;
    }
    std::unique_ptr<Uring> ring(new (std::nothrow) Uring(Descriptor(static_cast<int>(fd))));
    if (!ring || !ring->map(params) || !ring->answers()) {
        return nullptr;
    }
    return ring;
}

bool Uring::map(const io_uring_params& params) noexcept {
    // Newer kernels have both queues in one mapping, which can still be mapped as two.
    submissions_ = Mapping(ring_.get(), IORING_OFF_SQ_RING,
                           params.sq_off.array + params.sq_entries * sizeof(unsigned));
    completions_ = Mapping(ring_.get(), IORING_OFF_CQ_RING,
                           params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
    entries_memory_ =
        Mapping(ring_.get(), IORING_OFF_SQES, params.sq_entries * sizeof(io_uring_sqe));
    if (!submissions_ || !completions_ || !entries_memory_) {
        return false;
    }
    entries_ = entries_memory_.at<io_uring_sqe>(0);
    submission_head_ = submissions_.at<unsigned>(params.sq_off.head);
    submission_tail_ = submissions_.at<unsigned>(params.sq_off.tail);
    submission_array_ = submissions_.at<unsigned>(params.sq_off.array);
    submission_mask_ = *submissions_.at<unsigned>(params.sq_off.ring_mask);
    completion_head_ = completions_.at<unsigned>(params.cq_off.head);
    completion_tail_ = completions_.at<unsigned>(params.cq_off.tail);
    completed_ = completions_.at<io_uring_cqe>(params.cq_off.cqes);
    completion_mask_ = *completions_.at<unsigned>(params.cq_off.ring_mask);
    return true;
}

// A sandbox may allow the set-up alone.
bool Uring::answers() noexcept {
    io_uring_sqe nothing{};
    nothing.opcode = IORING_OP_NOP;
    return submit(nothing) && wait().result == 0;
}

bool Uring::begin_read(int fd, const iovec& target, std::uint64_t offset,
                       std::uint64_t tag) noexcept {
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_READV;  // IORING_OP_READ came later.
    entry.fd = fd;
    entry.off = offset;
    entry.addr = reinterpret_cast<std::uintptr_t>(&target);
    entry.len = 1;
    entry.user_data = tag;
    return submit(entry);
}

bool Uring::submit(const io_uring_sqe& entry) noexcept {
    const unsigned tail = *submission_tail_;
    const unsigned index = tail & submission_mask_;
    entries_[index] = entry;
    submission_array_[index] = index;
    release(submission_tail_, tail + 1);
    (void)enter(ring_.get(), 1, 0);
    if (acquire(submission_head_) == tail + 1) {
        return true;
    }
    // The kernel looks at the queue while it is entered only, so what it left can be taken back.
    release(submission_tail_, tail);
    return false;
}

Completion Uring::wait() noexcept {
    for (;;) {
        if (const std::optional<Completion> completion = take()) {
            return *completion;
        }
        if (enter(ring_.get(), 0, 1) < 0 && errno != EINTR) {
            pollfd ring{.fd = ring_.get(), .events = POLLIN, .revents = 0};
            (void)::poll(&ring, 1, -1);
        }
    }
}

std::optional<Completion> Uring::take() noexcept {
    const unsigned head = *completion_head_;
    if (head == acquire(completion_tail_)) {
        return std::nullopt;
    }
    const io_uring_cqe& completed = completed_[head & completion_mask_];
    const Completion completion{.tag = completed.user_data, .result = completed.res};
    release(completion_head_, head + 1);
    return completion;
}

}  // namespace pilotlight::native
