#include "pilotlight/native/copier.hpp"

#include <stdexcept>
#include <system_error>
#include <utility>

#include "pilotlight/native/error.hpp"
#include "pilotlight/native/rehearsal.hpp"

namespace pilotlight::native {
namespace {

// In the member list, so that nothing is begun for a copier that can't be.
std::size_t checked(std::size_t n_in_flight) {
    if (n_in_flight == 0) {
        throw std::invalid_argument("a copier has at least one job in flight");
    }
    return n_in_flight;
}

}  // namespace

Copier::Copier(std::shared_ptr<Device> device, std::size_t n_in_flight)
    : device_(std::move(device)),
      n_in_flight_(checked(n_in_flight)),
      queue_(device_->make_queue()) {
    running_.reserve(n_in_flight);
    try {
        begins_ = std::thread([this] { begin_jobs(); });
        ends_ = std::thread([this] { end_jobs(); });
    } catch (const std::system_error& error) {
        close();
        throw MemoryRefused("a thread", error.code().value());
    } catch (...) {
        close();
        throw;
    }
}

Copier::~Copier() {
    close();
}

void Copier::close() noexcept {
    {
        const std::scoped_lock lock(mutex_);
        is_closing_ = true;
    }
    changed_.notify_all();
    for (std::thread* thread : {&begins_, &ends_}) {
        if (thread->joinable()) {
            thread->join();
        }
    }
}

void Copier::submit(CopyJob job) {
    {
        const std::scoped_lock lock(mutex_);
        jobs_.push_back(std::move(job));
    }
    changed_.notify_all();
}

// A thread of its own, so that the link has the next copy at hand while another thread learns
// of the end of the last one.
void Copier::begin_jobs() noexcept {
    rehearse_throwing();
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock,
                      [this] { return jobs_.empty() ? is_closing_ : n_begun_ < n_in_flight_; });
        if (jobs_.empty()) {
            return;
        }
        CopyJob job = std::move(jobs_.front());
        jobs_.pop_front();
        ++n_begun_;
        lock.unlock();
        Running running = begin(std::move(job));
        lock.lock();
        running_.push_back(std::move(running));
        changed_.notify_all();
    }
}

void Copier::end_jobs() noexcept {
    rehearse_throwing();
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] {
            return !running_.empty() || (is_closing_ && jobs_.empty() && n_begun_ == 0);
        });
        if (running_.empty()) {
            return;
        }
        Running running = std::move(running_.front());
        running_.erase(running_.begin());
        lock.unlock();
        end(std::move(running));
        lock.lock();
        --n_begun_;
        changed_.notify_all();
    }
}

Copier::Running Copier::begin(CopyJob job) noexcept {
    Running running{.job = std::move(job), .result = {}, .mark = nullptr};
    running.result.started = std::chrono::steady_clock::now();
    try {
        if (running.job.prepare) {
            running.job.prepare();
            running.result.started = std::chrono::steady_clock::now();
        }
        queue_->copy(*running.job.into, running.job.from, running.job.spans);
        running.mark = queue_->mark();
    } catch (...) {
        running.result.failure = std::current_exception();
    }
    return running;
}

void Copier::end(Running running) noexcept {
    try {
        if (running.mark) {
            running.mark->wait();
        }
    } catch (...) {
        running.result.failure = std::current_exception();
    }
    if (running.result.failure) {
        // Some of its copies may be under way all the same, and nothing else tells of their end.
        queue_->drain();
    }
    running.result.ended = std::chrono::steady_clock::now();
    // Whoever is told of the end may expect the memory to be his alone.
    running.mark.reset();
    running.job.into.reset();
    running.job.done(std::move(running.result));
}

}  // namespace pilotlight::native
