// Finds out how a disk is read best.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "pilotlight/native/disk_choice.hpp"
#include "pilotlight/native/source_file.hpp"

namespace pilotlight::native {

struct ProbeResult {
    std::optional<DiskMeasurement> best;  ///< empty where the probe can't tell
    std::string why_not;                  ///< it can't tell
    std::string direct_refusal;           ///< why direct reads were refused; empty if they were not
    std::vector<DiskMeasurement> measurements;
};

/// Read parts of a file directly, with several settings, for `limit` in all and as long as it
/// then takes until what is in flight has come. Never throws.
[[nodiscard]] ProbeResult probe_disk(const std::string& path, const FileIdentity& identity,
                                     std::chrono::duration<double> limit) noexcept;

}  // namespace pilotlight::native
