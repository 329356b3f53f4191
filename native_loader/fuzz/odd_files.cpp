#include "odd_files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "contents.hpp"
#include "files.hpp"
#include "verdict.hpp"

namespace fuzz {
namespace {

using pilotlight::native::Descriptor;
using pilotlight::native::FileIdentity;

constexpr std::size_t kMostBytes = std::size_t{48} << 10;

// What has a path and is no weight file: reading them fails in ways of their own.
constexpr std::array kOddities{"/nowhere/model.safetensors", "/", "/dev/null", "/dev/zero",
                               "/proc/self/mem"};

Descriptor nameless_file(const char* directory) {
    Descriptor file(::openat(AT_FDCWD, directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    return file ? std::move(file) : Descriptor(::memfd_create("weights", MFD_CLOEXEC));
}

// On three file systems, and so for the loader on three disks.
Descriptor new_file(Input& input) {
    switch (input.byte() % 16) {
        case 0:
            return nameless_file(std::filesystem::temp_directory_path().c_str());
        case 1:
        case 2:
            return nameless_file("/dev/shm");
        default:
            return Descriptor(::memfd_create("weights", MFD_CLOEXEC));
    }
}

std::size_t odd_size(Input& input) {
    return static_cast<std::size_t>(input.extent() % kMostBytes);
}

}  // namespace

OddFile::OddFile(Input& input, std::uint64_t seed) : seed_(seed << 8) {
    if (input.one_in(16)) {
        is_regular_ = false;
        path_ = kOddities[input.below(kOddities.size())];
        const bool is_there = ::access(path_.c_str(), F_OK) == 0;
        versions_.push_back(
            {.identity = is_there ? identity_of(path_) : FileIdentity{}, .bytes = {}});
        return;
    }
    fd_ = new_file(input);
    path_ = "/proc/self/fd/" + std::to_string(fd_.get());
    write(contents(seed_, odd_size(input)), 0);
}

void OddFile::change(Input& input) {
    if (!is_regular_) {
        return;
    }
    switch (input.byte() % 6) {
        case 0:
            replace(input);
            break;
        case 1:
        case 2:
            write(contents(++seed_, versions_.back().bytes.size()), 0);
            break;
        default:
            resize(odd_size(input));
    }
}

bool OddFile::may_hold(std::size_t version, std::uint64_t offset, const std::byte* held,
                       std::size_t length) const {
    std::vector<const Version*> alike;
    for (const Version& each : versions_) {
        if (each.identity == versions_[version].identity) {
            alike.push_back(&each);
        }
    }
    for (std::size_t i = 0; i < length; ++i) {
        const auto has_it = [&](const Version* each) { return each->bytes[offset + i] == held[i]; };
        if (std::ranges::none_of(alike, has_it)) {
            return false;
        }
    }
    return true;
}

void OddFile::write(std::vector<std::byte> bytes, std::size_t from) {
    const std::size_t length = bytes.size() - from;
    const ssize_t count =
        ::pwrite(fd_.get(), bytes.data() + from, length, static_cast<off_t>(from));
    require(count == static_cast<ssize_t>(length), "the fuzzer can write its files");
    versions_.push_back({.identity = identity_of(path_), .bytes = std::move(bytes)});
}

void OddFile::resize(std::size_t size) {
    std::vector<std::byte> bytes = versions_.back().bytes;
    const std::size_t kept = std::min(size, bytes.size());
    bytes.resize(size);
    for (std::size_t i = kept; i < size; ++i) {
        bytes[i] = byte_at(seed_, i);
    }
    require(::ftruncate(fd_.get(), static_cast<off_t>(kept)) == 0, "the fuzzer can cut its files");
    write(std::move(bytes), kept);
}

// The path stays the same and leads elsewhere, at once.
void OddFile::replace(Input& input) {
    const bool is_removed = input.byte() % 2 == 0;
    const Descriptor other =
        is_removed ? Descriptor(::openat(AT_FDCWD, "/", O_RDONLY | O_CLOEXEC)) : new_file(input);
    require(::dup3(other.get(), fd_.get(), O_CLOEXEC) >= 0, "the fuzzer can replace its files");
    if (is_removed) {
        is_regular_ = false;
        versions_.push_back({.identity = identity_of(path_), .bytes = {}});
        return;
    }
    write(contents(++seed_, odd_size(input)), 0);
}

}  // namespace fuzz
