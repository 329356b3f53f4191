// The fake driver sees what is done wrong: else that nothing was would say nothing.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fake_driver.hpp"
#include "pilotlight/native/cuda_driver.hpp"

using namespace pilotlight::native::cuda;

namespace {

constexpr std::size_t kSize = std::size_t{2} << 20;

// A device in use, by the driver's own calls.
struct Fixture {
    FakeDriver fake;
    std::shared_ptr<const Driver> driver = Driver::of_this_machine();
    Context context = nullptr;
    Stream stream = nullptr;
    MemoryHandle handle = 0;
    DeviceAddress address = 0;
    std::vector<std::byte> source{1000};

    Fixture() {
        const AllocationProperties properties;
        const AccessDescription access;
        CHECK(driver->init(0) == Result::kSuccess);
        CHECK(driver->primary_context_retain(&context, 0) == Result::kSuccess);
        CHECK(driver->context_push(context) == Result::kSuccess);
        CHECK(driver->stream_create(&stream, kStreamNonBlocking) == Result::kSuccess);
        CHECK(driver->memory_create(&handle, kSize, &properties, 0) == Result::kSuccess);
        CHECK(driver->address_reserve(&address, kSize, 0, 0, 0) == Result::kSuccess);
        CHECK(driver->memory_map(address, kSize, 0, handle, 0) == Result::kSuccess);
        CHECK(driver->memory_set_access(address, kSize, &access, 1) == Result::kSuccess);
    }
    Fixture(const Fixture&) = delete;
    Fixture& operator=(const Fixture&) = delete;
    ~Fixture() {
        Context popped = nullptr;
        (void)driver->stream_synchronize(stream);
        (void)driver->context_pop(&popped);
        fake_cuda_reset(0, 0);
    }

    Result copy(DeviceAddress to) {
        return driver->copy_to_device(to, source.data(), source.size(), stream);
    }
    void pin() {
        CHECK(driver->host_register(source.data(), source.size(), kHostRegisterPortable) ==
              Result::kSuccess);
    }
    static std::string misuse() { return fake_cuda_last_misuse(); }
};

}  // namespace

TEST(nothing_done_wrong_is_no_misuse) {
    Fixture f;

    CHECK(f.copy(f.address) == Result::kSuccess);

    CHECK_EQUAL(fake_cuda_counts().misuses, 0);
    CHECK_EQUAL(fake_cuda_counts().unpinned_copies, 1);
}

TEST(counts_what_lives) {
    Fixture f;
    f.pin();
    Event event = nullptr;
    CHECK(f.driver->event_create(&event, 0) == Result::kSuccess);

    const FakeCudaCounts counts = fake_cuda_counts();

    CHECK_EQUAL(counts.contexts, 1);
    CHECK_EQUAL(counts.handles, 1);
    CHECK_EQUAL(counts.reservations, 1);
    CHECK_EQUAL(counts.mappings, 1);
    CHECK_EQUAL(counts.streams, 1);
    CHECK_EQUAL(counts.events, 1);
    CHECK_EQUAL(counts.registrations, 1);
}

TEST(sees_copies_beyond_a_mapping) {
    Fixture f;

    CHECK(f.copy(f.address + kSize - 999) == Result::kInvalidValue);

    CHECK_EQUAL(Fixture::misuse(), "a copy goes where no memory is mapped");
}

TEST(sees_copies_into_memory_that_was_unmapped) {
    Fixture f;
    CHECK(f.driver->memory_unmap(f.address, kSize) == Result::kSuccess);

    CHECK(f.copy(f.address) == Result::kInvalidValue);

    CHECK_EQUAL(Fixture::misuse(), "a copy goes where no memory is mapped");
}

TEST(sees_memory_that_is_unmapped_too_early) {
    Fixture f;
    fake_cuda_set_bandwidth(0, 1e5);
    CHECK(f.copy(f.address) == Result::kSuccess);

    CHECK(f.driver->memory_unmap(f.address, kSize) == Result::kSuccess);
    CHECK(f.driver->stream_synchronize(f.stream) == Result::kSuccess);

    CHECK_EQUAL(Fixture::misuse(), "memory was unmapped before a copy into it was done");
}

TEST(sees_memory_that_is_unregistered_too_early) {
    Fixture f;
    fake_cuda_set_bandwidth(0, 1e5);
    f.pin();
    CHECK(f.copy(f.address) == Result::kSuccess);

    CHECK(f.driver->host_unregister(f.source.data()) == Result::kSuccess);

    CHECK_EQUAL(Fixture::misuse(), "memory is unregistered before a copy from it is done");
}

TEST(refuses_memory_that_is_registered_in_part) {
    Fixture f;
    CHECK(f.driver->host_register(f.source.data(), 500, kHostRegisterPortable) == Result::kSuccess);

    CHECK(f.copy(f.address) == Result::kInvalidValue);
}

TEST(sees_what_is_given_back_twice) {
    Fixture f;
    const auto driver = f.driver;
    CHECK(driver->memory_unmap(f.address, kSize) == Result::kSuccess);
    CHECK(driver->memory_release(f.handle) == Result::kSuccess);
    CHECK(driver->address_free(f.address, kSize) == Result::kSuccess);

    (void)driver->memory_unmap(f.address, kSize);
    (void)driver->memory_release(f.handle);
    (void)driver->address_free(f.address, kSize);
    (void)driver->host_unregister(f.source.data());
    (void)driver->event_destroy(nullptr);

    CHECK_EQUAL(fake_cuda_counts().misuses, 5);
}

TEST(sees_contexts_that_are_not_left) {
    Fixture f;

    std::thread([&] { (void)f.driver->context_push(f.context); }).join();

    CHECK_EQUAL(Fixture::misuse(), "a thread ended in a context");
}

TEST(sees_contexts_that_are_left_or_released_too_often) {
    Fixture f;

    std::thread([&] {
        Context popped = nullptr;
        (void)f.driver->context_pop(&popped);
    }).join();
    CHECK_EQUAL(Fixture::misuse(), "a context is left that was not entered");
    (void)f.driver->primary_context_release(0);
    CHECK_EQUAL(Fixture::misuse(), "a context is released while it has streams or events");
    (void)f.driver->primary_context_release(0);
    CHECK_EQUAL(Fixture::misuse(), "a context is released more often than it was retained");
}

TEST(calls_need_a_context) {
    const Fixture f;
    Result result = Result::kSuccess;

    std::thread([&] {
        Stream stream = nullptr;
        result = f.driver->stream_create(&stream, kStreamNonBlocking);
    }).join();

    CHECK(result == Result::kInvalidContext);
}
