#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/device.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max() - 1;

void check_one(const CopySpan& span) {
    check_spans(std::vector{span}, 100, 50);
}

}  // namespace

TEST(accepts_spans_that_end_where_the_memory_does) {
    check_one({.from = 90, .to = 40, .length = 10});
    check_one(
        {.from = 20, .to = 30, .length = 10, .n_rows = 2, .from_stride = 70, .to_stride = 10});
    check_one({.from = 100, .to = 50, .length = 0});
}

TEST(takes_no_notice_of_one_rows_strides) {
    check_one({.length = 10, .n_rows = 1, .from_stride = kHuge, .to_stride = 1});
}

TEST(takes_no_notice_of_no_rows) {
    check_one({.from = kHuge, .to = kHuge, .length = 10, .n_rows = 0});
}

TEST(refuses_spans_beyond_the_source) {
    const auto error =
        CHECK_THROWS(std::out_of_range, check_one({.from = 91, .to = 0, .length = 10}));

    CHECK_EQUAL(std::string(error.what()), "a copy reads beyond its source");
}

TEST(refuses_spans_beyond_the_target) {
    const auto error =
        CHECK_THROWS(std::out_of_range, check_one({.from = 0, .to = 41, .length = 10}));

    CHECK_EQUAL(std::string(error.what()), "a copy writes beyond the device's memory");
}

TEST(refuses_spans_whose_end_has_no_number) {
    (void)CHECK_THROWS(std::out_of_range, check_one({.from = kHuge, .length = 10}));
    (void)CHECK_THROWS(std::out_of_range, check_one({.length = kHuge, .n_rows = 1}));
    (void)CHECK_THROWS(std::out_of_range,
                       check_one({.length = 1, .n_rows = kHuge, .from_stride = 4, .to_stride = 4}));
}

TEST(refuses_rows_that_overlap) {
    (void)CHECK_THROWS(std::invalid_argument,
                       check_one({.length = 8, .n_rows = 2, .from_stride = 8, .to_stride = 4}));
    (void)CHECK_THROWS(std::invalid_argument,
                       check_one({.length = 8, .n_rows = 2, .from_stride = 0, .to_stride = 8}));
}
