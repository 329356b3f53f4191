// This machine's DRAM as a device that fails when an input says so.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "pilotlight/native/cpu_device.hpp"
#include "pilotlight/native/error.hpp"

namespace fuzz {

/// Fails at one of its calls, and at that one only. Thread-safe.
class OddDevice final : public pilotlight::native::Device {
  public:
    /// `failing_call` counts copies and waits; none fails where it is never reached.
    OddDevice(std::uint64_t failing_call, bool can_pin)
        : failing_call_(failing_call), can_pin_(can_pin) {}

    [[nodiscard]] const std::string& name() const noexcept override { return name_; }
    [[nodiscard]] std::shared_ptr<pilotlight::native::DeviceMemory> allocate(
        std::size_t size_bytes) override {
        return memory_.allocate(size_bytes);
    }
    [[nodiscard]] std::shared_ptr<pilotlight::native::DeviceMemory> attach(
        int fd, std::size_t size_bytes) override {
        return memory_.attach(fd, size_bytes);
    }
    [[nodiscard]] pilotlight::native::DeviceSpace space() override { return memory_.space(); }
    [[nodiscard]] std::unique_ptr<pilotlight::native::CopyQueue> make_queue() override {
        return std::make_unique<Queue>(*this);
    }
    [[nodiscard]] bool pin(std::span<std::byte> /*memory*/) noexcept override { return can_pin_; }
    void unpin(std::span<std::byte> /*memory*/) noexcept override {}
    void read(const pilotlight::native::DeviceMemory& from, std::uint64_t offset,
              std::span<std::byte> into) override {
        memory_.read(from, offset, into);
    }

    [[nodiscard]] bool has_failed() const noexcept { return n_calls_ > failing_call_; }

  private:
    class Mark final : public pilotlight::native::CopyMark {
      public:
        Mark(OddDevice& device, std::unique_ptr<CopyMark> reached)
            : device_(device), reached_(std::move(reached)) {}
        void wait() override {
            reached_->wait();
            device_.count("wait");
        }

      private:
        OddDevice& device_;
        const std::unique_ptr<CopyMark> reached_;
    };

    class Queue final : public pilotlight::native::CopyQueue {
      public:
        explicit Queue(OddDevice& device) : device_(device), queue_(device.memory_.make_queue()) {}
        void copy(const pilotlight::native::DeviceMemory& into, std::span<const std::byte> from,
                  std::span<const pilotlight::native::CopySpan> spans) override {
            device_.count("copy");
            queue_->copy(into, from, spans);
        }
        [[nodiscard]] std::unique_ptr<pilotlight::native::CopyMark> mark() override {
            return std::make_unique<Mark>(device_, queue_->mark());
        }
        void drain() noexcept override { queue_->drain(); }

      private:
        OddDevice& device_;
        const std::unique_ptr<CopyQueue> queue_;
    };

    void count(const char* call) {
        if (n_calls_++ == failing_call_) {
            throw pilotlight::native::DeviceFailed(name_, call, "told to");
        }
    }

    const std::string name_ = "odd";
    const std::uint64_t failing_call_;
    const bool can_pin_;
    pilotlight::native::CpuDevice memory_;
    std::atomic<std::uint64_t> n_calls_ = 0;
};

}  // namespace fuzz
