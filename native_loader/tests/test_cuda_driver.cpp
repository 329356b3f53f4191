#include <cstdlib>
#include <string>

#include "check.hpp"
#include "fake_driver.hpp"
#include "pilotlight/native/cuda_driver.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;
using cuda::Driver;
using cuda::Result;

TEST(says_which_library_is_missing) {
    const auto error = CHECK_THROWS(DeviceUnavailable, Driver("libno_such_driver.so.1"));

    CHECK(error.reason.starts_with("libno_such_driver.so.1: "));
}

TEST(says_which_call_a_library_lacks) {
    const auto error = CHECK_THROWS(DeviceUnavailable, Driver("libm.so.6"));

    CHECK_EQUAL(error.reason, "libm.so.6 has no cuInit");
}

TEST(the_environment_names_the_library) {
    const FakeDriver fake;

    const auto driver = Driver::of_this_machine();

    CHECK(driver == Driver::of_this_machine());
    CHECK(driver->init(0) == Result::kSuccess);
    CHECK_EQUAL(fake_cuda_n_calls("cuInit"), 1);
}

TEST(a_library_that_is_not_there_can_come_later) {
    ::setenv("PILOTLIGHT_CUDA_LIBRARY", "/no/such/driver.so", 1);
    (void)CHECK_THROWS(DeviceUnavailable, Driver::of_this_machine());

    const FakeDriver fake;

    CHECK(Driver::of_this_machine() != nullptr);
}

TEST(names_errors_as_the_driver_does) {
    const FakeDriver fake;

    const auto driver = Driver::of_this_machine();

    CHECK_EQUAL(driver->name_of(Result::kOutOfMemory), "CUDA_ERROR_OUT_OF_MEMORY");
    CHECK_EQUAL(driver->name_of(static_cast<Result>(12'345)), "CUDA error 12345");
}
