#include "pilotlight/native/cuda_pins.hpp"

#include <exception>

namespace pilotlight::native::cuda {
namespace {

bool is_registered(const PrimaryContext& context, std::span<std::byte> memory) noexcept {
    try {
        const Current current(context);
        return context.driver().host_register(memory.data(), memory.size(),
                                              kHostRegisterPortable) == Result::kSuccess;
    } catch (const std::exception&) {
        return false;
    }
}

// What the driver does not let go of now goes when the process ends.
void unregister(const PrimaryContext& context, std::span<std::byte> memory) noexcept {
    try {
        const Current current(context);
        (void)context.driver().host_unregister(memory.data());
    } catch (const std::exception&) {
        return;
    }
}

}  // namespace

Pins& Pins::of_this_process() {
    static Pins pins;
    return pins;
}

bool Pins::add(const std::shared_ptr<const PrimaryContext>& context,
               std::span<std::byte> memory) noexcept {
    const std::scoped_lock lock(mutex_);
    try {
        const auto [pin, is_new] = pins_.try_emplace(Range{memory.data(), memory.size()});
        if (is_new && !is_registered(*context, memory)) {
            pins_.erase(pin);
            return false;
        }
        if (is_new) {
            pin->second.context = context;
        }
        ++pin->second.n_wanted;
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

void Pins::remove(std::span<std::byte> memory) noexcept {
    const std::scoped_lock lock(mutex_);
    const auto found = pins_.find(Range{memory.data(), memory.size()});
    if (found == pins_.end() || --found->second.n_wanted > 0) {
        return;
    }
    unregister(*found->second.context, memory);
    pins_.erase(found);
}

}  // namespace pilotlight::native::cuda
