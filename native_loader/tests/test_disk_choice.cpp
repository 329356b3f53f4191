#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/disk_choice.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr double kGB = 1e9;

DiskMeasurement measured(std::size_t n_readers, std::size_t depth, std::size_t block_bytes,
                         double bytes_per_second) {
    return {.settings = {.n_readers = n_readers, .depth = depth, .block_bytes = block_bytes},
            .bytes_per_second = bytes_per_second};
}

// All that is measured on a disk whose speed is a function of the settings.
std::vector<DiskMeasurement> measured_on(const auto& bytes_per_second, bool has_uring = true) {
    std::vector<DiskMeasurement> measurements;
    while (const std::optional<DiskSettings> next = next_to_measure(measurements, has_uring)) {
        measurements.push_back({.settings = *next, .bytes_per_second = bytes_per_second(*next)});
        CHECK(measurements.size() <= kMostMeasurements);
    }
    return measurements;
}

}  // namespace

TEST(measures_all_twice_so_that_a_moment_of_others_tells_nothing) {
    std::size_t n_measured = 0;
    const auto disturbed = [&](const DiskSettings& settings) {
        // At first somebody else reads too, which hits the settings that are preferred.
        const bool is_disturbed = ++n_measured < 5;
        const double rate = settings.n_readers * settings.depth < 8 ? 1.0 : 2.0;
        return rate * (is_disturbed ? 0.5 : 1.0) * kGB;
    };

    const std::vector<DiskMeasurement> measurements = measured_on(disturbed);

    CHECK_EQUAL(measurements.size(), kMostMeasurements);
    CHECK(choose(measurements)->settings == (DiskSettings{4, 2, kMiB}));
    for (const DiskMeasurement& measurement : measurements) {
        CHECK_EQUAL(
            std::ranges::count(measurements, measurement.settings, &DiskMeasurement::settings), 2);
    }
}

TEST(chooses_nothing_from_nothing) {
    CHECK(!choose({}));
}

TEST(chooses_rings_or_else_more_in_flight_than_a_probe_needs) {
    const auto any = [](const DiskSettings&) { return 2.00 * kGB; };

    CHECK(choose(measured_on(any))->settings == (DiskSettings{4, 2, kMiB}));
    CHECK(choose(measured_on(any, false))->settings == (DiskSettings{8, 1, kMiB}));
}

TEST(says_no_more_of_a_disk_than_it_gave_each_time) {
    const std::vector<DiskMeasurement> measurements{
        measured(8, 1, kMiB, 5.00 * kGB),
        measured(4, 1, kMiB, 2.00 * kGB),
        measured(8, 1, kMiB, 3.00 * kGB),
    };

    CHECK(choose(measurements) == measurements[2]);
}

TEST(chooses_what_is_preferred_among_the_fastest) {
    const std::vector<DiskMeasurement> measurements{
        measured(16, 1, kMiB, 2.00 * kGB),
        measured(4, 1, kMiB, 1.92 * kGB),  // 96 % of the fastest
        measured(8, 1, kMiB, 1.88 * kGB),  // 94 %
    };

    CHECK(choose(measurements) == measurements[1]);
}

TEST(finds_that_a_disk_wants_few_readers) {
    const auto spinning = [](const DiskSettings& settings) {
        return kGB / static_cast<double>(settings.n_readers * settings.depth);
    };

    CHECK(choose(measured_on(spinning))->settings == (DiskSettings{2, 1, kMiB}));
}

TEST(chooses_the_usual_blocks_among_as_many_readers) {
    const std::vector<DiskMeasurement> measurements{
        measured(2, 1, kMiB, 2.00 * kGB), measured(4, 2, kMiB / 2, 1.98 * kGB),
        measured(4, 2, kMiB, 1.97 * kGB), measured(4, 2, 2 * kMiB, 1.99 * kGB),
        measured(4, 4, kMiB, 1.00 * kGB),
    };

    CHECK(choose(measurements) == measurements[2]);
}

TEST(chooses_the_smallest_of_unusual_blocks) {
    const std::vector<DiskMeasurement> measurements{
        measured(4, 1, kMiB, 1.50 * kGB),
        measured(4, 1, 4 * kMiB, 2.00 * kGB),
        measured(4, 1, 2 * kMiB, 1.98 * kGB),
    };

    CHECK(choose(measurements) == measurements[2]);
}

TEST(measures_the_usual_settings_first) {
    CHECK(next_to_measure({}, true) == DiskSettings{});
    CHECK(next_to_measure({}, false) == DiskSettings{});
}

TEST(finds_that_a_disk_wants_much_in_flight) {
    const auto array = [](const DiskSettings& settings) {
        return static_cast<double>(settings.n_readers * settings.depth) * kGB;
    };

    const std::optional<DiskMeasurement> with_uring = choose(measured_on(array));
    const std::optional<DiskMeasurement> without = choose(measured_on(array, false));

    CHECK(with_uring->settings == (DiskSettings{4, 4, kMiB}));  // as much as 16 threads have
    CHECK(without->settings == (DiskSettings{16, 1, kMiB}));
}

TEST(finds_that_a_disk_wants_large_blocks) {
    const auto disk = [](const DiskSettings& settings) {
        return std::sqrt(static_cast<double>(settings.block_bytes)) * 1e6;
    };

    CHECK(choose(measured_on(disk))->settings == (DiskSettings{4, 2, 4 * kMiB}));
}

TEST(measures_no_ring_where_there_is_none) {
    for (const DiskMeasurement& measurement :
         measured_on([](const DiskSettings&) { return kGB; }, false)) {
        CHECK_EQUAL(measurement.settings.depth, 1u);
    }
}

TEST(keeps_no_more_in_flight_than_can_be_waited_for) {
    const double slow = 0.1 * kGB;  // In 50 ms it reads 5 MB.

    const std::vector<DiskMeasurement> measurements =
        measured_on([&](const DiskSettings&) { return slow; });

    for (const DiskMeasurement& measurement : measurements) {
        const DiskSettings& settings = measurement.settings;
        CHECK(settings.n_readers * settings.depth * settings.block_bytes <= 5'000'000);
    }
    CHECK(measurements.size() > 1);
}
