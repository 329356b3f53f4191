#include <exception>

#include "pilotlight/native/block_reader.hpp"

namespace pilotlight::native {
namespace {

class PreadReader final : public BlockReader {
  public:
    [[nodiscard]] std::size_t depth() const noexcept override { return 1; }
    void start(const ReadRequest& request) noexcept override { request_ = request; }
    [[nodiscard]] ReadAnswer wait() noexcept override;

  private:
    [[nodiscard]] bool read() const;

    ReadRequest request_;
};

ReadAnswer PreadReader::wait() noexcept {
    ReadAnswer answer{.tag = request_.tag, .is_from_page_cache = false, .failure = nullptr};
    try {
        answer.is_from_page_cache = read();
    } catch (...) {
        answer.failure = std::current_exception();
    }
    return answer;
}

// Returns true if the page cache had the block.
bool PreadReader::read() const {
    SourceFile& file = *request_.file;
    if (request_.use_page_cache &&
        file.read_cached(request_.room, request_.offset, request_.length)) {
        return true;
    }
    file.read(request_.room, request_.offset, request_.length);
    return false;
}

}  // namespace

std::unique_ptr<BlockReader> make_pread_reader() {
    return std::make_unique<PreadReader>();
}

}  // namespace pilotlight::native
