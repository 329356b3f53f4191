#include "pilotlight/native/disk_probe.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "pilotlight/native/arena.hpp"
#include "pilotlight/native/block_reader.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/rehearsal.hpp"
#include "pilotlight/native/signals_blocked.hpp"

namespace pilotlight::native {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t kMiB = std::size_t{1} << 20;

constexpr std::size_t kScratchBytes = 16 * kMiB;

// Memory that is read into and never looked at.
class Scratch {
  public:
    Scratch() : range_(kScratchBytes) {
        void* start = ::mmap(range_.bytes().data(), kScratchBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (start == MAP_FAILED) {
            throw MemoryRefused("mmap", errno);
        }
        (void)::madvise(start, kScratchBytes, MADV_HUGEPAGE);
        std::memset(start, 0, kScratchBytes);
    }

    // The rooms of large blocks overlap, which does no harm to bytes that nobody looks at.
    [[nodiscard]] std::span<std::byte> room(std::size_t slot, std::size_t size) const {
        return range_.bytes().subspan(slot * size % kScratchBytes, size);
    }

  private:
    AddressRange range_;
};

// One measurement: readers that read block after block until the time is over.
class Window {
  public:
    Window(SourceFile& file, std::uint64_t file_bytes, const Scratch& scratch,
           const DiskSettings& settings, std::atomic<std::uint64_t>& cursor)
        : file_(file),
          scratch_(scratch),
          settings_(settings),
          n_blocks_(file_bytes / settings.block_bytes),
          cursor_(cursor) {}

    [[nodiscard]] double bytes_per_second(Seconds length);

  private:
    void read(std::size_t reader_number);
    void keep_reading(std::size_t reader_number, std::vector<Clock::time_point>& times);
    [[nodiscard]] ReadRequest next_request(std::uint64_t tag, std::size_t slot);

