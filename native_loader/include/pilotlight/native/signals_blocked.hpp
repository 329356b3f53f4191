// Threads that never take a signal away from the application's own.
#pragma once

#include <pthread.h>

#include <csignal>

namespace pilotlight::native {

/// Blocks all signals in this thread while it lives: threads that are made meanwhile inherit
/// that for good.
class SignalsBlocked {
  public:
    SignalsBlocked() noexcept {
        sigset_t all;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_{};
};

}  // namespace pilotlight::native
