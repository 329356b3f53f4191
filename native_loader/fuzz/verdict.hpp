// How a target says that the library broke a promise.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace fuzz {

/// End the process in a way that the fuzzer and the driver take for a finding.
inline void require(bool condition, const char* promise) {
    if (!condition) {
        std::fprintf(stderr, "broken promise: %s\n", promise);
        std::abort();
    }
}

}  // namespace fuzz
