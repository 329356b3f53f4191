// The system calls that the library makes, refused or cut short when an input says so.
//
// The linker puts `__wrap_NAME` in the place of NAME (see CMakeLists.txt), so the library needs
// no seam for it. `operator new` is replaced as a program may replace it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "input.hpp"

namespace fuzz {

enum class Call : std::uint8_t {
    kPread,
    kPreadv2,
    kOpen,
    kFstat,
    kMadvise,
    kFallocate,
    kMmap,
    kCachestat,
    kUringSetup,
    kUringEnter,
    kNew,  ///< no system call, but what threads other than the one that arms get memory by
    kCount,
};

/// What calls meet instead of the kernel.
struct Fault {
    Call call = Call::kPread;
    std::uint64_t first = 0;  ///< of the calls of its kind, from when the faults were armed
    bool is_lasting = false;  ///< all later ones meet it too
    int error_number = 0;     ///< 0: the call is made
    std::size_t most_bytes = std::size_t{1} << 30;  ///< that a pread gives
    bool is_harmless = false;                       ///< the library has another way, or asks again
};

/// What calls meet in one run.
struct Faults {
    std::vector<Fault> each;
    bool is_slow = false;  ///< reads take a moment, in which others come to something
};

/// Up to `n_most` faults, as the input says.
[[nodiscard]] Faults odd_faults(Input& input, std::size_t n_most);

/// Faults come true while this lives; one at a time. Made and destroyed while no other thread
/// makes system calls; thread-safe in between.
class ArmedFaults {
  public:
    explicit ArmedFaults(Faults faults);
    ArmedFaults(const ArmedFaults&) = delete;
    ArmedFaults& operator=(const ArmedFaults&) = delete;
    ~ArmedFaults();

    /// Whether a fault was met after which loads may fail.
    [[nodiscard]] bool has_done_harm() const noexcept;
};

}  // namespace fuzz
