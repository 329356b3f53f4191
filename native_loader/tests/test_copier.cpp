#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "files.hpp"
#include "pilotlight/native/copier.hpp"
#include "pilotlight/native/error.hpp"
#include "wrapped_device.hpp"

using namespace pilotlight::native;

namespace {

constexpr std::chrono::seconds kDeadline{30};

// What happens on a scripted device, and what is to happen. Thread-safe.
class Script {
  public:
    void note(const std::string& what) {
        const std::scoped_lock lock(mutex_);
        events_.push_back(what);
        changed_.notify_all();
    }
    void wait_for(const std::string& what) {
        std::unique_lock lock(mutex_);
        CHECK(changed_.wait_for(lock, kDeadline,
                                [&] { return std::ranges::find(events_, what) != events_.end(); }));
    }
    [[nodiscard]] std::vector<std::string> events() {
        const std::scoped_lock lock(mutex_);
        return events_;
    }
    /// Let `n` more marks be reached.
    void reach(int n) {
        const std::scoped_lock lock(mutex_);
        n_reachable_ += n;
        changed_.notify_all();
    }
    void take_mark() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return n_reachable_ > 0; });
        --n_reachable_;
    }
    void fail(const std::string& what) {
        const std::scoped_lock lock(mutex_);
        failing_.push_back(what);
    }
    void note_or_throw(const std::string& what) {
        note(what);
        const std::scoped_lock lock(mutex_);
        if (std::ranges::find(failing_, what) != failing_.end()) {
            throw DeviceFailed("scripted", what, "CODE");
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::string> events_;
    std::vector<std::string> failing_;
    int n_reachable_ = 0;
};

class ScriptedMark final : public CopyMark {
  public:
    ScriptedMark(Script& script, std::string job) : script_(script), job_(std::move(job)) {}
    void wait() override {
        script_.note("wait " + job_);
        script_.take_mark();
        script_.note_or_throw("reached " + job_);
    }

  private:
    Script& script_;
    const std::string job_;
};

// Jobs are known by the size of their source.
class ScriptedQueue final : public CopyQueue {
  public:
    explicit ScriptedQueue(Script& script) : script_(script) {}
    void copy(const DeviceMemory& /*into*/, std::span<const std::byte> from,
              std::span<const CopySpan> /*spans*/) override {
        job_ = std::to_string(from.size());
        script_.note_or_throw("copy " + job_);
    }
    std::unique_ptr<CopyMark> mark() override {
        script_.note_or_throw("mark " + job_);
        return std::make_unique<ScriptedMark>(script_, job_);
    }
    void drain() noexcept override { script_.note("drain"); }

  private:
    Script& script_;
    std::string job_;
};

class ScriptedDevice final : public WrappedDevice {
  public:
    explicit ScriptedDevice(Script& script) : WrappedDevice("scripted"), script_(script) {}
    std::unique_ptr<CopyQueue> make_queue() override {
        return std::make_unique<ScriptedQueue>(script_);
    }

  private:
    Script& script_;
};

struct Fixture {
    Script script;
    std::shared_ptr<ScriptedDevice> device = std::make_shared<ScriptedDevice>(script);
    std::shared_ptr<DeviceMemory> memory = device->allocate(100);
    std::vector<std::byte> source{100};
    std::mutex mutex;
    std::vector<std::pair<std::size_t, CopyResult>> results;

    CopyJob job(std::size_t number) {
        return {.into = memory,
                .from = std::span(source).first(number),
                .spans = {},
                .done = [this, number](CopyResult result) {
                    script.note("done " + std::to_string(number));
                    const std::scoped_lock lock(mutex);
                    results.emplace_back(number, std::move(result));
                }};
    }

    // Only once the copier is gone.
    std::string failure_of(std::size_t number) {
        for (const auto& [of, result] : results) {
            if (of == number && result.failure) {
                try {
                    std::rethrow_exception(result.failure);
                } catch (const DeviceFailed& error) {
                    return error.call;
                }
            }
        }
        return "";
    }
};

}  // namespace

TEST(keeps_as_many_jobs_in_flight_as_it_may) {
    Fixture f;
    std::vector<std::string> before;
    {
        Copier copier(f.device, 2);
        for (std::size_t number = 1; number <= 3; ++number) {
            copier.submit(f.job(number));
        }
        f.script.wait_for("mark 2");
        f.script.wait_for("wait 1");
        before = f.script.events();
        f.script.reach(3);
    }

    CHECK(std::ranges::find(before, "copy 3") == before.end());
    const std::vector<std::string> after = f.script.events();
    CHECK(std::ranges::find(after, "reached 1") < std::ranges::find(after, "copy 3"));
    CHECK_EQUAL(f.results.size(), 3u);
}

TEST(begins_a_job_while_another_is_under_way) {
    Fixture f;
    {
        Copier copier(f.device, 2);
        copier.submit(f.job(1));
        f.script.wait_for("wait 1");

        copier.submit(f.job(2));

        f.script.wait_for("mark 2");
        f.script.reach(2);
    }
    CHECK_EQUAL(f.results.size(), 2u);
}

