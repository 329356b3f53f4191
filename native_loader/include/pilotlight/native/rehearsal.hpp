// What a thread does first that must tell of its failures when there is no memory.
#pragma once

#include <new>

namespace pilotlight::native {

/// Throw and catch once. With its first exception a thread gets the C++ runtime's state and a
/// part of the heap of its own; where even that is refused, the C library ends the process.
inline void rehearse_throwing() noexcept {
    try {
        throw std::bad_alloc();
    } catch (const std::bad_alloc&) {
        return;
    }
}

}  // namespace pilotlight::native
