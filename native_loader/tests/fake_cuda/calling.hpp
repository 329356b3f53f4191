// What every function of the fake driver begins with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "machine.hpp"

namespace fake_cuda {

/// The contexts that a thread has entered, the current one last.
class ContextStack {
  public:
    [[nodiscard]] static ContextStack& of_this_thread() {
        thread_local ContextStack stack;
        return stack;
    }
    ~ContextStack();

    void push(std::shared_ptr<Device> device) { devices_.push_back(std::move(device)); }
    /// Null where there is none.
    std::shared_ptr<Device> pop();
    [[nodiscard]] std::shared_ptr<Device> current() const {
        return devices_.empty() ? nullptr : devices_.back();
    }

  private:
    std::vector<std::shared_ptr<Device>> devices_;
};

/// One call: counted, the machine locked.
class Entered {
  public:
    explicit Entered(const char* function)
        : machine(Machine::instance()),
          device(ContextStack::of_this_thread().current()),
          lock_(machine.mutex),
          result_(machine.called(function)) {}

    /// What it is to fail with before it does anything.
    [[nodiscard]] Result result() const noexcept { return result_; }
    /// The same of a call that needs a context, whose device may have failed for good.
    [[nodiscard]] Result result_in_context() const noexcept {
        if (!device) {
            return Result::kInvalidContext;
        }
        const Result failure = device->failure;
        return failure == Result::kSuccess ? result_ : failure;
    }
    void unlock() { lock_.unlock(); }

    Machine& machine;
    const std::shared_ptr<Device> device;  ///< of the current context

  private:
    std::unique_lock<std::mutex> lock_;
    const Result result_;
};

/// Handles are numbers that look like pointers.
template <typename Handle>
std::uint64_t id_of(Handle handle) {
    return reinterpret_cast<std::uintptr_t>(handle);
}

template <typename Handle>
Handle handle_of(std::uint64_t id) {
    return reinterpret_cast<Handle>(id);
}

/// Null where there is none.
template <typename Key, typename Value>
std::shared_ptr<Value> found(const std::map<Key, std::shared_ptr<Value>>& all, Key key) {
    const auto place = all.find(key);
    return place == all.end() ? nullptr : place->second;
}

/// The same, and take it out.
template <typename Key, typename Value>
std::shared_ptr<Value> taken(std::map<Key, std::shared_ptr<Value>>& all, Key key) {
    std::shared_ptr<Value> value = found(all, key);
    all.erase(key);
    return value;
}

}  // namespace fake_cuda
