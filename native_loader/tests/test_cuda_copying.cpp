// Copiers over the fake driver: copies overlap, and whatever fails, every job is answered.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "check.hpp"
#include "fake_driver.hpp"
#include "files.hpp"
#include "pilotlight/native/copier.hpp"
#include "pilotlight/native/cuda_device.hpp"
#include "pilotlight/native/error.hpp"

using namespace pilotlight::native;
using cuda::Result;

namespace {

constexpr std::size_t kChunk = std::size_t{256} << 10;

std::int64_t now_ns() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Answer {
    std::size_t job = 0;
    std::string failed_call;  ///< "" where it did not
    std::string code;
    std::int64_t at_ns = 0;
};

Answer answer_of(std::size_t job, const CopyResult& result) {
    Answer answer{.job = job, .failed_call = "", .code = "", .at_ns = now_ns()};
    try {
        if (result.failure) {
            std::rethrow_exception(result.failure);
        }
    } catch (const DeviceFailed& error) {
        answer.failed_call = error.call;
        answer.code = error.code;
    }
    return answer;
}

// A device's link, with pinned memory to copy from: each job copies a chunk of it.
class Lane {
  public:
    Lane(int device, std::size_t n_chunks)
        : source_(random_bytes(n_chunks * kChunk, static_cast<unsigned>(device) + 1)),
          spans_(n_chunks),
          device_(std::make_shared<CudaDevice>(device)),
          memory_(device_->allocate(source_.size())) {
        CHECK(device_->pin(source_));
        for (std::size_t i = 0; i < n_chunks; ++i) {
            spans_[i] = {{.from = 0, .to = i * kChunk, .length = kChunk}};
        }
    }
    ~Lane() { device_->unpin(source_); }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    void submit_to(Copier& copier) {
        for (std::size_t i = 0; i < spans_.size(); ++i) {
            copier.submit({.into = memory_,
                           .from = std::span(source_).subspan(i * kChunk, kChunk),
                           .spans = spans_[i],
                           .done = [this, i](const CopyResult& result) {
                               const std::scoped_lock lock(mutex_);
                               answers_.push_back(answer_of(i, result));
                           }});
        }
    }

    /// Copy all of it, and wait.
    void copy(std::size_t n_in_flight = 3) {
        Copier copier(device_, n_in_flight);
        submit_to(copier);
    }

    [[nodiscard]] const std::shared_ptr<CudaDevice>& device() const noexcept { return device_; }

    // Only after the copier's end.
    [[nodiscard]] const std::vector<Answer>& answers() const noexcept { return answers_; }
    [[nodiscard]] bool arrived() {
        std::vector<std::byte> held(source_.size());
        device_->read(*memory_, 0, held);
        return held == source_;
    }
    [[nodiscard]] std::vector<std::size_t> failed() const {
        std::vector<std::size_t> jobs;
        for (const Answer& answer : answers_) {
            if (!answer.failed_call.empty()) {
                jobs.push_back(answer.job);
            }
        }
        return jobs;
    }

  private:
    std::vector<std::byte> source_;
    std::vector<std::vector<CopySpan>> spans_;
    const std::shared_ptr<CudaDevice> device_;
    const std::shared_ptr<DeviceMemory> memory_;
    std::mutex mutex_;
    std::vector<Answer> answers_;
};

}  // namespace

