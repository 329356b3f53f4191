// Files that an input makes, changes and takes away, and all they ever held.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "input.hpp"
#include "pilotlight/native/descriptor.hpp"
#include "pilotlight/native/source_file.hpp"

namespace fuzz {

/// What a file was at one time.
struct Version {
    pilotlight::native::FileIdentity identity;
    std::vector<std::byte> bytes;
};

/// A file in memory, on a file system in memory, on a disk, or no weight file at all. It has no
/// name of its own, so nothing is left of it. Not thread-safe: one thread makes and changes
/// files, others may read them meanwhile.
class OddFile {
  public:
    /// `seed` makes its bytes differ from those of other files.
    OddFile(Input& input, std::uint64_t seed);
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    /// The last one is the present; there is at least one.
    [[nodiscard]] const std::vector<Version>& versions() const noexcept { return versions_; }
    /// Whether its bytes are known, and can be read.
    [[nodiscard]] bool is_regular() const noexcept { return is_regular_; }

    /// Cut it, lengthen it, write into it or put something else in its place.
    void change(Input& input);

    /// Whether `held` may be what a reader of version `version` has at `offset`: where two
    /// versions can't be told apart, it may have bytes of both.
    [[nodiscard]] bool may_hold(std::size_t version, std::uint64_t offset, const std::byte* held,
                                std::size_t length) const;

  private:
    void write(std::vector<std::byte> bytes, std::size_t from);
    void resize(std::size_t size);
    void replace(Input& input);

    std::uint64_t seed_;
    pilotlight::native::Descriptor fd_;
    std::string path_;
    bool is_regular_ = true;
    std::vector<Version> versions_;
};

}  // namespace fuzz