TEST(ends_jobs_in_the_order_of_their_submission) {
    Fixture f;
    f.script.reach(50);
    {
        Copier copier(f.device, 4);
        for (std::size_t number = 1; number <= 50; ++number) {
            copier.submit(f.job(number));
        }
    }

    CHECK_EQUAL(f.results.size(), 50u);
    for (std::size_t i = 0; i < 50; ++i) {
        CHECK_EQUAL(f.results[i].first, i + 1);
    }
}

TEST(says_when_a_job_began_and_ended) {
    Fixture f;
    f.script.reach(1);
    const auto before = std::chrono::steady_clock::now();

    {
        Copier(f.device, 1).submit(f.job(1));
    }

    const CopyResult& result = f.results.at(0).second;
    CHECK(before <= result.started && result.started <= result.ended);
    CHECK(result.ended <= std::chrono::steady_clock::now());
    CHECK(!result.failure);
}

TEST(a_job_that_fails_fails_alone) {
    for (const std::string stage : {"copy", "mark", "reached"}) {
        Fixture f;
        f.script.reach(3);
        f.script.fail(stage + " 2");
        {
            Copier copier(f.device, 2);
            for (std::size_t number = 1; number <= 3; ++number) {
                copier.submit(f.job(number));
            }
        }

        CHECK_EQUAL(f.results.size(), 3u);
        CHECK_EQUAL(f.failure_of(1), "");
        CHECK_EQUAL(f.failure_of(2), stage + " 2");
        CHECK_EQUAL(f.failure_of(3), "");
    }
}

TEST(a_job_that_fails_is_done_when_nothing_is_copied_any_more) {
    Fixture f;
    f.script.fail("copy 1");

    {
        Copier(f.device, 1).submit(f.job(1));
    }

    CHECK(f.script.events() == (std::vector<std::string>{"copy 1", "drain", "done 1"}));
}

TEST(a_device_that_fails_for_good_answers_every_job) {
    Fixture f;
    for (std::size_t number = 1; number <= 50; ++number) {
        f.script.fail("copy " + std::to_string(number));
    }
    {
        Copier copier(f.device, 4);
        for (std::size_t number = 1; number <= 50; ++number) {
            copier.submit(f.job(number));
        }
    }

    CHECK_EQUAL(f.results.size(), 50u);
    for (std::size_t i = 0; i < 50; ++i) {
        CHECK_EQUAL(f.results[i].first, i + 1);
        CHECK(f.results[i].second.failure != nullptr);
    }
}

TEST(takes_jobs_from_many_threads) {
    const auto device = std::make_shared<CpuDevice>();
    constexpr std::size_t kThreads = 4;
    constexpr std::size_t kJobs = 50;
    constexpr std::size_t kBytes = 1000;
    const auto memory = device->allocate(kThreads * kJobs * kBytes);
    const std::vector<std::byte> source = random_bytes(memory->size_bytes());
    std::vector<std::vector<CopySpan>> spans(kThreads * kJobs);
    std::atomic<std::size_t> n_done = 0;
    {
        Copier copier(device, 3);
        std::vector<std::thread> threads;
        for (std::size_t thread = 0; thread < kThreads; ++thread) {
            threads.emplace_back([&, thread] {
                for (std::size_t i = thread * kJobs; i < (thread + 1) * kJobs; ++i) {
                    spans[i] = {{.from = 0, .to = i * kBytes, .length = kBytes}};
                    copier.submit({.into = memory,
                                   .from = std::span(source).subspan(i * kBytes, kBytes),
                                   .spans = spans[i],
                                   .done = [&](const CopyResult& result) {
                                       CHECK(!result.failure);
                                       ++n_done;
                                   }});
                }
            });
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
    }

    CHECK_EQUAL(n_done.load(), kThreads * kJobs);
    std::vector<std::byte> held(memory->size_bytes());
    device->read(*memory, 0, held);
    CHECK(held == source);
}

TEST(jobs_that_make_no_sense_fail_alone) {
    const auto device = std::make_shared<CpuDevice>();
    const auto memory = device->allocate(10);
    const std::vector<std::byte> source(10);
    const std::vector<CopySpan> beyond{{.length = 11}};
    std::exception_ptr failure;
    {
        Copier copier(device, 1);
        copier.submit({.into = memory,
                       .from = source,
                       .spans = beyond,
                       .done = [&](const CopyResult& result) { failure = result.failure; }});
    }

    (void)CHECK_THROWS(std::out_of_range, std::rethrow_exception(failure));
}

TEST(a_job_lets_go_of_its_memory_once_it_is_done) {
    Fixture f;
    f.script.reach(1);
    std::weak_ptr<DeviceMemory> memory = f.memory;

    Copier copier(f.device, 1);
    CopyJob job = f.job(1);
    f.memory.reset();
    std::promise<void> done;
    job.done = [&](const CopyResult&) { done.set_value(); };
    copier.submit(std::move(job));

    CHECK(done.get_future().wait_for(kDeadline) == std::future_status::ready);
    const auto deadline = std::chrono::steady_clock::now() + kDeadline;
    while (!memory.expired() && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
    }
    CHECK(memory.expired());
}

TEST(has_room_for_at_least_one_job) {
    Fixture f;

    (void)CHECK_THROWS(std::invalid_argument, Copier(f.device, 0));
}
