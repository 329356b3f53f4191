#include "odd_plan.hpp"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "pilotlight/native/crc32c.hpp"

namespace fuzz {

using namespace pilotlight::native;

namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::size_t kMostMemoryBytes = std::size_t{16} << 10;
constexpr std::uint64_t kNoSuchDisk = 0xD15C;

class Maker {
  public:
    Maker(Input& input, std::span<const OddFile> files, const HeldChunks& chunks,
          std::size_t chunk_bytes, const std::shared_ptr<Device>& device)
        : input_(input),
          files_(files),
          chunks_(chunks),
          chunk_bytes_(chunk_bytes),
          device_(device) {}

    OddPlan make() {
        for (std::size_t i = 1 + input_.below(3); i > 0; --i) {
            add_file();
        }
        plan_.priority = static_cast<std::int64_t>(input_.below(5)) - 2;
        plan_.use_page_cache = input_.byte() % 2 == 0;
        for (std::size_t i = input_.below(3); i > 0; --i) {
            add_memory();
        }
        if (!plan_.memories.empty() && input_.one_in(2)) {
            for (std::size_t i = 1 + input_.below(3); i > 0; --i) {
                plan_.staging.push_back(some_chunk());
            }
        }
        for (std::size_t i = input_.below(6); i > 0; --i) {
            add_chunk();
        }
        return std::move(odd_);
    }

  private:
    void add_file() {
        const std::size_t index = input_.below(files_.size());
        const std::vector<Version>& versions = files_[index].versions();
        const std::size_t version =
            input_.one_in(16) ? input_.below(versions.size()) : versions.size() - 1;
        odd_.files.push_back(index);
        odd_.versions.push_back(version);
        plan_.files.push_back(
            {.path = files_[index].path(), .identity = versions[version].identity});
        if (input_.one_in(64)) {
            plan_.files.back().identity.device = kNoSuchDisk;
        }
    }

    void add_memory() {
        const std::size_t size = input_.number(2) % kMostMemoryBytes;
        plan_.memories.push_back({.device = device_, .memory = device_->allocate(size)});
    }

    void add_chunk() {
        ChunkPlan chunk;
        chunk.file = static_cast<std::uint32_t>(
            input_.one_in(64) ? input_.byte() : input_.below(plan_.files.size()));
        chunk.number = static_cast<std::uint32_t>(plan_.chunks.size());
        chunk.target = some_chunk();
        if (plan_.staging.empty() && input_.one_in(3)) {
            chunk.is_shared = true;
            chunk.is_resident = input_.one_in(4);
            chunk.target_offset = kDirectAlignment * input_.below(chunk_bytes_ / kDirectAlignment);
        }
        choose_range(chunk);
        if (input_.one_in(64)) {
            chunk.target_offset = input_.extent();
        }
        for (std::size_t i = plan_.memories.empty() ? 0 : input_.below(3); i > 0; --i) {
            add_copies(chunk);
        }
        plan_.chunks.push_back(std::move(chunk));
    }

    void choose_range(ChunkPlan& chunk) {
        const std::vector<std::byte>& bytes = bytes_of(chunk);
        const std::size_t n_pages = bytes.size() / kDirectAlignment + 1;
        chunk.offset = kDirectAlignment * input_.below(std::min<std::size_t>(n_pages, 256));
        const std::size_t left = bytes.size() - std::min<std::size_t>(chunk.offset, bytes.size());
        const std::size_t most = std::min(chunk_bytes_ - chunk.target_offset, left);
        chunk.length = input_.one_in(2) ? most - input_.number(2) % (most + 1) : most;
        if (input_.one_in(8)) {
            // Beyond the end of the file, most likely.
            chunk.length = chunk_bytes_ - chunk.target_offset;
        } else {
            choose_checksum(chunk, bytes);
        }
        if (input_.one_in(32)) {
            chunk.length = input_.extent();
        }
        if (input_.one_in(32)) {
            chunk.offset = input_.extent();
        }
    }

    void choose_checksum(ChunkPlan& chunk, std::span<const std::byte> bytes) {
        const unsigned choice = input_.byte() % 16;
        if (choice < 8 && chunk.length != 0) {
            chunk.expected_crc32c = crc32c(bytes.subspan(chunk.offset, chunk.length));
        } else if (choice == 15) {
            chunk.expected_crc32c = static_cast<std::uint32_t>(input_.number(4));
        }
    }

    void add_copies(ChunkPlan& chunk) {
        ChunkCopies copies{
            .memory = static_cast<std::uint32_t>(
                input_.one_in(64) ? input_.byte() : input_.below(plan_.memories.size())),
            .spans = {}};
        const std::uint64_t most =
            copies.memory < plan_.memories.size() ? size_of(copies.memory) : 0;
        for (std::size_t i = input_.one_in(32) ? 0 : 1 + input_.below(2); i > 0; --i) {
            copies.spans.push_back(some_span(chunk.length, most));
        }
        chunk.copies.push_back(std::move(copies));
    }

