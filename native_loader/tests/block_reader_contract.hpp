// What every block reader does. The including file says how its reader is made, null where the
// kernel does not allow it.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/block_reader.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

std::unique_ptr<BlockReader> make_reader(std::size_t depth);

namespace {

constexpr std::size_t kBlock = std::size_t{64} << 10;

struct OpenFile {
    explicit OpenFile(const std::string& path) : file(SourceFile::open(path, identity_of(path))) {}
    std::unique_ptr<SourceFile> file;
};

std::vector<ReadRequest> blocks_of(SourceFile& file, std::span<std::byte> room,
                                   std::size_t file_bytes, bool use_page_cache = false) {
    std::vector<ReadRequest> requests;
    for (std::size_t offset = 0; offset < file_bytes; offset += kBlock) {
        requests.push_back({.file = &file,
                            .room = room.subspan(offset),
                            .offset = offset,
                            .length = std::min(kBlock, file_bytes - offset),
                            .use_page_cache = use_page_cache,
                            .tag = 1000 + offset});
    }
    return requests;
}

// Keeps as much in flight as the reader allows; answers by tag.
std::map<std::uint64_t, ReadAnswer> read_all(BlockReader& reader,
                                             const std::vector<ReadRequest>& requests) {
    std::map<std::uint64_t, ReadAnswer> answers;
    std::size_t n_started = 0;
    while (answers.size() < requests.size()) {
        while (n_started < requests.size() && n_started - answers.size() < reader.depth()) {
            reader.start(requests[n_started++]);
        }
        ReadAnswer answer = reader.wait();
        const std::uint64_t tag = answer.tag;
        CHECK(answers.emplace(tag, std::move(answer)).second);
    }
    return answers;
}

ReadAnswer read_one(BlockReader& reader, const ReadRequest& request) {
    reader.start(request);
    return reader.wait();
}

void rethrow_failures(const std::map<std::uint64_t, ReadAnswer>& answers) {
    for (const auto& [tag, answer] : answers) {
        if (answer.failure) {
            std::rethrow_exception(answer.failure);
        }
    }
}

}  // namespace

#define READER_TEST(name)                                                 \
    static void check_##name(BlockReader& reader);                        \
    TEST(name) {                                                          \
        const std::unique_ptr<BlockReader> reader = make_reader(4);       \
        if (!reader) {                                                    \
            std::printf("skipped: this kernel does not allow it here\n"); \
            return;                                                       \
        }                                                                 \
        check_##name(*reader);                                            \
    }                                                                     \
    static void check_##name(BlockReader& reader)

READER_TEST(reads_every_block_of_a_file_whose_end_is_not_aligned) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(9 * kBlock + 4096 + 13);
    write_file(directory / "f", bytes);
    const OpenFile open(directory / "f");
    const Room room(10 * kBlock);

    const auto answers = read_all(reader, blocks_of(*open.file, room.bytes(), bytes.size()));

    rethrow_failures(answers);
    CHECK_EQUAL(answers.size(), 10u);
    CHECK(room.begins_with(bytes));
    CHECK_EQUAL(open.file->direct_refusal(), "");
}

READER_TEST(says_which_blocks_the_page_cache_had) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(3 * kBlock + 13);
    write_file(directory / "cached", bytes);
    write_file(directory / "not", bytes);
    set_cached(directory / "cached", true);
    set_cached(directory / "not", false);
    const OpenFile cached(directory / "cached");
    const OpenFile not_cached(directory / "not");
    const Room room(4 * kBlock);
    const Room other_room(4 * kBlock);

    const auto from_cache =
        read_all(reader, blocks_of(*cached.file, room.bytes(), bytes.size(), true));
    const auto from_disk =
        read_all(reader, blocks_of(*not_cached.file, other_room.bytes(), bytes.size(), true));

    rethrow_failures(from_cache);
    rethrow_failures(from_disk);
    for (const auto& [tag, answer] : from_cache) {
        CHECK(answer.is_from_page_cache);
    }
    for (const auto& [tag, answer] : from_disk) {
        CHECK(!answer.is_from_page_cache);
    }
    CHECK(room.begins_with(bytes));
    CHECK(other_room.begins_with(bytes));
}