    SourceFile& file_;
    const Scratch& scratch_;
    const DiskSettings settings_;
    const std::uint64_t n_blocks_;
    std::atomic<std::uint64_t>& cursor_;
    Clock::time_point end_;
    std::mutex mutex_;
    std::vector<Clock::time_point> times_;  // of blocks that came
    std::exception_ptr failure_;
};

double Window::bytes_per_second(Seconds length) {
    const Clock::time_point start = Clock::now();
    end_ = start + std::chrono::duration_cast<Clock::duration>(length);
    {
        const SignalsBlocked signals;
        std::vector<std::jthread> readers;
        for (std::size_t i = 0; i < settings_.n_readers; ++i) {
            readers.emplace_back([this, i] { read(i); });
        }
    }
    if (failure_) {
        std::rethrow_exception(failure_);
    }
    // The first ones come late, since nothing was in flight before, and the last ones alone.
    std::ranges::sort(times_);
    const std::size_t n_in_flight = settings_.n_readers * settings_.depth;
    const auto n_in_time =
        static_cast<std::size_t>(std::ranges::upper_bound(times_, end_) - times_.begin());
    std::size_t n_counted = times_.size();
    Seconds taken = times_.back() - start;
    if (n_in_time > 2 * n_in_flight) {
        n_counted = n_in_time - n_in_flight;
        taken = times_[n_in_time - 1] - times_[n_in_flight - 1];
    }
    return static_cast<double>(n_counted * settings_.block_bytes) / std::max(taken.count(), 1e-9);
}

void Window::read(std::size_t reader_number) {
    rehearse_throwing();
    try {
        std::vector<Clock::time_point> times;
        keep_reading(reader_number, times);
        const std::lock_guard lock(mutex_);
        times_.insert(times_.end(), times.begin(), times.end());
    } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
    }
}

void Window::keep_reading(std::size_t reader_number, std::vector<Clock::time_point>& times) {
    const std::unique_ptr<BlockReader> reader =
        settings_.depth > 1 ? make_uring_reader(settings_.depth) : make_pread_reader();
    if (!reader) {
        throw MemoryRefused("io_uring_setup", ENOMEM);
    }
    // One more than are in flight: the last block that came lies in it.
    std::vector<std::size_t> slots(settings_.depth + 1);
    std::iota(slots.begin(), slots.end(), reader_number * slots.size());
    for (std::size_t tag = 0; tag < settings_.depth; ++tag) {
        reader->start(next_request(tag, slots[tag]));
    }
    for (std::size_t n_in_flight = settings_.depth; n_in_flight > 0;) {
        const ReadAnswer answer = reader->wait();
        if (answer.failure) {
            std::rethrow_exception(answer.failure);
        }
        std::swap(slots[answer.tag], slots.back());
        // As a load does it: the disk has its next block before this one's checksum is computed.
        if (Clock::now() < end_) {
            reader->start(next_request(answer.tag, slots[answer.tag]));
        } else {
            --n_in_flight;
        }
        (void)crc32c(scratch_.room(slots.back(), settings_.block_bytes));
        times.push_back(Clock::now());
    }
}

ReadRequest Window::next_request(std::uint64_t tag, std::size_t slot) {
    // Each window goes on where the last one stopped, so that no disk has the bytes at hand.
    const std::uint64_t place = cursor_.fetch_add(settings_.block_bytes);
    return {.file = &file_,
            .room = scratch_.room(slot, settings_.block_bytes),
            .offset = place / settings_.block_bytes % n_blocks_ * settings_.block_bytes,
            .length = settings_.block_bytes,
            .use_page_cache = false,
            .tag = tag};
}

// Throws what reading throws.
void measure(ProbeResult& result, SourceFile& file, std::uint64_t file_bytes, Seconds limit) {
    const Clock::time_point start = Clock::now();
    const bool has_uring = make_uring_reader(2) != nullptr;
    const Scratch scratch;
    std::atomic<std::uint64_t> cursor = 0;
    const Seconds window = limit / kMostMeasurements;
    // What is prepared above takes time too, on a busy machine all of it.
    bool has_time = window.count() > 0;
    while (has_time) {
        const std::optional<DiskSettings> settings =
            next_to_measure(result.measurements, has_uring);
        if (!settings) {
            return;
        }
        const double rate =
            Window(file, file_bytes, scratch, *settings, cursor).bytes_per_second(window);
        if (file.direct_fd() < 0) {
            return;
        }
        result.measurements.push_back({.settings = *settings, .bytes_per_second = rate});
        has_time = Clock::now() - start + window <= limit;
    }
}

// Throws std::bad_alloc where there is no memory to say what went wrong.
void probe(ProbeResult& result, const std::string& path, const FileIdentity& identity,
           Seconds limit) {
    try {
        if (identity.size_bytes < kScratchBytes) {
            result.why_not = "the file is too small";
            return;
        }
        const std::unique_ptr<SourceFile> file = SourceFile::open(path, identity);
        if (file->direct_fd() >= 0) {
            measure(result, *file, identity.size_bytes, limit);
        }
        result.direct_refusal = file->direct_refusal();
        result.best = choose(result.measurements);
        if (!result.best) {
            result.why_not = result.direct_refusal.empty()
                                 ? "there was no time"
                                 : "direct reads are refused: " + result.direct_refusal;
        }
    } catch (const ReadFailed& error) {
        result.why_not =
            std::string("the file can't be read: ") + std::strerror(error.error_number);
    } catch (const FileChanged& error) {
        result.why_not = error.what_changed;
    } catch (const std::exception& error) {
        result.why_not = error.what();
    }
}

}  // namespace

ProbeResult probe_disk(const std::string& path, const FileIdentity& identity,
                       Seconds limit) noexcept {
    ProbeResult result;
    try {
        probe(result, path, identity, limit);
    } catch (const std::bad_alloc&) {
        result.best.reset();
        result.why_not = "no memory";  // So short that it needs none.
    }
    return result;
}

}  // namespace pilotlight::native
