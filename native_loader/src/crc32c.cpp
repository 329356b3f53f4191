#include "pilotlight/native/crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace pilotlight::native {
namespace {

// Polynomials over GF(2) are kept bit-reflected: bit 31 is x^0.
constexpr std::uint32_t kPolynomial = 0x82F63B78;
constexpr std::uint32_t kOne = 0x80000000;

constexpr std::uint32_t times_x(std::uint32_t value) {
    return (value & 1) != 0 ? (value >> 1) ^ kPolynomial : value >> 1;
}

constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product = 0;
    for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
        if ((a & bit) != 0) {
            product ^= b;
        }
        b = times_x(b);
    }
    return product;
}

// x to the power of 8 * n_bytes: what appending that many zero bytes multiplies a checksum by.
constexpr std::uint32_t zero_bytes_operator(std::uint64_t n_bytes) {
    std::uint32_t square = kOne;
    for (int i = 0; i < 8; ++i) {
        square = times_x(square);
    }
    std::uint32_t power = kOne;
    for (; n_bytes != 0; n_bytes >>= 1) {
        if ((n_bytes & 1) != 0) {
            power = multiply(power, square);
        }
        square = multiply(square, square);
    }
    return power;
}

using ByteTable = std::array<std::uint32_t, 256>;

// Slicing by eight: table k holds the checksum of a byte that k zero bytes follow.
constexpr std::array<ByteTable, 8> make_slicing_tables() {
    std::array<ByteTable, 8> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int i = 0; i < 8; ++i) {
            crc = times_x(crc);
        }
        tables[0][byte] = crc;
    }
    for (std::size_t k = 1; k < 8; ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr auto kSlicing = make_slicing_tables();

std::uint64_t read_word(const std::byte* data) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, sizeof word);
    return word;
}

std::uint32_t update_by_table(std::uint32_t crc, std::span<const std::byte> data) noexcept {
    std::size_t i = 0;
    for (; i + 8 <= data.size(); i += 8) {
        const std::uint64_t word = read_word(&data[i]) ^ crc;
        crc = 0;
        for (std::size_t k = 0; k < 8; ++k) {
            crc ^= kSlicing[7 - k][(word >> (8 * k)) & 0xFF];
        }
    }
    for (; i < data.size(); ++i) {
        crc = (crc >> 8) ^ kSlicing[0][(crc ^ std::to_integer<std::uint32_t>(data[i])) & 0xFF];
    }
    return crc;
}

#if defined(__x86_64__)

// The instruction has a latency of three cycles and can start every cycle, so three
// independent streams run at three times the speed of one; their checksums are joined by
// tables which multiply by the operator of one stream's length.
constexpr std::size_t kStreamBytes = 8192;

constexpr std::array<ByteTable, 4> make_join_tables() {
    constexpr std::uint32_t join = zero_bytes_operator(kStreamBytes);
    std::array<ByteTable, 4> tables{};
    for (std::uint32_t k = 0; k < 4; ++k) {
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            tables[k][byte] = multiply(join, byte << (8 * k));
        }
    }
    return tables;
}

constexpr auto kJoin = make_join_tables();

std::uint32_t join_streams(std::uint32_t first, std::uint32_t second) {
    return kJoin[0][first & 0xFF] ^ kJoin[1][(first >> 8) & 0xFF] ^ kJoin[2][(first >> 16) & 0xFF] ^
           kJoin[3][first >> 24] ^ second;
}

__attribute__((target("sse4.2"))) std::uint32_t update_by_instruction(
    std::uint32_t crc, std::span<const std::byte> data) noexcept {
    std::uint64_t a = crc;
    while (data.size() >= 3 * kStreamBytes) {
        std::uint64_t b = 0;
        std::uint64_t c = 0;
        for (std::size_t i = 0; i < kStreamBytes; i += 8) {
            a = _mm_crc32_u64(a, read_word(&data[i]));
            b = _mm_crc32_u64(b, read_word(&data[i + kStreamBytes]));
            c = _mm_crc32_u64(c, read_word(&data[i + 2 * kStreamBytes]));
        }
        const auto ab = join_streams(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b));
        a = join_streams(ab, static_cast<std::uint32_t>(c));
        data = data.subspan(3 * kStreamBytes);
    }
    for (; data.size() >= 8; data = data.subspan(8)) {
        a = _mm_crc32_u64(a, read_word(data.data()));
    }
    auto tail = static_cast<std::uint32_t>(a);
    for (const std::byte byte : data) {
        tail = _mm_crc32_u8(tail, std::to_integer<std::uint8_t>(byte));
    }
    return tail;
}

#endif

using Update = std::uint32_t (*)(std::uint32_t, std::span<const std::byte>) noexcept;

Update choose_update() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        return update_by_instruction;
    }
#endif
    return update_by_table;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t initial) noexcept {
    static const Update update = choose_update();
    return ~update(~initial, data);
}

std::uint32_t crc32c_by_table(std::span<const std::byte> data, std::uint32_t initial) noexcept {
    return ~update_by_table(~initial, data);
}

Crc32cAppender::Crc32cAppender(std::uint64_t second_length_bytes) noexcept
    : operator_(zero_bytes_operator(second_length_bytes)) {}

std::uint32_t Crc32cAppender::append(std::uint32_t first, std::uint32_t second) const noexcept {
    return multiply(operator_, first) ^ second;
}

}  // namespace pilotlight::native
