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

// In order of preference, for disks that do not care. Several readers: they also populate memory
// and compute checksums, and one processor is outrun by a fast disk there. One with a ring begins
// its next block before that; one that reads a block at a time keeps less in flight than in a
// probe, so there rather more of them than just enough.
constexpr std::array<DiskSettings, 6> kWaysToRead{{
    {.n_readers = 4, .depth = 2, .block_bytes = kMiB},
    {.n_readers = 4, .depth = 4, .block_bytes = kMiB},
    {.n_readers = 8, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 4, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 2, .depth = 1, .block_bytes = kMiB},
    {.n_readers = 16, .depth = 1, .block_bytes = kMiB},
}};
constexpr std::array<std::size_t, 3> kOtherBlocks{2 * kMiB, kMiB / 2, 4 * kMiB};

// Who else reads the disk, or uses the processor, makes it look slower and never faster.
constexpr std::ptrdiff_t kPasses = 2;
static_assert(kPasses * (kWaysToRead.size() + kOtherBlocks.size()) == kMostMeasurements);

// Measured in so short a time, smaller differences mean nothing.
constexpr double kAboutAsFast = 0.95;

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

// The first of those that were measured least often, of those that are worth it.
std::optional<DiskSettings> first_to_measure(std::span<const DiskMeasurement> measurements,
                                             std::span<const DiskSettings> candidates) {
    const double rate = highest_rate(measurements);
    for (std::ptrdiff_t pass = 0; pass < kPasses; ++pass) {
        for (const DiskSettings& settings : candidates) {
            const double flight = static_cast<double>(bytes_in_flight(settings)) / rate;
            if (flight <= kLongestFlight.count() &&
                std::ranges::count(measurements, settings, &DiskMeasurement::settings) <= pass) {
                return settings;
            }
        }
    }
    return std::nullopt;
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
    std::vector<DiskSettings> ways;
    std::ranges::copy_if(kWaysToRead, std::back_inserter(ways), [&](const DiskSettings& settings) {
        return settings.depth == 1 || has_uring;
    });
    if (const std::optional<DiskSettings> next = first_to_measure(measurements, ways)) {
        return next;
    }
    // The best of the usual block size, so that the answer does not depend on the order.
    std::vector<DiskMeasurement> usual;
    std::ranges::copy_if(measurements, std::back_inserter(usual), [](const auto& measurement) {
        return measurement.settings.block_bytes == kMiB;
    });
    const std::optional<DiskMeasurement> best = choose(usual);
    std::vector<DiskSettings> sizes;
    for (const std::size_t block_bytes : kOtherBlocks) {
        sizes.push_back(best->settings);
        sizes.back().block_bytes = block_bytes;
    }
    return first_to_measure(measurements, sizes);
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
