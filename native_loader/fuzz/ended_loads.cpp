#include "ended_loads.hpp"

#include <algorithm>

#include "pilotlight/native/crc32c.hpp"
#include "verdict.hpp"

namespace fuzz {

using namespace pilotlight::native;

namespace {

class Check {
  public:
    Check(const Submitted& ended, std::span<const OddFile> files, const HeldChunks& chunks,
          const ChunkPool& pool)
        : ended_(ended),
          plan_(ended.odd.plan),
          outcome_(ended.load->outcome()),
          files_(files),
          chunks_(chunks),
          pool_(pool) {}

    void check_all() const {
        require(outcome_.crc32c.size() == plan_.chunks.size(), "every chunk has a checksum");
        for (std::size_t i = 0; i < plan_.chunks.size(); ++i) {
            if (!plan_.chunks[i].is_resident) {
                check_chunk(plan_.chunks[i], outcome_.crc32c[i]);
            }
        }
        check_counts();
        for (std::size_t i = 0; i < plan_.memories.size(); ++i) {
            check_memory(i);
        }
    }

  private:
    void check_counts() const {
        std::uint64_t bytes_read = 0;
        for (const ChunkPlan& chunk : plan_.chunks) {
            bytes_read += chunk.is_resident ? 0 : chunk.length;
        }
        const Progress progress = ended_.load->progress();
        require(outcome_.bytes_read == bytes_read && progress.done_bytes == bytes_read &&
                    progress.total_bytes == bytes_read &&
                    progress.copied_bytes == progress.total_copied_bytes,
                "a load that succeeded has read and copied all");
    }

    void check_chunk(const ChunkPlan& chunk, std::uint32_t crc) const {
        require(!chunk.expected_crc32c || *chunk.expected_crc32c == crc,
                "a checksum that differs fails the load");
        if (!is_known(chunk)) {
            return;
        }
        require(chunk.offset + chunk.length <= version_of(chunk).bytes.size(),
                "only what a file has is read from it");
        const std::size_t first_page = chunk.target_offset / kDirectAlignment;
        const std::size_t n_pages = (chunk.length + kDirectAlignment - 1) / kDirectAlignment;
        if (plan_.staging.empty() &&
            chunks_.was_last(chunk.target, first_page, n_pages, *ended_.load)) {
            const std::span<const std::byte> held = placed(pool_, chunk);
            require(file_of(chunk).may_hold(ended_.odd.versions[chunk.file], chunk.offset,
                                            held.data(), held.size()),
                    "a chunk holds what its file holds");
            require(crc32c(held) == crc, "a checksum is that of the bytes");
        }
    }

    // Bytes that one copy alone is to write are those of its chunk.
    void check_memory(std::size_t index) const {
        const TargetMemory& target = plan_.memories[index];
        std::vector<std::byte> held(target.memory->size_bytes());
        target.device->read(*target.memory, 0, held);
        std::vector<unsigned> n_writers(held.size());
        std::vector<std::byte> expected(held.size());
        std::vector<bool> is_known(held.size());
        for (std::size_t i = 0; i < plan_.chunks.size(); ++i) {
            const std::span<const std::byte> from = source_of(i);
            for_each_byte(plan_.chunks[i], index, [&](std::uint64_t source, std::uint64_t place) {
                ++n_writers[place];
                is_known[place] = !from.empty();
                expected[place] = from.empty() ? std::byte{0} : from[source];
            });
        }
        for (std::size_t i = 0; i < held.size(); ++i) {
            require(n_writers[i] != 1 || !is_known[i] || held[i] == expected[i],
                    "a memory holds what was copied into it");
            require(n_writers[i] != 0 || held[i] == std::byte{0}, "nothing else is written");
        }
    }

    static void for_each_byte(const ChunkPlan& chunk, std::size_t memory, const auto& visit) {
        for (const ChunkCopies& copies : chunk.copies) {
            for (const CopySpan& span : copies.spans) {
                for (std::uint64_t row = 0; copies.memory == memory && row < span.n_rows; ++row) {
                    for (std::uint64_t i = 0; i < span.length; ++i) {
                        visit(span.from + row * span.from_stride + i,
                              span.to + row * span.to_stride + i);
                    }
                }
            }
        }
    }

    // What a chunk's copies were made of; empty where nobody can say.
    [[nodiscard]] std::span<const std::byte> source_of(std::size_t index) const {
        const ChunkPlan& chunk = plan_.chunks[index];
        if (chunk.is_resident) {
            return ended_.resident[index];
        }
        const auto n_alike = std::ranges::count(file_of(chunk).versions(),
                                                version_of(chunk).identity, &Version::identity);
        return n_alike == 1 && is_known(chunk) ? bytes_of(ended_.odd, chunk, files_)
                                               : std::span<const std::byte>{};
    }

    // Of oddities such as /dev/zero nobody knows what they hold.
    [[nodiscard]] bool is_known(const ChunkPlan& chunk) const {
        return !version_of(chunk).bytes.empty();
    }

    [[nodiscard]] const OddFile& file_of(const ChunkPlan& chunk) const {
        return files_[ended_.odd.files[chunk.file]];
    }

    [[nodiscard]] const Version& version_of(const ChunkPlan& chunk) const {
        return file_of(chunk).versions()[ended_.odd.versions[chunk.file]];
    }

    const Submitted& ended_;
    const LoadPlan& plan_;
    const LoadOutcome& outcome_;
    const std::span<const OddFile> files_;
    const HeldChunks& chunks_;
    const ChunkPool& pool_;
};

}  // namespace

std::span<const std::byte> bytes_of(const OddPlan& odd, const ChunkPlan& chunk,
                                    std::span<const OddFile> files) {
    const OddFile& file = files[odd.files[chunk.file]];
    return std::span(file.versions()[odd.versions[chunk.file]].bytes)
        .subspan(chunk.offset, chunk.length);
}

std::span<const std::byte> placed(const ChunkPool& pool, const ChunkPlan& chunk) {
    return pool.bytes(chunk.target).subspan(chunk.target_offset, chunk.length);
}

void check_success(const Submitted& ended, std::span<const OddFile> files, const HeldChunks& chunks,
                   const ChunkPool& pool) {
    Check(ended, files, chunks, pool).check_all();
}

}  // namespace fuzz
