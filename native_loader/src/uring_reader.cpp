#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

#include "pilotlight/native/block_reader.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/uring.hpp"

namespace pilotlight::native {
namespace {

// What a ring answers, and pread would not have.
bool is_refusal_of_the_ring(int error_number) {
    return error_number == EINVAL || error_number == EAGAIN || error_number == EINTR ||
           error_number == ENOMEM || error_number == EOPNOTSUPP || error_number == ECANCELED;
}

// Begins direct reads by the ring. What is in the page cache, what the ring does not take and
// what it leaves unfinished is read at once, as a reader of one block at a time does it.
class UringReader final : public BlockReader {
  public:
    UringReader(std::unique_ptr<Uring> ring, std::size_t depth);
    ~UringReader() override;

    [[nodiscard]] std::size_t depth() const noexcept override { return slots_.size(); }
    void start(const ReadRequest& request) noexcept override;
    [[nodiscard]] ReadAnswer wait() noexcept override;

  private:
    struct Slot {
        ReadRequest request;
        iovec target{};
    };

    [[nodiscard]] bool is_taken_from_page_cache(const ReadRequest& request);
    [[nodiscard]] bool is_begun(const ReadRequest& request) noexcept;
    void finish(const ReadRequest& request, std::int32_t result) const;

    const std::unique_ptr<Uring> ring_;
    const std::unique_ptr<BlockReader> one_at_a_time_ = make_pread_reader();
    std::vector<Slot> slots_;
    std::vector<std::size_t> free_slots_;
    std::vector<ReadAnswer> answers_;
    std::vector<ReadRequest> refused_;
};

UringReader::UringReader(std::unique_ptr<Uring> ring, std::size_t depth)
    : ring_(std::move(ring)), slots_(depth) {
    for (std::size_t slot = depth; slot-- > 0;) {
        free_slots_.push_back(slot);
    }
    // So that nothing is allocated where nothing may be thrown.
    answers_.reserve(depth);
    refused_.reserve(depth);
}

UringReader::~UringReader() {
    for (std::size_t left = slots_.size() - free_slots_.size(); left > 0; --left) {
        (void)ring_->wait();
    }
}

void UringReader::start(const ReadRequest& request) noexcept {
    ReadAnswer answer{.tag = request.tag, .is_from_page_cache = true, .failure = nullptr};
    try {
        if (!is_taken_from_page_cache(request)) {
            if (!is_begun(request)) {
                refused_.push_back(request);
                refused_.back().use_page_cache = false;
            }
            return;
        }
    } catch (...) {
        answer = {request.tag, false, std::current_exception()};
    }
    answers_.push_back(std::move(answer));
}

bool UringReader::is_taken_from_page_cache(const ReadRequest& request) {
    return request.use_page_cache &&
           request.file->read_cached(request.room, request.offset, request.length);
}

bool UringReader::is_begun(const ReadRequest& request) noexcept {
    const int fd = request.file->direct_fd();
    if (fd < 0) {
        return false;
    }
    const std::size_t slot = free_slots_.back();
    const std::size_t wanted =
        (request.length + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
    slots_[slot] = {.request = request, .target = {request.room.data(), wanted}};
    if (!ring_->begin_read(fd, slots_[slot].target, request.offset, slot)) {
        return false;
    }
    free_slots_.pop_back();
    return true;
}

ReadAnswer UringReader::wait() noexcept {
    if (!answers_.empty()) {
        ReadAnswer answer = std::move(answers_.back());
        answers_.pop_back();
        return answer;
    }
    if (!refused_.empty()) {
        one_at_a_time_->start(refused_.back());
        refused_.pop_back();
        return one_at_a_time_->wait();
    }
    const Completion completion = ring_->wait();
    free_slots_.push_back(completion.tag);
    const ReadRequest& request = slots_[completion.tag].request;
    ReadAnswer answer{.tag = request.tag, .is_from_page_cache = false, .failure = nullptr};
    try {
        finish(request, completion.result);
    } catch (...) {
        answer.failure = std::current_exception();
    }
    return answer;
}

void UringReader::finish(const ReadRequest& request, std::int32_t result) const {
    if (result < 0 && !is_refusal_of_the_ring(-result)) {
        throw ReadFailed(request.file->path(), request.offset, -result);
    }
    const auto done = static_cast<std::size_t>(std::max(result, 0));
    if (done >= request.length) {
        return;
    }
    const std::size_t start = done / kDirectAlignment * kDirectAlignment;
    request.file->read(request.room.subspan(start), request.offset + start, request.length - start);
}

}  // namespace

std::unique_ptr<BlockReader> make_uring_reader(std::size_t depth) {
    if (depth == 0 || depth > std::numeric_limits<unsigned>::max()) {
        return nullptr;
    }
    std::unique_ptr<Uring> ring = Uring::open(static_cast<unsigned>(depth));
    if (!ring) {
        return nullptr;
    }
    return std::make_unique<UringReader>(std::move(ring), depth);
}

}  // namespace pilotlight::native
