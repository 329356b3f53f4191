// Reading a range by calls that are cut short, interrupted, refused or fail.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "contents.hpp"
#include "input.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/source_file.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;

constexpr std::size_t kMostFileBytes = 5 * kDirectAlignment;

std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// A file that answers as the input says, and looks at what it is asked.
class OddFile {
  public:
    OddFile(fuzz::Input& input, std::span<const std::byte> bytes, std::span<std::byte> room,
            std::size_t alignment)
        : input_(input), bytes_(bytes), room_(room), alignment_(alignment) {}

    ssize_t read(std::byte* into, std::size_t length, std::uint64_t offset) {
        require(into >= room_.data() && into + length <= room_.data() + room_.size(),
                "a call reads into the room");
        require(offset % alignment_ == 0 && length % alignment_ == 0, "a call is aligned");
        last_offset = offset;
        std::size_t most = length;
        switch (input_.byte() % 8) {
            case 0:
                errno = EINTR;
                // Once the input is used up, this would be the answer for ever.
                if (!input_.is_empty()) {
                    return -1;
                }
                break;
            case 1:
                last_errno = errno = EINVAL;
                return -1;
            case 2:
                last_errno = errno = input_.byte() % 2 == 0 ? EIO : EAGAIN;
                return -1;
            case 3:
                most = input_.byte();
                break;
            case 4:
                most = input_.number(2);
                break;
            default:
                break;
        }
        const std::size_t left = offset < bytes_.size() ? bytes_.size() - offset : 0;
        const std::size_t count = std::min({length, left, most});
        if (count != 0) {
            std::memcpy(into, bytes_.data() + offset, count);
        }
        return static_cast<ssize_t>(count);
    }

    int last_errno = 0;
    std::uint64_t last_offset = 0;

  private:
    fuzz::Input& input_;
    const std::span<const std::byte> bytes_;
    const std::span<std::byte> room_;
    const std::size_t alignment_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::size_t alignment = input.byte() % 2 == 0 ? kDirectAlignment : 1;
    const std::vector<std::byte> bytes = fuzz::contents(1, input.number(2) % kMostFileBytes);
    const std::uint64_t offset = input.below(6) * kDirectAlignment;
    const std::size_t length = input.number(2) % kMostFileBytes;
    std::vector<std::byte> room(round_up(length, alignment));
    OddFile file(input, bytes, room, alignment);
    const ReadCall call = [&](std::byte* into, std::size_t wanted, std::uint64_t from) {
        return file.read(into, wanted, from);
    };
    try {
        if (read_range(call, room, offset, length, alignment, "f") == ReadStatus::kDone) {
            require(length == 0 || offset + length <= bytes.size(), "what is done was there");
            require(length == 0 || std::memcmp(room.data(), bytes.data() + offset, length) == 0,
                    "what is done is right");
        }
    } catch (const ReadFailed& error) {
        require(error.error_number == file.last_errno && error.offset == file.last_offset,
                "a failure names its cause and place");
    }
    return 0;
}
