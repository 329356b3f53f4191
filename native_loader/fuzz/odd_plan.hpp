// Plans of loads that an input makes: most make sense, some do not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "held_chunks.hpp"
#include "input.hpp"
#include "odd_files.hpp"
#include "pilotlight/native/load.hpp"

namespace fuzz {

/// A plan, and what its maker knows of it.
struct OddPlan {
    pilotlight::native::LoadPlan plan;
    /// Of each of the plan's files: which one it is, and which version of it is named.
    std::vector<std::size_t> files;
    std::vector<std::size_t> versions;
};

[[nodiscard]] OddPlan odd_plan(Input& input, std::span<const OddFile> files,
                               const HeldChunks& chunks, std::size_t chunk_bytes,
                               const std::shared_ptr<pilotlight::native::Device>& device);

/// Whether it stays inside its files' list, the pool's chunks and its memories.
[[nodiscard]] bool is_inside(const pilotlight::native::LoadPlan& plan, std::size_t chunk_bytes);

/// Whether, on top of that, it says nothing that a loader may refuse.
[[nodiscard]] bool makes_sense(const pilotlight::native::LoadPlan& plan, std::size_t chunk_bytes);

/// Whether nothing but a wrong checksum can fail it: its files are there, as they are named,
/// and long enough.
[[nodiscard]] bool can_be_read(const OddPlan& odd, std::span<const OddFile> files);

}  // namespace fuzz
