// A test's hold on the fake driver.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "check.hpp"
#include "fake_cuda.hpp"
#include "pilotlight/native/cuda_types.hpp"

/// Has the fake driver be the one that is loaded, with devices of its own.
class FakeDriver {
  public:
    explicit FakeDriver(int n_devices = 2, std::size_t bytes_of_each = std::size_t{64} << 20) {
        ::setenv("PILOTLIGHT_CUDA_LIBRARY", FAKE_CUDA, 1);
        fake_cuda_reset(n_devices, bytes_of_each);
    }

    static void fail(
        const char* function, int nth = 1,
        pilotlight::native::cuda::Result code = pilotlight::native::cuda::Result::kUnknown,
        int n_times = 1) {
        fake_cuda_fail(function, nth, static_cast<int>(code), n_times);
    }

    /// Nothing lives any more, and nothing was done wrong.
    static void check_clean() {
        const FakeCudaCounts counts = fake_cuda_counts();
        CHECK_EQUAL(std::string(fake_cuda_last_misuse()), "");
        CHECK_EQUAL(counts.misuses, 0);
        CHECK_EQUAL(counts.mappings, 0);
        CHECK_EQUAL(counts.reservations, 0);
        CHECK_EQUAL(counts.handles, 0);
        CHECK_EQUAL(counts.events, 0);
        CHECK_EQUAL(counts.streams, 0);
        CHECK_EQUAL(counts.registrations, 0);
        CHECK_EQUAL(counts.contexts, 0);
    }

    [[nodiscard]] static std::vector<FakeCudaCopy> copies() {
        std::vector<FakeCudaCopy> copies(fake_cuda_copies(nullptr, 0));
        copies.resize(fake_cuda_copies(copies.data(), copies.size()));
        return copies;
    }
};
