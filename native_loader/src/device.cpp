#include "pilotlight/native/device.hpp"

#include <limits>
#include <stdexcept>

namespace pilotlight::native {
namespace {

constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();

// Where the last row ends; kNowhere for what no memory holds.
std::uint64_t end_of(std::uint64_t start, const CopySpan& span, std::uint64_t stride) {
    std::uint64_t rows = 0;
    std::uint64_t last = 0;
    std::uint64_t end = 0;
    if (__builtin_mul_overflow(span.n_rows - 1, stride, &rows) ||
        __builtin_add_overflow(start, rows, &last) ||
        __builtin_add_overflow(last, span.length, &end)) {
        return kNowhere;
    }
    return end;
}

void check_span(const CopySpan& span, std::uint64_t from_bytes, std::uint64_t to_bytes) {
    if (span.n_rows == 0) {
        return;
    }
    if (span.n_rows > 1 && (span.from_stride < span.length || span.to_stride < span.length)) {
        throw std::invalid_argument("the rows of a copy overlap");
    }
    if (end_of(span.from, span, span.from_stride) > from_bytes) {
        throw std::out_of_range("a copy reads beyond its source");
    }
    if (end_of(span.to, span, span.to_stride) > to_bytes) {
        throw std::out_of_range("a copy writes beyond the device's memory");
    }
}

}  // namespace

void check_spans(std::span<const CopySpan> spans, std::uint64_t from_bytes,
                 std::uint64_t to_bytes) {
    for (const CopySpan& span : spans) {
        check_span(span, from_bytes, to_bytes);
    }
}

}  // namespace pilotlight::native
