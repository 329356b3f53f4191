// Files for tests to read.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "pilotlight/native/source_file.hpp"

/// A directory that goes with its owner.
class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string pattern = std::filesystem::temp_directory_path() / "pilotlight-XXXXXX";
        if (::mkdtemp(pattern.data()) == nullptr) {
            throw std::runtime_error("mkdtemp failed");
        }
        path_ = pattern;
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

inline std::vector<std::byte> random_bytes(std::size_t size, unsigned seed = 1) {
    std::mt19937_64 generator(seed);
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(generator() & 0xFF);
    }
    return bytes;
}

inline void write_file(const std::string& path, const std::vector<std::byte>& bytes) {
    std::ofstream stream(path, std::ios::binary | std::ios::trunc);
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
}

inline pilotlight::native::FileIdentity identity_of(const std::string& path) {
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) {
        throw std::runtime_error("no file " + path);
    }
    constexpr std::int64_t kSecond = 1'000'000'000;
    return {.device = status.st_dev,
            .inode = status.st_ino,
            .size_bytes = static_cast<std::uint64_t>(status.st_size),
            .mtime_ns = status.st_mtim.tv_sec * kSecond + status.st_mtim.tv_nsec,
            .ctime_ns = status.st_ctim.tv_sec * kSecond + status.st_ctim.tv_nsec};
}

/// Memory that direct reads can go to.
class Room {
  public:
    explicit Room(std::size_t size)
        : bytes_(static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
                 size) {}
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    ~Room() { ::munmap(bytes_.data(), bytes_.size()); }

    [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
    [[nodiscard]] bool begins_with(std::span<const std::byte> expected) const {
        return std::ranges::equal(bytes_.first(expected.size()), expected);
    }
    void forbid() const { ::mprotect(bytes_.data(), bytes_.size(), PROT_NONE); }

  private:
    std::span<std::byte> bytes_;
};

/// Have the page cache hold a file, or not.
inline void set_cached(const std::string& path, bool is_cached) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (is_cached) {
        std::vector<std::byte> bytes(std::filesystem::file_size(path));
        if (::pread(fd, bytes.data(), bytes.size(), 0) < 0) {
            throw std::runtime_error("can't read " + path);
        }
    }
    ::close(fd);
}
