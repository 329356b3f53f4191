#include "pilotlight/native/cuda_context.hpp"

namespace pilotlight::native::cuda {

PrimaryContext::PrimaryContext(std::shared_ptr<const Driver> driver, std::string device,
                               DeviceNumber number)
    : driver_(std::move(driver)), device_(std::move(device)), number_(number) {
    require(driver_->primary_context_retain, &context_, number_);
}

PrimaryContext::~PrimaryContext() {
    (void)driver_->primary_context_release(number_);
}

}  // namespace pilotlight::native::cuda
