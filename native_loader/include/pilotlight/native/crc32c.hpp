// CRC-32C (Castagnoli), by the processor's instruction where it has one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pilotlight::native {

/// Return the checksum of `data`, continuing from `initial` (the checksum of what came before).
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> data,
                                   std::uint32_t initial = 0) noexcept;

/// The same by tables alone: what runs on processors without the instruction.
[[nodiscard]] std::uint32_t crc32c_by_table(std::span<const std::byte> data,
                                            std::uint32_t initial = 0) noexcept;

/// Appends checksums: `append(crc(a), crc(b))` is crc(a + b), where b has the fixed length.
class Crc32cAppender {
  public:
    explicit Crc32cAppender(std::uint64_t second_length_bytes) noexcept;
    [[nodiscard]] std::uint32_t append(std::uint32_t first, std::uint32_t second) const noexcept;

  private:
    std::uint32_t operator_;
};

}  // namespace pilotlight::native
