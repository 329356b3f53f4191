// Chunks that devices copy from at the speed of their links.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "pilotlight/native/chunk_pool.hpp"
#include "pilotlight/native/device.hpp"

namespace pilotlight::native {

/// Pins a pool's chunks for devices, each once, and lets go of all of them at its end.
/// Thread-safe.
class PinnedChunks {
  public:
    explicit PinnedChunks(std::shared_ptr<ChunkPool> pool) : pool_(std::move(pool)) {}
    PinnedChunks(const PinnedChunks&) = delete;
    PinnedChunks& operator=(const PinnedChunks&) = delete;
    ~PinnedChunks();

    /// Return false where the device refuses, which is not asked again.
    [[nodiscard]] bool pin(const std::shared_ptr<Device>& device, ChunkIndex chunk);

  private:
    const std::shared_ptr<ChunkPool> pool_;
    std::mutex mutex_;
    std::map<std::shared_ptr<Device>, std::map<ChunkIndex, bool>> pinned_;
};

}  // namespace pilotlight::native
