#include <cstdlib>
#include <string>
#include <vector>

#include "check.hpp"
#include "fake_driver.hpp"
#include "pilotlight/native/devices.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;

namespace {

std::vector<std::string> available_names() {
    std::vector<std::string> names;
    for (const DeviceInfo& info : available_devices()) {
        names.push_back(info.name);
    }
    return names;
}

}  // namespace

TEST(lists_the_cpu_and_the_gpus) {
    const FakeDriver fake(2, std::size_t{64} << 20);

    const std::vector<DeviceInfo> found = available_devices();

    CHECK(available_names() == (std::vector<std::string>{"cpu", "cuda:0", "cuda:1"}));
    CHECK(found[0].total_bytes > 0);
    CHECK_EQUAL(found[2].model, "Fake 1");
    CHECK_EQUAL(found[2].total_bytes, std::size_t{64} << 20);
    FakeDriver::check_clean();
}

TEST(lists_the_cpu_alone_where_there_is_no_gpu) {
    const FakeDriver fake(0);

    CHECK(available_names() == std::vector<std::string>{"cpu"});
}

TEST(lists_the_cpu_alone_where_there_is_no_driver) {
    ::setenv("PILOTLIGHT_CUDA_LIBRARY", "/no/such/driver.so", 1);

    CHECK(available_names() == std::vector<std::string>{"cpu"});
}

TEST(opens_devices_by_their_names) {
    const FakeDriver fake;

    for (const std::string name : {"cpu", "cuda:0", "cuda:1"}) {
        CHECK_EQUAL(open_device(name)->name(), name);
    }
    CHECK_EQUAL(open_device("cuda")->name(), "cuda:0");
    FakeDriver::check_clean();
}

TEST(a_device_is_one_object_while_it_is_held) {
    const FakeDriver fake;
    const auto device = open_device("cuda:0");

    CHECK(open_device("cuda") == device);
    CHECK(open_device("cuda:1") != device);
    CHECK_EQUAL(fake_cuda_counts().contexts, 1);
}

TEST(refuses_other_names) {
    const FakeDriver fake;

    for (const std::string name :
         {"", "tpu", "cuda:", "cuda:-1", "cuda:1x", "CPU", "cuda:99999999999"}) {
        const auto error = CHECK_THROWS(DeviceUnavailable, open_device(name));
        CHECK_EQUAL(error.device, name);
    }
}

TEST(refuses_numbers_that_no_device_has) {
    const FakeDriver fake;

    const auto error = CHECK_THROWS(DeviceUnavailable, open_device("cuda:2"));

    CHECK_EQUAL(error.device, "cuda:2");
    CHECK_EQUAL(error.reason, "the driver knows 2 devices");
}

TEST(the_cpu_is_there_without_a_driver) {
    ::setenv("PILOTLIGHT_CUDA_LIBRARY", "/no/such/driver.so", 1);

    CHECK_EQUAL(open_device("cpu")->name(), "cpu");
    const auto error = CHECK_THROWS(DeviceUnavailable, open_device("cuda"));
    CHECK(error.reason.starts_with("/no/such/driver.so: "));
}
