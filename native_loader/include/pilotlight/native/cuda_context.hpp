// A CUDA device's primary context, which everybody in the process shares.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "pilotlight/native/cuda_driver.hpp"
#include "pilotlight/native/error.hpp"

namespace pilotlight::native::cuda {

/// Held from its making to its end. Immutable; thread-safe.
class PrimaryContext {
  public:
    /// Throws DeviceFailed.
    PrimaryContext(std::shared_ptr<const Driver> driver, std::string device, DeviceNumber number);
    PrimaryContext(const PrimaryContext&) = delete;
    PrimaryContext& operator=(const PrimaryContext&) = delete;
    ~PrimaryContext();

    [[nodiscard]] const Driver& driver() const noexcept { return *driver_; }
    /// "cuda:0".
    [[nodiscard]] const std::string& device() const noexcept { return device_; }
    [[nodiscard]] DeviceNumber number() const noexcept { return number_; }

    /// Throws DeviceFailed unless the call succeeds.
    template <typename... Parameters, typename... Arguments>
    void require(const Call<Parameters...>& call, Arguments... arguments) const {
        check(call.name(), call(arguments...));
    }
    void check(const char* call, Result result) const {
        if (result != Result::kSuccess) {
            throw DeviceFailed(device_, call, driver_->name_of(result));
        }
    }

  private:
    friend class Current;

    const std::shared_ptr<const Driver> driver_;
    const std::string device_;
    const DeviceNumber number_;
    Context context_ = nullptr;
};

/// While it lives, the calling thread's calls go to that context; then to the one before.
class Current {
  public:
    /// Throws DeviceFailed.
    explicit Current(const PrimaryContext& context) : driver_(context.driver()) {
        context.require(driver_.context_push, context.context_);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() {
        Context popped = nullptr;
        (void)driver_.context_pop(&popped);
    }

  private:
    const Driver& driver_;
};

}  // namespace pilotlight::native::cuda