    // Rows that fit the chunk and the memory, if there is any room in them; some are spoilt then.
    CopySpan some_span(std::uint64_t from_bytes, std::uint64_t to_bytes) {
        CopySpan span{.from = input_.number(2), .to = input_.number(2), .length = input_.number(2)};
        if (from_bytes != 0 && to_bytes != 0) {
            span.from %= from_bytes;
            span.to %= to_bytes;
            const std::uint64_t room = std::min(from_bytes - span.from, to_bytes - span.to);
            span.n_rows = std::min<std::uint64_t>(1 + input_.below(4), room);
            const std::uint64_t stride = room / span.n_rows;
            span.length = 1 + span.length % stride;
            span.from_stride = span.to_stride = stride;
        }
        if (input_.one_in(16)) {
            spoil(span);
        }
        return span;
    }

    void spoil(CopySpan& span) {
        std::uint64_t* const fields[] = {&span.from,   &span.to,          &span.length,
                                         &span.n_rows, &span.from_stride, &span.to_stride};
        *fields[input_.below(std::size(fields))] = input_.extent();
    }

    [[nodiscard]] std::uint64_t size_of(std::size_t memory) const {
        return plan_.memories[memory].memory->size_bytes();
    }

    const std::vector<std::byte>& bytes_of(const ChunkPlan& chunk) const {
        const std::size_t file = chunk.file % plan_.files.size();
        return files_[odd_.files[file]].versions()[odd_.versions[file]].bytes;
    }

    // One that may be loaded into, where there is one and the input does not want another.
    ChunkIndex some_chunk() {
        const std::size_t n = chunks_.n_chunks();
        const std::size_t first = input_.below(n);
        if (!input_.one_in(16)) {
            for (std::size_t i = 0; i < n; ++i) {
                const std::size_t chunk = (first + i) % n;
                if (chunks_.is_cached(chunk) && taken_.insert(chunk).second) {
                    return static_cast<ChunkIndex>(chunk);
                }
            }
        }
        return static_cast<ChunkIndex>(input_.one_in(16) ? input_.extent() : first);
    }

    Input& input_;
    const std::span<const OddFile> files_;
    const HeldChunks& chunks_;
    const std::size_t chunk_bytes_;
    const std::shared_ptr<Device>& device_;
    OddPlan odd_;
    LoadPlan& plan_ = odd_.plan;
    std::set<std::size_t> taken_;
};

bool lies_in(std::uint64_t start, const CopySpan& span, std::uint64_t stride, std::uint64_t size) {
    return span.n_rows == 0 || Wide{start} + Wide{span.n_rows - 1} * stride + span.length <= size;
}

bool is_inside(const LoadPlan& plan, const ChunkPlan& chunk, const ChunkCopies& copies) {
    if (copies.memory >= plan.memories.size()) {
        return false;
    }
    const std::size_t size = plan.memories[copies.memory].memory->size_bytes();
    return std::ranges::all_of(copies.spans, [&](const CopySpan& span) {
        return lies_in(span.from, span, span.from_stride, chunk.length) &&
               lies_in(span.to, span, span.to_stride, size);
    });
}

bool makes_sense(const CopySpan& span) {
    return span.length != 0 && span.n_rows != 0 &&
           (span.n_rows == 1 || std::min(span.from_stride, span.to_stride) >= span.length);
}

}  // namespace

OddPlan odd_plan(Input& input, std::span<const OddFile> files, const HeldChunks& chunks,
                 std::size_t chunk_bytes, const std::shared_ptr<Device>& device) {
    return Maker(input, files, chunks, chunk_bytes, device).make();
}

bool is_inside(const LoadPlan& plan, std::size_t chunk_bytes) {
    return std::ranges::all_of(plan.chunks, [&](const ChunkPlan& chunk) {
        return chunk.file < plan.files.size() &&
               Wide{chunk.target_offset} + chunk.length <= chunk_bytes &&
               std::ranges::all_of(
                   chunk.copies,
                   [&](const ChunkCopies& copies) { return is_inside(plan, chunk, copies); });
    });
}

bool makes_sense(const LoadPlan& plan, std::size_t chunk_bytes) {
    std::set<std::uint64_t> disks;
    for (const FilePlan& file : plan.files) {
        disks.insert(file.identity.device);
    }
    const bool has_staging = !plan.staging.empty();
    const bool are_chunks_right = std::ranges::all_of(plan.chunks, [&](const ChunkPlan& chunk) {
        const bool is_right = chunk.length != 0 && chunk.offset % kDirectAlignment == 0 &&
                              chunk.target_offset % kDirectAlignment == 0 &&
                              (chunk.is_shared || chunk.target_offset == 0) &&
                              !(has_staging && (chunk.is_shared || chunk.is_resident));
        return is_right && std::ranges::all_of(chunk.copies, [](const ChunkCopies& copies) {
                   return !copies.spans.empty() &&
                          std::ranges::all_of(
                              copies.spans, [](const CopySpan& span) { return makes_sense(span); });
               });
    });
    return are_chunks_right && (!has_staging || plan.staging.size() >= disks.size()) &&
           is_inside(plan, chunk_bytes);
}

bool can_be_read(const OddPlan& odd, std::span<const OddFile> files) {
    return std::ranges::all_of(odd.plan.chunks, [&](const ChunkPlan& chunk) {
        if (chunk.is_resident) {
            return true;
        }
        const OddFile& file = files[odd.files[chunk.file]];
        const Version& now = file.versions().back();
        return file.is_regular() && odd.plan.files[chunk.file].identity == now.identity &&
               chunk.offset <= now.bytes.size() && chunk.length <= now.bytes.size() - chunk.offset;
    });
}

}  // namespace fuzz
