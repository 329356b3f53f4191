#include "pilotlight/native/pinned_chunks.hpp"

namespace pilotlight::native {

PinnedChunks::~PinnedChunks() {
    for (const auto& [device, chunks] : pinned_) {
        for (const auto& [chunk, is_pinned] : chunks) {
            if (is_pinned) {
                device->unpin(pool_->bytes(chunk));
            }
        }
    }
}

// Pinning takes milliseconds, during which others wait: once per chunk, and drivers do one at a
// time anyway.
bool PinnedChunks::pin(const std::shared_ptr<Device>& device, ChunkIndex chunk) {
    const std::lock_guard lock(mutex_);
    std::map<ChunkIndex, bool>& chunks = pinned_[device];
    const auto found = chunks.find(chunk);
    if (found != chunks.end()) {
        return found->second;
    }
    return chunks[chunk] = device->pin(pool_->bytes(chunk));
}

}  // namespace pilotlight::native
