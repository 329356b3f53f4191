// The memory of a chunk pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "pilotlight/native/back_off.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/memory_nodes.hpp"

namespace pilotlight::native {

/// Memory is populated in units of one huge page.
inline constexpr std::size_t kPopulateUnitBytes = std::size_t{2} << 20;

/// A range of address space that goes back to the kernel with its owner.
/// Movable, not copyable; not thread-safe.
class AddressRange {
  public:
    AddressRange() = default;
    /// Reserve `size` bytes that start at a multiple of kPopulateUnitBytes; no access yet.
    explicit AddressRange(std::size_t size);
    AddressRange(AddressRange&& other) noexcept;
    AddressRange& operator=(AddressRange&& other) noexcept;
    AddressRange(const AddressRange&) = delete;
    AddressRange& operator=(const AddressRange&) = delete;
    ~AddressRange();

    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

  private:
    std::span<std::byte> reserved_;
    std::span<std::byte> bytes_;
};

/// Who can use memory.
enum class Sharing : std::uint8_t {
    kShared,   ///< a memfd, sealed: others can map it, but never resize it or write into it
    kPrivate,  ///< this process alone, which has it sooner, and in huge pages more often
};

/// One range of memory. Nothing is populated until it is asked for. Thread-safe.
class Arena {
  public:
    /// Where the machine has several memory nodes the arena is spread over them, or lies on
    /// `node`. Throws MemoryRefused.
    explicit Arena(std::size_t size, std::optional<unsigned> node = std::nullopt,
                   Sharing sharing = Sharing::kShared,
                   const std::string& node_directory = kNodeDirectory);

    [[nodiscard]] bool is_shared() const noexcept { return static_cast<bool>(memfd_); }
    /// -1 where the memory is private.
    [[nodiscard]] int fd() const noexcept { return memfd_.get(); }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return range_.bytes(); }

    /// Give memory to every unit that the range touches, huge pages where the kernel has them.
    /// After it the range can be written without a fault. Throws MemoryRefused.
    void populate(std::size_t offset, std::size_t length);

    /// Populate ahead of need: of the units that have no memory the first ones, up to `n_units`
    /// of them, and no more once somebody else populates. Returns how many. Throws MemoryRefused.
    [[nodiscard]] std::size_t populate_ahead(std::size_t n_units);

    [[nodiscard]] std::size_t populated_bytes() const noexcept;
    /// The part of the populated bytes that is known to have huge pages; of private memory
    /// nothing is known.
    [[nodiscard]] std::size_t huge_bytes() const noexcept;

    /// Why the memory nodes could not be chosen; empty where they were, or there is only one.
    [[nodiscard]] const std::string& node_refusal() const noexcept { return node_refusal_; }

  private:
    enum class UnitState : std::uint8_t { kEmpty, kBusy, kPopulated };

    void choose_nodes(std::span<const unsigned> nodes);
    [[nodiscard]] bool populate_unit(std::size_t unit);
    void fill(std::span<std::byte> memory);
    void fill_without_populating(std::span<std::byte> memory);
    [[nodiscard]] bool make_huge(std::span<std::byte> memory) noexcept;
    [[nodiscard]] std::span<std::byte> unit_bytes(std::size_t unit) const noexcept;

    Descriptor memfd_;
    AddressRange range_;
    std::size_t n_units_;
    std::unique_ptr<std::atomic<UnitState>[]> units_;
    std::atomic<std::size_t> populated_bytes_ = 0;
    std::atomic<std::size_t> huge_bytes_ = 0;
    BackOff huge_attempts_;
    std::atomic<int> n_populating_ = 0;
    std::atomic<std::size_t> first_empty_ = 0;  ///< no unit before it is
    std::string node_refusal_;
};

}  // namespace pilotlight::native
