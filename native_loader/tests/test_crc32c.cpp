#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/crc32c.hpp"

using namespace pilotlight::native;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

// Longer than three streams of 8192 bytes, with an odd rest.
constexpr std::size_t kLong = 100'003;
constexpr std::size_t kLengths[] = {1, 7, 8, 4096, 24'575, 24'576, 24'577, kLong};

}  // namespace

TEST(equals_the_published_check_value) {
    CHECK_EQUAL(crc32c(bytes_of("123456789")), 0xE3069283u);
    CHECK_EQUAL(crc32c_by_table(bytes_of("123456789")), 0xE3069283u);
}

TEST(equals_the_vectors_of_rfc_3720) {
    CHECK_EQUAL(crc32c(std::vector(32, std::byte{0x00})), 0x8A9136AAu);
    CHECK_EQUAL(crc32c(std::vector(32, std::byte{0xFF})), 0x62A8AB43u);
}

TEST(of_nothing_is_zero) {
    CHECK_EQUAL(crc32c({}), 0u);
}

TEST(instruction_and_table_agree_at_every_length) {
    const std::vector<std::byte> data = random_bytes(kLong);

    for (const std::size_t length : kLengths) {
        const auto part = std::span(data).first(length);
        CHECK_EQUAL(crc32c(part), crc32c_by_table(part));
    }
}

TEST(continues_from_an_earlier_checksum) {
    const std::vector<std::byte> data = random_bytes(kLong);
    const auto all = std::span<const std::byte>(data);

    CHECK_EQUAL(crc32c(all.subspan(31'337), crc32c(all.first(31'337))), crc32c(all));
}

TEST(appends_checksums_of_parts) {
    const std::vector<std::byte> data = random_bytes(kLong);
    const auto all = std::span<const std::byte>(data);
    const Crc32cAppender appender(kLong - 4097);

    const std::uint32_t joined =
        appender.append(crc32c(all.first(4097)), crc32c(all.subspan(4097)));

    CHECK_EQUAL(joined, crc32c(all));
}
