// The devices that the fake driver has.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "fake_cuda.hpp"
#include "pilotlight/native/cuda_types.hpp"
#include "pilotlight/native/descriptor.hpp"

namespace fake_cuda {

using pilotlight::native::Descriptor;
using pilotlight::native::cuda::DeviceAddress;
using pilotlight::native::cuda::MemoryHandle;
using pilotlight::native::cuda::Result;

inline constexpr std::size_t kGranularity = std::size_t{2} << 20;

/// A device's state; the link is held while a copy goes over it.
struct Device {
    explicit Device(int number, std::size_t total_bytes)
        : number(number), total_bytes(total_bytes) {}

    const int number;
    const std::size_t total_bytes;
    std::atomic<std::size_t> used_bytes = 0;
    std::atomic<Result> failure = Result::kSuccess;  ///< that it answers from now on
    std::atomic<double> bytes_per_second = 0;
    std::int64_t n_retained = 0;
    std::mutex link;
};

/// Physical memory: a memfd, mapped once by the fake itself.
class Physical {
  public:
    /// Null where the kernel gives none.
    [[nodiscard]] static std::shared_ptr<Physical> create(std::shared_ptr<Device> device,
                                                          std::size_t size, bool is_exportable);
    /// Null where the descriptor is none that `exported` returned.
    [[nodiscard]] static std::shared_ptr<Physical> imported(int fd);
    Physical(std::shared_ptr<Device> owner, Descriptor memfd, std::span<std::byte> bytes,
             bool is_exportable)
        : owner_(std::move(owner)),
          memfd_(std::move(memfd)),
          bytes_(bytes),
          is_exportable_(is_exportable) {}
    Physical(const Physical&) = delete;
    Physical& operator=(const Physical&) = delete;
    ~Physical();

    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }
    [[nodiscard]] bool is_exportable() const noexcept { return is_exportable_; }
    [[nodiscard]] int exported() const;

  private:
    const std::shared_ptr<Device> owner_;  ///< none where it is accounted in another process
    const Descriptor memfd_;
    const std::span<std::byte> bytes_;
    const bool is_exportable_;
};

struct Mapping {
    DeviceAddress address = 0;
    std::shared_ptr<Physical> physical;
    bool is_accessible = false;
};

struct Registration {
    std::size_t size = 0;
    std::int64_t n_in_use = 0;  ///< by copies that have not been done
};

/// A thread that does what it is given, in order.
class Stream {
  public:
    explicit Stream(std::shared_ptr<Device> device);
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream();

    [[nodiscard]] const std::shared_ptr<Device>& device() const noexcept { return device_; }
    void add(std::function<void()> work);
    void wait();

  private:
    void run();

    const std::shared_ptr<Device> device_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> work_;
    bool is_busy_ = false;
    bool is_ending_ = false;
    std::thread thread_;
};

/// What an event waits for; shared with the stream, for events may be destroyed first.
struct Event {
    explicit Event(std::shared_ptr<Device> device) : device(std::move(device)) {}

    const std::shared_ptr<Device> device;
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t n_recorded = 0;
    std::uint64_t n_reached = 0;
};

/// A call that is to fail.
struct Failure {
    std::int64_t first = 0;
    std::int64_t last = 0;
    Result code = Result::kSuccess;
};

/// Everything, guarded by `mutex` unless it says otherwise.
struct Machine {
    /// As the environment configures it at first.
    [[nodiscard]] static Machine& instance();

    void reset(int n_devices, std::size_t bytes_of_each);
    void misuse(const std::string& what);
    /// Count a call; return what it is to fail with.
    [[nodiscard]] Result called(const std::string& function);

    std::mutex mutex;
    std::vector<std::shared_ptr<Device>> devices;
    std::map<MemoryHandle, std::shared_ptr<Physical>> handles;
    std::map<DeviceAddress, std::size_t> reservations;
    std::map<DeviceAddress, std::shared_ptr<Mapping>> mappings;
    std::map<std::uintptr_t, std::shared_ptr<Registration>> registrations;
    std::map<std::uint64_t, std::shared_ptr<Stream>> streams;
    std::map<std::uint64_t, std::shared_ptr<Event>> events;
    std::map<std::string, std::int64_t> n_calls;
    std::multimap<std::string, Failure> failures;
    std::vector<FakeCudaCopy> copies;
    std::string last_misuse;
    std::int64_t n_misuses = 0;
    std::int64_t n_unpinned_copies = 0;
    std::uint64_t last_id = 0;
    DeviceAddress next_address = 0;
    std::chrono::nanoseconds event_delay{0};
    int max_pitch = 0;
    bool is_exportable = true;
    bool has_virtual_memory = true;
};

}  // namespace fake_cuda
