#include "pilotlight/native/cuda_driver.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "pilotlight/native/error.hpp"

namespace pilotlight::native::cuda {
namespace {

std::string driver_path() {
    const char* named = std::getenv("PILOTLIGHT_CUDA_LIBRARY");
    return named == nullptr || *named == '\0' ? "libcuda.so.1" : named;
}

std::string last_error() {
    const char* error = ::dlerror();
    return error == nullptr ? "the CUDA driver can't be loaded" : error;
}

}  // namespace

Library::Library(std::string path)
    : path_(std::move(path)), handle_(::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
        throw DeviceUnavailable("cuda", last_error());
    }
}

void* Library::symbol(const char* name) const {
    void* found = ::dlsym(handle_, name);
    if (found == nullptr) {
        throw DeviceUnavailable("cuda", path_ + " has no " + name);
    }
    return found;
}

std::shared_ptr<const Driver> Driver::of_this_machine() {
    static std::mutex mutex;
    static std::map<std::string, std::shared_ptr<const Driver>> loaded;
    const std::scoped_lock lock(mutex);
    const std::string path = driver_path();
    const auto found = loaded.find(path);
    if (found != loaded.end()) {
        return found->second;
    }
    return loaded[path] = std::make_shared<const Driver>(path);
}

std::string Driver::name_of(Result result) const {
    const char* name = nullptr;
    if (get_error_name(result, &name) != Result::kSuccess || name == nullptr) {
        return "CUDA error " + std::to_string(static_cast<int>(result));
    }
    return name;
}

}  // namespace pilotlight::native::cuda
