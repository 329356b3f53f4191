#include "pilotlight/native/chunk_view.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <stdexcept>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

// A chunk beyond the end of the memfd would be mapped without complaint and kill the process
// with SIGBUS when it is touched.
void check_chunks(int fd, std::size_t chunk_bytes, std::span<const ChunkIndex> chunks,
                  std::size_t size_bytes) {
    if (chunk_bytes == 0 || size_bytes > chunks.size() * chunk_bytes) {
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
                     std::size_t size_bytes)
    : size_bytes_(size_bytes) {
    check_chunks(fd, chunk_bytes, chunks, size_bytes);
    range_ = AddressRange(chunks.size() * chunk_bytes);
    std::span<std::byte> room = range_.bytes();
    while (!chunks.empty()) {
        const std::size_t n_chunks = run_length(chunks);
        const std::size_t length = n_chunks * chunk_bytes;
        // Without MAP_NORESERVE a private writable mapping counts against the commit limit
        // although it is hardly ever written to.
        void* mapped = ::mmap(room.data(), length, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
                              static_cast<off_t>(chunks.front() * chunk_bytes));
        if (mapped == MAP_FAILED) {
            throw MemoryRefused("mmap", errno);
        }
        room = room.subspan(length);
        chunks = chunks.subspan(n_chunks);
    }
}

}  // namespace pilotlight::native
