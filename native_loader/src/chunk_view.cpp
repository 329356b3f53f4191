#include "pilotlight/native/chunk_view.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

// A chunk beyond the end of the memfd would be mapped without complaint and kill the process
// with SIGBUS when it is touched.
void check_chunks(int fd, std::size_t chunk_bytes, std::span<const ChunkIndex> chunks,
                  std::size_t size_bytes, std::size_t offset) {
    const std::size_t room = chunks.size() * chunk_bytes;
    if (chunk_bytes == 0 || offset > room || size_bytes > room - offset) {
        throw std::invalid_argument("the chunks are fewer than the file needs");
    }
    struct stat status{};
    if (::fstat(fd, &status) != 0) {
        throw MemoryRefused("fstat", errno);
    }
    const std::size_t n_chunks = static_cast<std::size_t>(status.st_size) / chunk_bytes;
    for (const ChunkIndex chunk : chunks) {
        if (chunk >= n_chunks) {
            throw std::invalid_argument("a chunk lies outside the pool");
        }
    }
}

std::size_t bytes_to_unit_end(std::size_t position) {
    return (kPopulateUnitBytes - position % kPopulateUnitBytes) % kPopulateUnitBytes;
}

// The number of chunks at the start of `chunks` that are neighbours in the pool.
std::size_t run_length(std::span<const ChunkIndex> chunks) {
    std::size_t length = 1;
    while (length < chunks.size() && chunks[length] == chunks[length - 1] + 1) {
        ++length;
    }
    return length;
}

}  // namespace

ChunkView::ChunkView(int fd, std::size_t chunk_bytes, std::span<const ChunkIndex> chunks,
                     std::size_t size_bytes, std::size_t offset)
    : skipped_bytes_(offset % kPopulateUnitBytes), size_bytes_(size_bytes) {
    check_chunks(fd, chunk_bytes, chunks, size_bytes, offset);
    // Whole units are mapped where the chunks have them, for only those can be huge pages.
    std::size_t position = offset - skipped_bytes_;
    const std::size_t wanted = skipped_bytes_ + size_bytes;
    const std::size_t left = chunks.size() * chunk_bytes - position;
    range_ = AddressRange(wanted + std::min(left - wanted, bytes_to_unit_end(wanted)));
    std::span<std::byte> room = range_.bytes();
    while (!room.empty()) {
        const std::span<const ChunkIndex> rest = chunks.subspan(position / chunk_bytes);
        const std::size_t within = position % chunk_bytes;
        const std::size_t length = std::min(run_length(rest) * chunk_bytes - within, room.size());
        // Without MAP_NORESERVE a private writable mapping counts against the commit limit
        // although it is hardly ever written to.
        void* mapped = ::mmap(room.data(), length, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
                              static_cast<off_t>(rest.front() * chunk_bytes + within));
        if (mapped == MAP_FAILED) {
            throw MemoryRefused("mmap", errno);
        }
        room = room.subspan(length);
        position += length;
    }
}

}  // namespace pilotlight::native