READER_TEST(leaves_the_page_cache_alone_unless_told) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(kBlock));
    set_cached(directory / "f", true);
    const OpenFile open(directory / "f");
    const Room room(kBlock);

    const auto answers = read_all(reader, blocks_of(*open.file, room.bytes(), kBlock, false));

    rethrow_failures(answers);
    CHECK(!answers.begin()->second.is_from_page_cache);
}

READER_TEST(tells_that_a_file_shrank) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(2 * kBlock));
    const OpenFile open(directory / "f");
    const Room room(2 * kBlock);
    std::filesystem::resize_file(directory / "f", kBlock + 100);

    const auto answers = read_all(reader, blocks_of(*open.file, room.bytes(), 2 * kBlock));

    CHECK(!answers.at(1000).failure);
    const auto error =
        CHECK_THROWS(FileChanged, std::rethrow_exception(answers.at(1000 + kBlock).failure));
    CHECK_EQUAL(error.what_changed, "it was 131072 bytes long and is now 65636");
}

READER_TEST(names_file_place_and_errno_of_a_failed_read) {
    const TemporaryDirectory directory;
    write_file(directory / "f", random_bytes(2 * kBlock));
    const OpenFile open(directory / "f");
    const Room room(2 * kBlock);
    room.forbid();

    const auto answers = read_all(reader, blocks_of(*open.file, room.bytes(), 2 * kBlock));

    const auto error =
        CHECK_THROWS(ReadFailed, std::rethrow_exception(answers.at(1000 + kBlock).failure));
    CHECK_EQUAL(error.file, directory / "f");
    CHECK_EQUAL(error.offset, kBlock);
    CHECK_EQUAL(error.error_number, EFAULT);
}

READER_TEST(goes_on_after_a_failed_read) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(kBlock);
    write_file(directory / "f", bytes);
    const OpenFile open(directory / "f");
    const Room forbidden(kBlock);
    const Room room(kBlock);
    forbidden.forbid();

    const ReadAnswer failed =
        read_one(reader, blocks_of(*open.file, forbidden.bytes(), kBlock).front());
    const ReadAnswer done = read_one(reader, blocks_of(*open.file, room.bytes(), kBlock).front());

    CHECK(failed.failure != nullptr);
    CHECK(!done.failure);
    CHECK(room.begins_with(bytes));
}

READER_TEST(reads_through_the_page_cache_what_is_refused_directly) {
    const TemporaryDirectory directory;
    const std::vector<std::byte> bytes = random_bytes(kBlock);
    write_file(directory / "f", bytes);
    const OpenFile open(directory / "f");
    const Room room(2 * kBlock);
    ReadRequest request = blocks_of(*open.file, room.bytes(), kBlock).front();
    request.room = room.bytes().subspan(1);  // No disk reads to an odd address.

    const ReadAnswer refused = read_one(reader, request);
    const ReadAnswer buffered = read_one(reader, request);

    CHECK(!refused.failure);
    CHECK(!buffered.failure);
    CHECK(std::memcmp(room.bytes().data() + 1, bytes.data(), bytes.size()) == 0);
    CHECK(!refused.is_from_page_cache);
    CHECK_EQUAL(open.file->direct_refusal(), "Invalid argument");
}

READER_TEST(reads_a_file_that_is_not_read_directly_at_all) {
    const std::string path = "/proc/self/maps";  // It can't be opened for direct reads.
    const FileIdentity identity = identity_of(path);
    const auto file = SourceFile::open(path, identity);
    const Room room(kBlock);

    const ReadAnswer answer = read_one(
        reader, {.file = file.get(), .room = room.bytes(), .offset = 0, .length = 64, .tag = 7});

    CHECK(!answer.failure);
    CHECK_EQUAL(answer.tag, 7u);
    CHECK(room.bytes()[0] != std::byte{0});
    CHECK(!file->direct_refusal().empty());
}
