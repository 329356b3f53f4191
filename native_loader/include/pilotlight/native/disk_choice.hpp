// Which settings suit a disk.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "pilotlight/native/disk_settings.hpp"

namespace pilotlight::native {

/// How fast a disk was with some settings.
struct DiskMeasurement {
    DiskSettings settings;
    double bytes_per_second = 0;

    bool operator==(const DiskMeasurement&) const = default;
};

/// As many as there can be to choose from.
inline constexpr std::size_t kMostMeasurements = 18;

/// What to measure next, after what was measured so far; nothing once that is enough.
///
/// First the usual settings; then how much is in flight, by how many readers, in blocks of the
/// usual size; then the size of the blocks. All are measured twice, with others in between.
[[nodiscard]] std::optional<DiskSettings> next_to_measure(
    std::span<const DiskMeasurement> measurements, bool has_uring);

/// Of all that are about as fast as the fastest the one that does best in loads, which do more
/// than read; then of blocks of the usual size, then of smallest ones; as the slowest of its
/// measurements. Nothing if nothing was measured.
[[nodiscard]] std::optional<DiskMeasurement> choose(std::span<const DiskMeasurement> measurements);

}  // namespace pilotlight::native