TEST(copies_chunks_in_order_and_asynchronously) {
    const FakeDriver fake;
    fake_cuda_set_event_delay(200'000);
    {
        Lane lane(0, 20);
        lane.copy();

        CHECK(lane.arrived());
        CHECK_EQUAL(lane.answers().size(), 20u);
        for (std::size_t i = 0; i < 20; ++i) {
            CHECK_EQUAL(lane.answers()[i].job, i);
        }
        CHECK_EQUAL(fake_cuda_counts().unpinned_copies, 0);
    }
    FakeDriver::check_clean();
}

TEST(a_job_is_done_only_when_its_copy_is) {
    const FakeDriver fake;
    fake_cuda_set_bandwidth(0, 200e6);
    {
        Lane lane(0, 6);
        lane.copy();

        const std::vector<FakeCudaCopy> copies = FakeDriver::copies();
        for (std::size_t i = 0; i < 6; ++i) {
            CHECK(lane.answers()[i].at_ns >= copies[i].end_ns);
        }
    }
    FakeDriver::check_clean();
}

TEST(copies_to_several_devices_overlap) {
    constexpr int kDevices = 3;
    constexpr std::size_t kChunks = 12;
    const FakeDriver fake(kDevices);
    for (int device = 0; device < kDevices; ++device) {
        fake_cuda_set_bandwidth(device, 50e6);
    }
    {
        std::vector<std::unique_ptr<Lane>> lanes;
        std::vector<std::unique_ptr<Copier>> copiers;
        for (int device = 0; device < kDevices; ++device) {
            lanes.push_back(std::make_unique<Lane>(device, kChunks));
            copiers.push_back(std::make_unique<Copier>(lanes.back()->device(), 3));
        }
        for (std::size_t i = 0; i < lanes.size(); ++i) {
            lanes[i]->submit_to(*copiers[i]);
        }
        copiers.clear();

        std::array<std::int64_t, kDevices> begin{};
        std::array<std::int64_t, kDevices> end{};
        begin.fill(std::numeric_limits<std::int64_t>::max());
        for (const FakeCudaCopy& copy : FakeDriver::copies()) {
            const auto device = static_cast<std::size_t>(copy.device);
            begin[device] = std::min(begin[device], copy.begin_ns);
            end[device] = std::max(end[device], copy.end_ns);
        }
        // Each link is busy for 12 x 5.2 ms; all were so at the same time for most of that.
        const std::int64_t together =
            *std::ranges::min_element(end) - *std::ranges::max_element(begin);
        const auto each = static_cast<std::int64_t>(kChunks * kChunk / 50e6 * 1e9);
        CHECK(together > each / 2);
        for (const std::unique_ptr<Lane>& lane : lanes) {
            CHECK(lane->arrived());
        }
    }
    FakeDriver::check_clean();
}

TEST(a_call_that_fails_fails_one_job) {
    const std::array calls{"cuMemcpyHtoDAsync_v2", "cuEventCreate", "cuEventRecord",
                           "cuEventSynchronize"};
    for (const char* call : calls) {
        const FakeDriver fake;
        {
            Lane lane(0, 8);
            FakeDriver::fail(call, 3);
            lane.copy();

            CHECK_EQUAL(lane.answers().size(), 8u);
            CHECK(lane.failed() == std::vector<std::size_t>{2});
            CHECK_EQUAL(lane.answers()[2].failed_call, call);
        }
        FakeDriver::check_clean();
    }
}

TEST(a_job_that_fails_is_done_when_its_source_is_not_read_any_more) {
    for (const char* call : {"cuEventRecord", "cuEventSynchronize"}) {
        const FakeDriver fake;
        fake_cuda_set_bandwidth(0, 50e6);
        {
            Lane lane(0, 3);
            FakeDriver::fail(call);
            lane.copy();

            const std::vector<FakeCudaCopy> copies = FakeDriver::copies();
            CHECK_EQUAL(copies.size(), 3u);
            CHECK(lane.answers().at(0).at_ns >= copies[0].end_ns);
            CHECK(lane.failed() == std::vector<std::size_t>{0});
        }
        FakeDriver::check_clean();
    }
}

TEST(a_context_that_can_not_be_entered_fails_those_jobs) {
    const FakeDriver fake;
    {
        Lane lane(0, 8);
        {
            Copier copier(lane.device(), 1);
            FakeDriver::fail("cuCtxPushCurrent_v2", 1, Result::kUnknown, 3);
            lane.submit_to(copier);
        }

        CHECK_EQUAL(lane.answers().size(), 8u);
        CHECK(!lane.failed().empty());
        CHECK(lane.failed().size() < 8);
    }
    FakeDriver::check_clean();
}

TEST(a_device_that_breaks_while_it_copies_answers_every_job) {
    const FakeDriver fake;
    {
        Lane lane(0, 20);
        FakeDriver::fail("copy", 5, Result::kEccUncorrectable);
        lane.copy();

        CHECK_EQUAL(lane.answers().size(), 20u);
        const std::vector<std::size_t> failed = lane.failed();
        CHECK(failed.size() >= 16u);
        CHECK_EQUAL(lane.answers().back().code, "CUDA_ERROR_ECC_UNCORRECTABLE");
        (void)CHECK_THROWS(DeviceFailed, lane.device()->allocate(1));
        (void)CHECK_THROWS(DeviceFailed, lane.device()->make_queue());
    }
    const FakeCudaCounts counts = fake_cuda_counts();
    CHECK_EQUAL(counts.mappings, 0);
    CHECK_EQUAL(counts.handles, 0);
    CHECK_EQUAL(counts.contexts, 0);
    CHECK_EQUAL(counts.registrations, 0);
}

TEST(a_broken_device_takes_no_other_with_it) {
    const FakeDriver fake;
    {
        Lane broken(0, 10);
        Lane whole(1, 10);
        fake_cuda_break(0, static_cast<int>(Result::kIllegalAddress));
        whole.copy();
        CHECK(whole.failed().empty());
        CHECK(whole.arrived());
        (void)CHECK_THROWS(DeviceFailed, broken.copy());
    }
}
