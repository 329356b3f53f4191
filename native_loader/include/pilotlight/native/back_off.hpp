// When to try again what failed.
#pragma once

#include <atomic>

namespace pilotlight::native {

/// Lets more and more occasions pass after each failure in a row: 1, 2, 4 … and at most
/// `longest`. Thread-safe.
class BackOff {
  public:
    explicit BackOff(int longest) : longest_(longest) {}

    /// Return whether to try on this occasion.
    [[nodiscard]] bool may_try() noexcept {
        int left = to_pass_.load();
        while (left > 0) {
            if (to_pass_.compare_exchange_weak(left, left - 1)) {
                return false;
            }
        }
        return true;
    }

    void failed() noexcept {
        const int next = next_.load();
        to_pass_ = next;
        next_ = next < longest_ / 2 ? 2 * next : longest_;
    }

    void succeeded() noexcept { next_ = 1; }

  private:
    const int longest_;
    std::atomic<int> to_pass_ = 0;
    std::atomic<int> next_ = 1;
};

}  // namespace pilotlight::native
