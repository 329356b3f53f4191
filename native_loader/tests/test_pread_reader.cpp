#include "block_reader_contract.hpp"

std::unique_ptr<BlockReader> make_reader(std::size_t /*depth*/) {
    return make_pread_reader();
}

TEST(has_one_block_in_flight) {
    CHECK_EQUAL(make_pread_reader()->depth(), 1u);
}
