// Copying rows of bytes into a device's memory, against one byte after the other.
#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "contents.hpp"
#include "input.hpp"
#include "pilotlight/native/copier.hpp"
#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/error.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;
__extension__ using Wide = unsigned __int128;

constexpr std::size_t kSourceBytes = 2 * 4096;

// What of an input is about places in a small memory, most of the time.
std::uint64_t place(fuzz::Input& input) {
    return input.one_in(8) ? input.extent() : input.number(2) % kSourceBytes;
}

CopySpan odd_span(fuzz::Input& input) {
    CopySpan span{.from = place(input), .to = place(input), .length = place(input) % 600};
    if (input.one_in(2)) {
        span.n_rows = input.one_in(4) ? input.extent() : input.below(12);
        span.from_stride = place(input) % 700;
        span.to_stride = place(input) % 700;
    }
    if (input.one_in(8)) {
        span.length = input.extent();
    }
    if (input.one_in(16)) {
        span.from_stride = input.extent();
        span.to_stride = input.extent();
    }
    return span;
}

bool lies_in(const CopySpan& span, std::uint64_t start, std::uint64_t stride, std::size_t size) {
    return span.n_rows == 0 || Wide{start} + Wide{span.n_rows - 1} * stride + span.length <= size;
}

bool is_right(const CopySpan& span, std::size_t to_bytes) {
    const bool overlaps =
        span.n_rows > 1 && std::min(span.from_stride, span.to_stride) < span.length;
    return !overlaps && lies_in(span, span.from, span.from_stride, kSourceBytes) &&
           lies_in(span, span.to, span.to_stride, to_bytes);
}

void copy_by_bytes(const CopySpan& span, const std::vector<std::byte>& from,
                   std::vector<std::byte>& to) {
    if (span.length == 0) {
        return;
    }
    for (std::uint64_t row = 0; row < span.n_rows; ++row) {
        for (std::uint64_t i = 0; i < span.length; ++i) {
            to[span.to + row * span.to_stride + i] = from[span.from + row * span.from_stride + i];
        }
    }
}

// The device as every other test of an input finds it.
const std::shared_ptr<Device>& device() {
    static const std::shared_ptr<Device> only = std::make_shared<CpuDevice>();
    return only;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::vector<std::byte> from = fuzz::contents(1, kSourceBytes);
    fuzz::Input input(data, size);
    const std::size_t to_bytes = input.number(2) % (2 * kSourceBytes);
    const std::shared_ptr<DeviceMemory> memory = device()->allocate(to_bytes);
    const std::unique_ptr<CopyQueue> queue = device()->make_queue();
    std::vector<std::byte> expected(to_bytes);
    while (!input.is_empty()) {
        const std::vector spans{odd_span(input)};
        try {
            queue->copy(*memory, from, spans);
            queue->mark()->wait();
            require(is_right(spans[0], to_bytes), "what does not fit is refused");
            copy_by_bytes(spans[0], from, expected);
        } catch (const std::out_of_range&) {
            require(!is_right(spans[0], to_bytes), "what fits is copied");
        } catch (const std::invalid_argument&) {
            require(!is_right(spans[0], to_bytes), "what fits is copied");
        }
    }
    std::vector<std::byte> held(to_bytes);
    device()->read(*memory, 0, held);
    require(held == expected, "the device holds what was copied");
    return 0;
}
