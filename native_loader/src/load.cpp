#include "pilotlight/native/load.hpp"

#include <stdexcept>
#include <utility>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native {
namespace {

Seconds seconds(const std::atomic<std::int64_t>& nanoseconds) {
    return std::chrono::nanoseconds(nanoseconds.load());
}

}  // namespace

std::uint64_t size_bytes(const ChunkCopies& copies) {
    std::uint64_t bytes = 0;
    for (const CopySpan& span : copies.spans) {
        bytes += span.length * span.n_rows;
    }
    return bytes;
}

// Either all chunks have places of their own, or all pass through staging.
WrittenChunks written_chunks(const LoadPlan& plan) {
    if (!plan.staging.empty()) {
        return {.whole = plan.staging, .shared = {}};
    }
    WrittenChunks found;
    for (const ChunkPlan& chunk : plan.chunks) {
        const bool is_shared = chunk.is_shared || chunk.is_resident;
        (is_shared ? found.shared : found.whole).push_back(chunk.target);
    }
    return found;
}

Load::Load(std::uint64_t id, LoadPlan plan, WrittenChunks written,
           std::span<const std::size_t> block_bytes)
    : id_(id),
      plan_(std::move(plan)),
      written_(std::move(written)),
      chunks_(plan_.chunks.size()),
      chunk_crc32c_(plan_.chunks.size()),
      n_chunks_left_(plan_.chunks.size()),
      last_copies_(plan_.memories.size()),
      files_(plan_.files.size()) {
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
        const ChunkPlan& chunk = plan_.chunks[i];
        const std::uint64_t length = chunk.is_resident ? 0 : chunk.length;
        const std::uint64_t n_blocks = (length + block_bytes[i] - 1) / block_bytes[i];
        chunks_[i].target = chunk.target;
        chunks_[i].n_blocks_left = static_cast<std::uint32_t>(n_blocks);
        chunks_[i].n_copies_left = static_cast<std::uint32_t>(chunk.copies.size());
        chunks_[i].block_crc32c.resize(n_blocks);
        total_bytes_ += length;
        for (const ChunkCopies& copies : chunk.copies) {
            total_copied_bytes_ += size_bytes(copies);
        }
    }
}

Progress Load::progress() const noexcept {
    return {.done_bytes = done_bytes_,
            .total_bytes = total_bytes_,
            .copied_bytes = copied_bytes_,
            .total_copied_bytes = total_copied_bytes_,
            .is_started = is_started_};
}

bool Load::is_done() const {
    const std::lock_guard lock(end_mutex_);
    return is_ended_;
}

bool Load::wait(std::optional<Seconds> timeout) const {
    if (::getpid() != owner_) {
        throw LoaderClosed();
    }
    std::unique_lock lock(end_mutex_);
    const auto has_ended = [this] { return is_ended_; };
    if (timeout) {
        return ended_.wait_for(lock, *timeout, has_ended);
    }
    ended_.wait(lock, has_ended);
    return true;
}

const LoadOutcome& Load::outcome() const {
    const std::lock_guard lock(end_mutex_);
    if (!is_ended_) {
        throw std::logic_error("the load has not ended");
    }
    if (error_) {
        std::rethrow_exception(error_);
    }
    return outcome_;
}

void Load::start() {
    if (!is_started_) {
        started_ = Clock::now();
        is_started_ = true;
    }
}

SourceFile& Load::file(std::uint32_t index) {
    const std::lock_guard lock(files_mutex_);
    std::unique_ptr<SourceFile>& file = files_[index];
    if (!file) {
        const FilePlan& plan = plan_.files[index];
        file = SourceFile::open(plan.path, plan.identity);
    }
    return *file;
}

void Load::check_files_unchanged() const {
    const std::lock_guard lock(files_mutex_);
    for (const std::unique_ptr<SourceFile>& file : files_) {
        if (file) {
            file->check_unchanged();
        }
    }
}

LoadOutcome Load::summarise() {
    LoadOutcome outcome{.bytes_read = done_bytes_,
                        .page_cache_bytes = page_cache_bytes_,
                        .queued = started_ - submitted_,
                        .busy = last_done_ - started_,
                        .read_time = seconds(read_nanoseconds_),
                        .populate_time = seconds(populate_nanoseconds_),
                        .checksum_time = seconds(checksum_nanoseconds_),
                        .copied_bytes = copied_bytes_,
                        .copy_time = copy_time_,
                        .is_unpinned = is_unpinned_,
                        .n_interruptions = n_interruptions_,
                        .direct_refusal = {},
                        .crc32c = std::move(chunk_crc32c_)};
    const std::lock_guard lock(files_mutex_);
    for (const std::unique_ptr<SourceFile>& file : files_) {
        if (file && outcome.direct_refusal.empty()) {
            outcome.direct_refusal = file->direct_refusal();
        }
    }
    return outcome;
}

void Load::close_files() {
    const std::lock_guard lock(files_mutex_);
    files_.clear();
}

void Load::end(LoadOutcome outcome, std::exception_ptr failure) {
    {
        const std::lock_guard lock(end_mutex_);
        outcome_ = std::move(outcome);
        error_ = std::move(failure);
        is_ended_ = true;
    }
    ended_.notify_all();
}

}  // namespace pilotlight::native
