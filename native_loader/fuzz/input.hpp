// The bytes of one fuzzing input, taken as numbers; once they are used up, all is zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fuzz {

/// Not thread-safe.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

    [[nodiscard]] bool is_empty() const noexcept { return left_.empty(); }

    std::uint8_t byte() noexcept {
        if (left_.empty()) {
            return 0;
        }
        const std::uint8_t first = left_.front();
        left_ = left_.subspan(1);
        return first;
    }

    /// True for one byte in `n`, never once the bytes are used up.
    bool one_in(unsigned n) noexcept { return byte() % n == n - 1; }

    /// From 0 to `n` - 1, for an `n` up to 256.
    std::size_t below(std::size_t n) noexcept { return byte() % n; }

    std::uint64_t number(std::size_t n_bytes) noexcept {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < n_bytes; ++i) {
            value = value << 8 | byte();
        }
        return value;
    }

    /// A size or an offset: small, around a multiple of a page, around a power of two, or
    /// anything at all, each in a few bytes.
    std::uint64_t extent() noexcept {
        switch (byte() % 6) {
            case 0:
                return byte();
            case 1:
                return std::uint64_t{4096} * byte();
            case 2:
                return std::uint64_t{4096} * byte() + byte() - 128;
            case 3:
                return number(2);
            case 4:
                return (std::uint64_t{1} << (byte() % 64)) + byte() - 128;
            default:
                return number(8);
        }
    }

  private:
    std::span<const std::uint8_t> left_;
};

}  // namespace fuzz
