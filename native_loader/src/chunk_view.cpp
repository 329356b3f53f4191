#include "pilotlight/native/chunk_view.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

std::size_t size_of(int fd) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) {
        throw MemoryRefused("fstat", errno);
    }
    return static_cast<std::size_t>(status.st_size);
}

// A chunk beyond the end of the memfd would be mapped without complaint and kill the process
// with SIGBUS when it is touched.
void check_chunks(std::size_t pool_bytes, std::size_t chunk_bytes,
                  std::span<const ChunkIndex> chunks, std::size_t size_bytes, std::size_t offset) {
    const std::size_t room = chunks.size() * chunk_bytes;
    if (chunk_bytes == 0 || offset > room || size_bytes > room - offset) {
        throw std::invalid_argument("the chunks are fewer than the file needs");
    }
    const std::size_t n_chunks = pool_bytes / chunk_bytes;
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
                     std::size_t size_bytes, std::size_t offset) {
    check_chunks(size_of(fd), chunk_bytes, chunks, size_bytes, offset);
    // Whole units are mapped where the chunks have them, for only those can be huge pages.
    const std::size_t skipped = offset % kPopulateUnitBytes;
    std::size_t position = offset - skipped;
    const std::size_t wanted = skipped + size_bytes;
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
    bytes_ = range_.bytes().subspan(skipped, size_bytes);
}

ChunkView::ChunkView(std::shared_ptr<const ChunkPool> pool, std::span<const ChunkIndex> chunks,
                     std::size_t size_bytes, std::size_t offset)
    : pool_(std::move(pool)) {
    const std::size_t chunk_bytes = pool_->chunk_bytes();
    check_chunks(pool_->n_chunks() * chunk_bytes, chunk_bytes, chunks, size_bytes, offset);
    if (chunks.empty()) {
        return;
    }
    if (run_length(chunks) != chunks.size()) {
        throw std::invalid_argument("the chunks are no neighbours");
    }
    bytes_ = {pool_->bytes(chunks.front()).data() + offset, size_bytes};
}

}  // namespace pilotlight::native
