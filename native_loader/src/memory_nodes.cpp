#include "pilotlight/native/memory_nodes.hpp"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>

#include "pilotlight/native/arena.hpp"

namespace pilotlight::native {
namespace {

// As many nodes as any kernel is built for.
constexpr unsigned kMostNodes = 1024;
constexpr unsigned kWordBits = std::numeric_limits<unsigned long>::digits;

constexpr std::size_t kShortestStripe = std::size_t{16} << 20;
constexpr std::size_t kMostStripes = 1024;

class NodeMask {
  public:
    void add(unsigned node) { words_[node / kWordBits] |= 1UL << node % kWordBits; }
    [[nodiscard]] bool has(unsigned node) const {
        return node < kMostNodes && (words_[node / kWordBits] >> node % kWordBits & 1UL) != 0;
    }
    [[nodiscard]] unsigned long* words() { return words_.data(); }
    // The kernel looks at one bit less than it is told.
    [[nodiscard]] static constexpr unsigned long size() { return kMostNodes + 1; }

  private:
    std::array<unsigned long, kMostNodes / kWordBits + 1> words_{};
};

std::optional<unsigned> parse_number(std::string_view text) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool is_number = error == std::errc{} && end == text.data() + text.size();
    return is_number && number < kMostNodes ? std::optional(number) : std::nullopt;
}

}  // namespace

std::vector<unsigned> parse_node_list(std::string_view text) {
    std::vector<unsigned> nodes;
    while (!text.empty()) {
        const std::string_view range = text.substr(0, text.find(','));
        text.remove_prefix(std::min(range.size() + 1, text.size()));
        const std::size_t dash = range.find('-');
        const std::optional<unsigned> first = parse_number(range.substr(0, dash));
        const std::optional<unsigned> last =
            dash == std::string_view::npos ? first : parse_number(range.substr(dash + 1));
        if (!first || !last) {
            return {};
        }
        for (unsigned node = *first; node <= *last; ++node) {
            nodes.push_back(node);
        }
    }
    return nodes;
}

std::vector<unsigned> memory_nodes(const std::string& directory) {
    std::ifstream file(directory + "/has_memory");
    std::string list;
    std::getline(file, list);
    std::vector<unsigned> nodes = parse_node_list(list);
    NodeMask allowed;
    if (::syscall(SYS_get_mempolicy, nullptr, allowed.words(), NodeMask::size(), nullptr,
                  MPOL_F_MEMS_ALLOWED) != 0) {
        return {};
    }
    std::erase_if(nodes, [&](unsigned node) { return !allowed.has(node); });
    return nodes;
}

std::vector<NodeStripe> stripes(std::size_t size, std::span<const unsigned> nodes) {
    if (nodes.empty()) {
        return {};
    }
    const std::size_t n_units = (size + kPopulateUnitBytes - 1) / kPopulateUnitBytes;
    const std::size_t units_per_stripe = (n_units + kMostStripes - 1) / kMostStripes;
    const std::size_t length =
        nodes.size() == 1 ? size : std::max(kShortestStripe, units_per_stripe * kPopulateUnitBytes);
    std::vector<NodeStripe> all;
    for (std::size_t offset = 0; offset < size; offset += length) {
        all.push_back({.offset = offset,
                       .length = std::min(length, size - offset),
                       .node = nodes[all.size() % nodes.size()]});
    }
    return all;
}

int prefer_node(std::span<std::byte> memory, unsigned node) noexcept {
    if (node >= kMostNodes) {
        return EINVAL;
    }
    NodeMask mask;
    mask.add(node);
    const long result = ::syscall(SYS_mbind, memory.data(), memory.size(), MPOL_PREFERRED,
                                  mask.words(), NodeMask::size(), 0);
    return result == 0 ? 0 : errno;
}

}  // namespace pilotlight::native
