// This machine's DRAM as a device that a test changes in a point or two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "pilotlight/native/cpu_device.hpp"

namespace pilotlight::native {

/// As thread-safe as what overrides it.
class WrappedDevice : public Device {
  public:
    explicit WrappedDevice(std::string name, bool can_pin = true)
        : name_(std::move(name)), can_pin_(can_pin) {}

    [[nodiscard]] const std::string& name() const noexcept final { return name_; }
    [[nodiscard]] std::shared_ptr<DeviceMemory> allocate(std::size_t size_bytes) final {
        return cpu_.allocate(size_bytes);
    }
    [[nodiscard]] std::shared_ptr<DeviceMemory> attach(int fd, std::size_t size_bytes) final {
        return cpu_.attach(fd, size_bytes);
    }
    [[nodiscard]] DeviceSpace space() final { return cpu_.space(); }
    [[nodiscard]] std::unique_ptr<CopyQueue> make_queue() override {
        return std::make_unique<Queue>(*this, cpu_.make_queue());
    }
    [[nodiscard]] bool pin(std::span<std::byte> /*memory*/) noexcept final { return can_pin_; }
    void unpin(std::span<std::byte> /*memory*/) noexcept final {}
    void read(const DeviceMemory& from, std::uint64_t offset, std::span<std::byte> into) final {
        cpu_.read(from, offset, into);
    }

  private:
    class Queue final : public CopyQueue {
      public:
        Queue(WrappedDevice& device, std::unique_ptr<CopyQueue> queue)
            : device_(device), queue_(std::move(queue)) {}
        void copy(const DeviceMemory& into, std::span<const std::byte> from,
                  std::span<const CopySpan> spans) override {
            device_.before_copy(into);
            queue_->copy(into, from, spans);
        }
        [[nodiscard]] std::unique_ptr<CopyMark> mark() override { return queue_->mark(); }
        void drain() noexcept override { queue_->drain(); }

      private:
        WrappedDevice& device_;
        const std::unique_ptr<CopyQueue> queue_;
    };

    /// What happens in a copier's thread before a copy begins.
    virtual void before_copy(const DeviceMemory& /*into*/) {}

    const std::string name_;
    const bool can_pin_;
    CpuDevice cpu_;
};

}  // namespace pilotlight::native
