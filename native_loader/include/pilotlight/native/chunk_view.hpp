// A file's chunks as one contiguous range, in the process that uses them.
#pragma once

#include <cstddef>
#include <span>

#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/chunk_pool.hpp"

namespace pilotlight::native {

/// Chunks of a pool, mapped privately by its fd in the order given. Writes stay in this
/// process. The mapping does not need the fd, nor the pool, to live on. Immutable.
class ChunkView {
  public:
    /// The file begins at `offset` of the first chunk, and is mapped as well aligned as there.
    /// Throws std::invalid_argument for chunks outside the pool or too few of them, MemoryRefused
    /// where the kernel does not map them.
    ChunkView(int fd, std::size_t chunk_bytes, std::span<const ChunkIndex> chunks,
              std::size_t size_bytes, std::size_t offset = 0);

    [[nodiscard]] std::span<std::byte> bytes() const noexcept {
        return range_.bytes().subspan(skipped_bytes_, size_bytes_);
    }

  private:
    AddressRange range_;
    std::size_t skipped_bytes_;
    std::size_t size_bytes_;
};

}  // namespace pilotlight::native
