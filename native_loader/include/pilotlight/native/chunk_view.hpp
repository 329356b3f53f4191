// A file's chunks as one contiguous range, in the process that uses them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/chunk_pool.hpp"

namespace pilotlight::native {

/// Chunks of a pool. The bytes live on without the pool's fd and its other owners. Immutable.
class ChunkView {
  public:
    /// Map chunks of a shared pool by its fd, in the order given; what is written stays in this
    /// view. The file begins at `offset` of the first chunk, and is mapped as well aligned as
    /// there. Throws std::invalid_argument for chunks outside the pool or too few of them,
    /// MemoryRefused where the kernel does not map them.
    ChunkView(int fd, std::size_t chunk_bytes, std::span<const ChunkIndex> chunks,
              std::size_t size_bytes, std::size_t offset = 0);

    /// Show neighbouring chunks of a pool where they are, and keep the pool's memory; what is
    /// written is written there. Throws std::invalid_argument for others.
    ChunkView(std::shared_ptr<const ChunkPool> pool, std::span<const ChunkIndex> chunks,
              std::size_t size_bytes, std::size_t offset = 0);

    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

  private:
    AddressRange range_;
    std::shared_ptr<const ChunkPool> pool_;
    std::span<std::byte> bytes_;
};

}  // namespace pilotlight::native
