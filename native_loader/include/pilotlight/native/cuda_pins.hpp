// Memory of this process that stays in place for the CUDA driver.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "pilotlight/native/cuda_context.hpp"

namespace pilotlight::native::cuda {

/// The driver takes a range once per process, for all of its devices, and refuses it a second
/// time; this counts who wants it. Thread-safe.
class Pins {
  public:
    /// Those of this process.
    [[nodiscard]] static Pins& of_this_process();

    /// Return false where the driver refuses.
    [[nodiscard]] bool add(const std::shared_ptr<const PrimaryContext>& context,
                           std::span<std::byte> memory) noexcept;
    void remove(std::span<std::byte> memory) noexcept;

  private:
    using Range = std::pair<std::byte*, std::size_t>;

    struct Pin {
        std::size_t n_wanted = 0;
        std::shared_ptr<const PrimaryContext> context;  ///< that it was registered in
    };

    std::mutex mutex_;
    std::map<Range, Pin> pins_;
};

}  // namespace pilotlight::native::cuda
