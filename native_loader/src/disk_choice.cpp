#include "pilotlight/native/disk_choice.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <tuple>
#include <vector>

namespace pilotlight::native {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// In order of preference, for disks that do not care. Two readers at least: they also populate
// memory and compute checksums, and one processor is outrun by a fast disk there. Meanwhile they
// keep less in flight than in a probe, so rather more of them than just enough.
constexpr std::array<DiskSettings, 6> kWaysToRead{{
    {.n_readers = 8, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 4, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 2, .depth = 8, .block_bytes = kMiB},
    {.n_readers = 2, .depth = 4, .block_bytes = kMiB},
    {.n_readers = 2, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 16, .depth = 1, .block_bytes = kMiB},
}};
constexpr std::array<std::size_t, 3> kOtherBlocks{2 * kMiB, kMiB / 2, 4 * kMiB};

// Who else reads the disk, or uses the processor, makes it look slower and never faster.
constexpr std::size_t kPasses = 2;
static_assert(kPasses * (kWaysToRead.size() + kOtherBlocks.size()) == kMostMeasurements);

// Measured in so short a time, smaller differences mean nothing.
constexpr double kAboutAsFast = 0.97;

// A load that is cancelled waits for what is in flight.
constexpr std::chrono::duration<double> kLongestFlight{0.05};

std::size_t bytes_in_flight(const DiskSettings& settings) {
    return settings.n_readers * settings.depth * settings.block_bytes;
}

double highest_rate(std::span<const DiskMeasurement> measurements) {
    double highest = 0;
    for (const DiskMeasurement& measurement : measurements) {
        highest = std::max(highest, measurement.bytes_per_second);
    }
    return highest;
}

bool is_worth_measuring(std::span<const DiskMeasurement> measurements, const DiskSettings& settings,
                        std::size_t pass) {
    const double flight =
        static_cast<double>(bytes_in_flight(settings)) / highest_rate(measurements);
    const auto n_measured = std::ranges::count(measurements, settings, &DiskMeasurement::settings);
    return flight <= kLongestFlight.count() && static_cast<std::size_t>(n_measured) <= pass;
}

std::ptrdiff_t preference(const DiskSettings& settings) {
    const auto* const place = std::ranges::find_if(kWaysToRead, [&](const DiskSettings& way) {
        return way.n_readers == settings.n_readers && way.depth == settings.depth;
    });
    return place - kWaysToRead.begin();
}

}  // namespace

std::optional<DiskSettings> next_to_measure(std::span<const DiskMeasurement> measurements,
                                            bool has_uring) {
    // How long the others would be in flight is known only then.
    if (measurements.empty()) {
        return DiskSettings{};
    }
    for (std::size_t pass = 0; pass < kPasses; ++pass) {
        for (const DiskSettings& settings : kWaysToRead) {
            if ((settings.depth == 1 || has_uring) &&
                is_worth_measuring(measurements, settings, pass)) {
                return settings;
            }
        }
    }
    // The best of the usual block size, so that the answer does not depend on the order.
    std::vector<DiskMeasurement> usual;
    std::ranges::copy_if(measurements, std::back_inserter(usual), [](const auto& measurement) {
        return measurement.settings.block_bytes == kMiB;
    });
    const std::optional<DiskMeasurement> best = choose(usual);
    for (std::size_t pass = 0; pass < kPasses; ++pass) {
        for (const std::size_t block_bytes : kOtherBlocks) {
            DiskSettings settings = best->settings;
            settings.block_bytes = block_bytes;
            if (is_worth_measuring(measurements, settings, pass)) {
                return settings;
            }
        }
    }
    return std::nullopt;
}

std::optional<DiskMeasurement> choose(std::span<const DiskMeasurement> measurements) {
    const double enough = kAboutAsFast * highest_rate(measurements);
    const auto cost = [](const DiskMeasurement& measurement) {
        const DiskSettings& settings = measurement.settings;
        const bool is_unusual = settings.block_bytes != kMiB;
        return std::tuple(preference(settings), is_unusual, settings.block_bytes);
    };
    std::optional<DiskMeasurement> best;
    for (const DiskMeasurement& measurement : measurements) {
        if (measurement.bytes_per_second >= enough && (!best || cost(measurement) < cost(*best))) {
            best = measurement;
        }
    }
    // In so short a time chance makes a disk look faster, too. Loads will say if it is.
    for (const DiskMeasurement& measurement : measurements) {
        if (measurement.settings == best->settings &&
            measurement.bytes_per_second < best->bytes_per_second) {
            best = measurement;
        }
    }
    return best;
}

}  // namespace pilotlight::native
