// Machines whose memory lies on several nodes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pilotlight::native {

inline constexpr const char* kNodeDirectory = "/sys/devices/system/node";

/// The numbers in a list such as "0-1,3"; nothing from what is no such list.
[[nodiscard]] std::vector<unsigned> parse_node_list(std::string_view text);

/// The nodes that have memory which this process may use; empty where the kernel doesn't say.
[[nodiscard]] std::vector<unsigned> memory_nodes(const std::string& directory = kNodeDirectory);

/// A part of some memory that is to lie on one node.
struct NodeStripe {
    std::size_t offset = 0;
    std::size_t length = 0;
    unsigned node = 0;

    bool operator==(const NodeStripe&) const = default;
};

/// Deal memory out to nodes in turn, in stripes of whole populate units: so long that there are
/// at most a thousand or so of them, for each becomes a mapping of its own.
[[nodiscard]] std::vector<NodeStripe> stripes(std::size_t size, std::span<const unsigned> nodes);

/// Have memory that is not populated yet come from a node, if it has some left; returns 0 or
/// an errno.
[[nodiscard]] int prefer_node(std::span<std::byte> memory, unsigned node) noexcept;

}  // namespace pilotlight::native
