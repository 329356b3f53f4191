// The threads that keep one device's link busy.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "pilotlight/native/device.hpp"

namespace pilotlight::native {

/// How the copies of one job went.
struct CopyResult {
    std::exception_ptr failure;
    std::chrono::steady_clock::time_point started{};
    std::chrono::steady_clock::time_point ended{};
};

/// What of one chunk goes to one device.
struct CopyJob {
    std::shared_ptr<DeviceMemory> into;
    std::span<const std::byte> from;  ///< stays as it is until `done` is called
    std::span<const CopySpan> spans;  ///< likewise
    /// Called on the copier's thread before the first copy; may be empty; if it throws, the job
    /// fails.
    std::function<void()> prepare{};
    /// Called once, on a thread of the copier's, when the source is not read any more; never
    /// throws.
    std::function<void(CopyResult)> done;
};

/// One queue of copies per device, with a thread that begins them and one that awaits their ends:
/// jobs are begun in the order in which they were submitted, several in flight, and end in that
/// order. A job that fails takes no other with it, unless the device fails for good: then every
/// job is answered so. Thread-safe.
class Copier {
  public:
    /// Throws DeviceFailed, MemoryRefused when there is no thread, std::invalid_argument when
    /// nothing may be in flight.
    Copier(std::shared_ptr<Device> device, std::size_t n_in_flight);
    Copier(const Copier&) = delete;
    Copier& operator=(const Copier&) = delete;
    /// Ends what was submitted, then the threads. Not from `done`.
    ~Copier();

    /// Never waits for the device.
    void submit(CopyJob job);

  private:
    struct Running {
        CopyJob job;
        CopyResult result;
        std::unique_ptr<CopyMark> mark;  ///< none where it failed before there was one
    };

    void begin_jobs() noexcept;
    void end_jobs() noexcept;
    [[nodiscard]] Running begin(CopyJob job) noexcept;
    void end(Running running) noexcept;
    void close() noexcept;

    const std::shared_ptr<Device> device_;
    const std::size_t n_in_flight_;
    const std::unique_ptr<CopyQueue> queue_;

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<CopyJob> jobs_;
    std::vector<Running> running_;  ///< has room for all that may be in flight
    /// And not ended: those running, and one that is being begun or ended.
    std::size_t n_begun_ = 0;
    bool is_closing_ = false;
    std::thread begins_;
    std::thread ends_;
};

}  // namespace pilotlight::native
