// How a disk is read best.
#pragma once

#include <cstddef>

namespace pilotlight::native {

/// `n_readers` threads with `depth` blocks in flight each; more than one by io_uring only.
struct DiskSettings {
    std::size_t n_readers = 4;
    std::size_t depth = 1;
    std::size_t block_bytes = std::size_t{1} << 20;

    bool operator==(const DiskSettings&) const = default;
};

}  // namespace pilotlight::native
