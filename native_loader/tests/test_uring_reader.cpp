#include <sys/syscall.h>

#include <cerrno>

#include "block_reader_contract.hpp"
#include "forbidden_calls.hpp"

std::unique_ptr<BlockReader> make_reader(std::size_t depth) {
    return make_uring_reader(depth);
}

namespace {

int is_there_without(long call, unsigned error_number) {
    return status_in_child([&] {
        forbid(call, error_number);
        return make_uring_reader(4) ? 1 : 0;
    });
}

}  // namespace

TEST(is_not_there_where_the_kernel_lacks_or_forbids_it) {
    CHECK_EQUAL(is_there_without(SYS_io_uring_setup, ENOSYS), 0);
    CHECK_EQUAL(is_there_without(SYS_io_uring_setup, EPERM), 0);
    CHECK_EQUAL(is_there_without(SYS_io_uring_enter, EPERM), 0);
    CHECK_EQUAL(is_there_without(SYS_mmap, ENOMEM), 0);
}

TEST(is_not_there_for_a_depth_that_no_ring_has) {
    CHECK(!make_uring_reader(0));
    CHECK(!make_uring_reader(std::size_t{1} << 20));
    CHECK(!make_uring_reader(std::size_t{1} << 40));
}

READER_TEST(has_as_many_blocks_in_flight_as_it_was_made_for) {
    CHECK_EQUAL(reader.depth(), 4u);
    CHECK_EQUAL(make_uring_reader(7)->depth(), 7u);
}

READER_TEST(reads_on_when_the_kernel_takes_nothing_more) {
    (void)reader;
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(6 * kBlock);
    write_file(directory / "f", bytes);

    const int status = status_in_child([&] {
        const OpenFile open(directory / "f");
        const Room room(6 * kBlock);
        const std::unique_ptr<BlockReader> own = make_uring_reader(4);
        forbid(SYS_io_uring_enter, EAGAIN);
        rethrow_failures(read_all(*own, blocks_of(*open.file, room.bytes(), bytes.size())));
        return room.begins_with(bytes) ? 0 : 1;
    });

    CHECK_EQUAL(status, 0);
}

READER_TEST(waits_for_what_is_in_flight_before_it_goes) {
    (void)reader;
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(4 * kBlock);
    write_file(directory / "f", bytes);
    set_cached(directory / "f", false);
    const OpenFile open(directory / "f");
    const Room room(4 * kBlock);

    {
        const std::unique_ptr<BlockReader> own = make_uring_reader(4);
        for (const ReadRequest& request : blocks_of(*open.file, room.bytes(), bytes.size())) {
            own->start(request);
        }
    }

    CHECK(room.begins_with(bytes));
}

READER_TEST(leaves_its_queues_to_the_process_that_made_it) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(kBlock);
    write_file(directory / "f", bytes);
    const OpenFile open(directory / "f");
    const Room room(kBlock);
    const ReadRequest request = blocks_of(*open.file, room.bytes(), kBlock).front();

    reader.start(request);
    CHECK_EQUAL(status_in_child([] { return 0; }), 0);
    const ReadAnswer answer = reader.wait();

    CHECK(!answer.failure);
    CHECK(room.begins_with(bytes));
}
