// Copies of the fake driver.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "machine.hpp"

namespace fake_cuda {

/// A copy to a device, of one row or several.
struct Copy {
    const std::byte* from = nullptr;
    std::size_t from_stride = 0;
    DeviceAddress to = 0;
    std::size_t to_stride = 0;
    std::size_t length = 0;
    std::size_t n_rows = 1;
};

/// Have a stream do it when its turn comes. The machine is locked.
[[nodiscard]] Result begin_copy(Machine& machine, Stream& stream, const Copy& copy);

/// The mapping that holds the whole range; null where none does. The machine is locked.
[[nodiscard]] std::shared_ptr<Mapping> mapping_of(const Machine& machine, DeviceAddress address,
                                                  std::size_t size);

}  // namespace fake_cuda
