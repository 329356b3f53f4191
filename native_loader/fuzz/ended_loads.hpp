// What loads that succeeded must have done.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "held_chunks.hpp"
#include "odd_files.hpp"
#include "odd_plan.hpp"
#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/load.hpp"

namespace fuzz {

/// A load, and what its submitter knows of it.
struct Submitted {
    std::shared_ptr<pilotlight::native::Load> load;
    OddPlan odd;
    /// What the chunks held that were resident.
    std::vector<std::vector<std::byte>> resident;
    bool must_succeed = false;
    bool is_cancelled = false;
    bool is_announced = false;
};

/// What a chunk's file holds where the chunk is read from; the plan stays inside the file.
[[nodiscard]] std::span<const std::byte> bytes_of(const OddPlan& odd,
                                                  const pilotlight::native::ChunkPlan& chunk,
                                                  std::span<const OddFile> files);

/// Where a chunk of the plan lies in the pool.
[[nodiscard]] std::span<const std::byte> placed(const pilotlight::native::ChunkPool& pool,
                                                const pilotlight::native::ChunkPlan& chunk);

/// Compare all that a load has read and copied with what its files held. What later loads have
/// overwritten, and what two copies wrote, nobody can know.
void check_success(const Submitted& ended, std::span<const OddFile> files, const HeldChunks& chunks,
                   const pilotlight::native::ChunkPool& pool);

}  // namespace fuzz
