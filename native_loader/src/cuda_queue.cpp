#include "pilotlight/native/cuda_queue.hpp"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

namespace pilotlight::native::cuda {
namespace {

// The waiting thread sleeps, for the processor has checksums to compute.
constexpr unsigned kMarkFlags = kEventBlockingSync | kEventDisableTiming;

class Mark final : public CopyMark {
  public:
    Mark(ContextPointer context, Stream stream) : context_(std::move(context)) {
        context_->require(driver().event_create, &event_, kMarkFlags);
        const Result result = driver().event_record(event_, stream);
        if (result != Result::kSuccess) {
            (void)driver().event_destroy(event_);
            context_->check(driver().event_record.name(), result);
        }
    }
    ~Mark() override {
        try {
            const Current current(*context_);
            (void)driver().event_destroy(event_);
        } catch (const std::exception&) {
            // The event says itself whose it is; a device that failed for good has none.
            (void)driver().event_destroy(event_);
        }
    }

    void wait() override {
        const Current current(*context_);
        context_->require(driver().event_synchronize, event_);
    }

  private:
    [[nodiscard]] const Driver& driver() const noexcept { return context_->driver(); }

    const ContextPointer context_;
    Event event_ = nullptr;
};

// Those rows that lie one after the other in both places are one range.
bool is_one_range(const CopySpan& span) {
    return span.n_rows == 1 || (span.from_stride == span.length && span.to_stride == span.length);
}

}  // namespace

Queue::Queue(ContextPointer context, std::size_t max_pitch)
    : context_(std::move(context)), max_pitch_(max_pitch) {
    const Current current(*context_);
    context_->require(context_->driver().stream_create, &stream_, kStreamNonBlocking);
}

Queue::~Queue() {
    drain();
    try {
        const Current current(*context_);
        (void)context_->driver().stream_destroy(stream_);
    } catch (const std::exception&) {
        return;
    }
}

void Queue::copy(const DeviceMemory& into, std::span<const std::byte> from,
                 std::span<const CopySpan> spans) {
    const auto* memory = dynamic_cast<const Memory*>(&into);
    if (memory == nullptr || memory->context().number() != context_->number()) {
        throw std::invalid_argument("the memory is another device's");
    }
    check_spans(spans, from.size(), memory->size_bytes());
    const Current current(*context_);
    for (const CopySpan& span : spans) {
        if (span.n_rows > 0 && span.length > 0) {
            copy_span(memory->address() + span.to, from.data() + span.from, span);
        }
    }
}

void Queue::copy_span(DeviceAddress into, const std::byte* from, const CopySpan& span) {
    if (is_one_range(span)) {
        copy_range(into, from, span.n_rows * span.length);
        return;
    }
    if (std::max(span.from_stride, span.to_stride) <= max_pitch_) {
        copy_rows(into, from, span);
        return;
    }
    for (std::uint64_t row = 0; row < span.n_rows; ++row) {
        copy_range(into + row * span.to_stride, from + row * span.from_stride, span.length);
    }
}

void Queue::copy_range(DeviceAddress into, const std::byte* from, std::size_t length) {
    context_->require(context_->driver().copy_to_device, into, from, length, stream_);
}

void Queue::copy_rows(DeviceAddress into, const std::byte* from, const CopySpan& span) {
    Copy2D copy;
    copy.source_host = from;
    copy.source_pitch = span.from_stride;
    copy.target_device = into;
    copy.target_pitch = span.to_stride;
    copy.width_bytes = span.length;
    copy.height = span.n_rows;
    context_->require(context_->driver().copy_rows, &copy, stream_);
}

std::unique_ptr<CopyMark> Queue::mark() {
    const Current current(*context_);
    return std::make_unique<Mark>(context_, stream_);
}

void Queue::drain() noexcept {
    try {
        const Current current(*context_);
        (void)context_->driver().stream_synchronize(stream_);
    } catch (const std::exception&) {
        // A device whose context can't be entered copies nothing.
        return;
    }
}

}  // namespace pilotlight::native::cuda
