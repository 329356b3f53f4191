// Finding out how a disk is read best, from files that change, with a kernel that refuses.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "files.hpp"
#include "input.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/disk_probe.hpp"
#include "system_calls.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

constexpr off_t kFileBytes = off_t{16} << 20;  // The smallest that is probed.

bool makes_sense(const DiskSettings& settings) {
    return settings.n_readers >= 1 && settings.n_readers <= 64 && settings.depth >= 1 &&
           settings.depth <= 64 && settings.block_bytes != 0 &&
           settings.block_bytes % kDirectAlignment == 0;
}

// What a disk may be found to do, however odd.
double odd_rate(fuzz::Input& input) {
    switch (input.byte() % 4) {
        case 0:
            return 0;
        case 1:
            return std::numeric_limits<double>::infinity();
        default:
            return static_cast<double>(input.number(2));
    }
}

void choose_settings(fuzz::Input& input) {
    const bool has_uring = input.byte() % 2 == 0;
    std::vector<DiskMeasurement> measurements;
    while (const auto settings = next_to_measure(measurements, has_uring)) {
        require(measurements.size() < kMostMeasurements, "measuring comes to an end");
        require(makes_sense(*settings), "only settings that make sense are measured");
        require(has_uring || settings->depth == 1, "depth takes io_uring");
        measurements.push_back({.settings = *settings, .bytes_per_second = odd_rate(input)});
        const auto chosen = choose(measurements);
        require(chosen && std::ranges::count(measurements, *chosen) > 0,
                "what is chosen was measured");
    }
}

void probe(fuzz::Input& input) {
    const Descriptor file(::memfd_create("weights", MFD_CLOEXEC));
    require(::ftruncate(file.get(), kFileBytes) == 0, "the fuzzer can make its file");
    const std::string path = "/proc/self/fd/" + std::to_string(file.get());
    FileIdentity identity = identity_of(path);
    if (input.one_in(4)) {
        identity.size_bytes = input.extent();
    }
    const auto cut_to = static_cast<off_t>(input.extent() % kFileBytes);
    const std::chrono::duration<double> limit(1e-4 * input.byte());
    std::thread cutter;
    if (input.one_in(4)) {
        cutter = std::thread([&] { (void)!::ftruncate(file.get(), cut_to); });
    }
    ProbeResult result;
    {
        const fuzz::ArmedFaults faults(fuzz::odd_faults(input, 3));
        result = probe_disk(path, identity, limit);
    }
    if (cutter.joinable()) {
        cutter.join();
    }
    require(result.best.has_value() == result.why_not.empty(), "it can tell, or says why not");
    require(!result.best || std::ranges::count(result.measurements, *result.best) > 0,
            "what is best was measured");
    for (const DiskMeasurement& each : result.measurements) {
        require(makes_sense(each.settings) && each.bytes_per_second > 0,
                "what was measured makes sense");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    if (input.byte() % 4 == 0) {
        probe(input);
    } else {
        choose_settings(input);
    }
    return 0;
}
