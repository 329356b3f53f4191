// What the files of the targets hold: bytes that follow from a seed and their place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fuzz {

inline std::byte byte_at(std::uint64_t seed, std::uint64_t offset) noexcept {
    // A step of splitmix64: neighbours, pages and seeds all differ.
    std::uint64_t mixed = (seed << 32 ^ offset) + 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return static_cast<std::byte>(mixed >> 56);
}

inline std::vector<std::byte> contents(std::uint64_t seed, std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        bytes[i] = byte_at(seed, i);
    }
    return bytes;
}

}  // namespace fuzz
