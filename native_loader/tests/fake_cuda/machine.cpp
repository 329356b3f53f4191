#include "machine.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <utility>

namespace fake_cuda {
namespace {

// Neither an address of the process nor one that anything could be mistaken for.
constexpr DeviceAddress kFirstAddress = DeviceAddress{0xD} << 56;

constexpr const char* kMemfdName = "fake-cuda";

std::span<std::byte> mapped(int fd, std::size_t size) {
    void* bytes = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        return {};
    }
    return {static_cast<std::byte*>(bytes), size};
}

bool is_exported(int fd) {
    std::array<char, 64> target{};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
    const std::string wanted = std::string("/memfd:") + kMemfdName;
    return length > 0 &&
           std::string(target.data(), static_cast<std::size_t>(length)).starts_with(wanted);
}

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

std::vector<std::string> parts(const std::string& text, char separator) {
    std::vector<std::string> found;
    std::istringstream stream(text);
    std::string part;
    while (std::getline(stream, part, separator)) {
        found.push_back(part);
    }
    return found;
}

void configure_by_environment(Machine& machine) {
    for (const std::string& bytes : parts(variable("FAKE_CUDA_DEVICES"), ',')) {
        const int number = static_cast<int>(machine.devices.size());
        machine.devices.push_back(std::make_shared<Device>(number, std::stoull(bytes)));
    }
    const std::string bandwidth = variable("FAKE_CUDA_BANDWIDTH");
    for (const std::shared_ptr<Device>& device : machine.devices) {
        device->bytes_per_second = bandwidth.empty() ? 0.0 : std::stod(bandwidth);
    }
    const std::string delay = variable("FAKE_CUDA_EVENT_DELAY");
    machine.event_delay = std::chrono::microseconds(delay.empty() ? 0 : std::stoll(delay));
    for (const std::string& failure : parts(variable("FAKE_CUDA_FAIL"), ',')) {
        const std::vector<std::string> fields = parts(failure, ':');
        const std::int64_t nth = std::stoll(fields.at(1));
        machine.failures.emplace(
            fields.at(0),
            Failure{
                .first = nth, .last = nth, .code = static_cast<Result>(std::stoi(fields.at(2)))});
    }
}

}  // namespace

std::shared_ptr<Physical> Physical::create(std::shared_ptr<Device> device, std::size_t size,
                                           bool is_exportable) {
    Descriptor memfd(::memfd_create(kMemfdName, MFD_CLOEXEC));
    if (!memfd || ::ftruncate(memfd.get(), static_cast<off_t>(size)) != 0) {
        return nullptr;
    }
    const std::span<std::byte> bytes = mapped(memfd.get(), size);
    if (bytes.empty()) {
        return nullptr;
    }
    device->used_bytes += size;
    return std::make_shared<Physical>(std::move(device), std::move(memfd), bytes, is_exportable);
}

std::shared_ptr<Physical> Physical::imported(int fd) {
    struct stat status{};
    if (!is_exported(fd) || ::fstat(fd, &status) != 0) {
        return nullptr;
    }
    Descriptor memfd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    const std::span<std::byte> bytes = mapped(fd, static_cast<std::size_t>(status.st_size));
    if (!memfd || bytes.empty()) {
        return nullptr;
    }
    return std::make_shared<Physical>(nullptr, std::move(memfd), bytes, true);
}

Physical::~Physical() {
    ::munmap(bytes_.data(), bytes_.size());
    if (owner_) {
        owner_->used_bytes -= bytes_.size();
    }
}

int Physical::exported() const {
    return ::fcntl(memfd_.get(), F_DUPFD, 0);
}

Stream::Stream(std::shared_ptr<Device> device)
    : device_(std::move(device)), thread_([this] { run(); }) {}

Stream::~Stream() {
    {
        const std::scoped_lock lock(mutex_);
        is_ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void Stream::add(std::function<void()> work) {
    {
        const std::scoped_lock lock(mutex_);
        work_.push_back(std::move(work));
    }
    changed_.notify_all();
}

void Stream::wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return work_.empty() && !is_busy_; });
}

void Stream::run() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return !work_.empty() || is_ending_; });
        if (work_.empty()) {
            return;
        }
        const std::function<void()> work = std::move(work_.front());
        work_.pop_front();
        is_busy_ = true;
        lock.unlock();
        work();
        lock.lock();
        is_busy_ = false;
        changed_.notify_all();
    }
}

Machine& Machine::instance() {
    static Machine machine;
    static std::once_flag configured;
    std::call_once(configured, [] {
        machine.reset(0, 0);
        configure_by_environment(machine);
    });
    return machine;
}

void Machine::reset(int n_devices, std::size_t bytes_of_each) {
    // What streams do ends before they do, and takes the mutex.
    std::map<std::uint64_t, std::shared_ptr<Stream>> ending;
    {
        const std::scoped_lock lock(mutex);
        ending.swap(streams);
    }
    ending.clear();
    const std::scoped_lock lock(mutex);
    devices.clear();
    for (int number = 0; number < n_devices; ++number) {
        devices.push_back(std::make_shared<Device>(number, bytes_of_each));
    }
    handles.clear();
    reservations.clear();
    mappings.clear();
    registrations.clear();
    events.clear();
    n_calls.clear();
    failures.clear();
    copies.clear();
    last_misuse.clear();
    n_misuses = 0;
    n_unpinned_copies = 0;
    next_address = kFirstAddress;
    event_delay = {};
    max_pitch = std::numeric_limits<int>::max();
    is_exportable = true;
    has_virtual_memory = true;
}

void Machine::misuse(const std::string& what) {
    ++n_misuses;
    last_misuse = what;
}

Result Machine::called(const std::string& function) {
    const std::int64_t number = ++n_calls[function];
    const auto [begin, end] = failures.equal_range(function);
    for (auto found = begin; found != end; ++found) {
        if (found->second.first <= number && number <= found->second.last) {
            return found->second.code;
        }
    }
    return Result::kSuccess;
}

}  // namespace fake_cuda
