#include "calling.hpp"

namespace fake_cuda {

ContextStack::~ContextStack() {
    if (!devices_.empty()) {
        Machine& machine = Machine::instance();
        const std::scoped_lock lock(machine.mutex);
        machine.misuse("a thread ended in a context");
    }
}

std::shared_ptr<Device> ContextStack::pop() {
    std::shared_ptr<Device> device = current();
    if (device) {
        devices_.pop_back();
    }
    return device;
}

}  // namespace fake_cuda
