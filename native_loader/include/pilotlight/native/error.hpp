// What can go wrong while bytes are moved. The bindings map each class to the
// Python exception of the same name, once and in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace pilotlight::native {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// The kernel did not give memory that the pool was made for.
class MemoryRefused : public Error {
  public:
    MemoryRefused(const std::string& action, int error_number)
        : Error("memory refused"), action(action), error_number(error_number) {}
    std::string action;
    int error_number;
};

class PoolExhausted : public Error {
  public:
    PoolExhausted(std::size_t wanted, std::size_t free, std::size_t cached, std::size_t bound)
        : Error("pool exhausted"), wanted(wanted), free(free), cached(cached), bound(bound) {}
    std::size_t wanted;
    std::size_t free;
    std::size_t cached;
    std::size_t bound;
};

/// A chunk is not in the account that an operation takes it from.
class ChunkStateError : public Error {
  public:
    ChunkStateError(std::uint64_t chunk, std::string expected, std::string actual)
        : Error("wrong chunk state"),
          chunk(chunk),
          expected(std::move(expected)),
          actual(std::move(actual)) {}
    std::uint64_t chunk;
    std::string expected;
    std::string actual;
};

class PoolClosed : public Error {
  public:
    PoolClosed() : Error("pool closed") {}
};

/// The pool can't be closed while loads write into it.
class PoolBusy : public Error {
  public:
    explicit PoolBusy(std::size_t n_chunks) : Error("pool busy"), n_chunks(n_chunks) {}
    std::size_t n_chunks;
};

class ReadFailed : public Error {
  public:
    ReadFailed(std::string file, std::uint64_t offset, int error_number)
        : Error("read failed"), file(std::move(file)), offset(offset), error_number(error_number) {}
    std::string file;
    std::uint64_t offset;
    int error_number;
};

/// A file is not, or no longer, what it was when the checkpoint was opened.
class FileChanged : public Error {
  public:
    FileChanged(std::string file, std::string what)
        : Error("file changed"), file(std::move(file)), what_changed(std::move(what)) {}
    std::string file;
    std::string what_changed;
};

class ChecksumMismatch : public Error {
  public:
    ChecksumMismatch(std::string file, std::uint64_t chunk, std::uint32_t expected,
                     std::uint32_t actual)
        : Error("checksum mismatch"),
          file(std::move(file)),
          chunk(chunk),
          expected(expected),
          actual(actual) {}
    std::string file;
    std::uint64_t chunk;
    std::uint32_t expected;
    std::uint32_t actual;
};

/// There is no such device here, or no driver for it.
class DeviceUnavailable : public Error {
  public:
    DeviceUnavailable(std::string device, std::string reason)
        : Error("device unavailable"), device(std::move(device)), reason(std::move(reason)) {}
    std::string device;
    std::string reason;
};

/// A device has less memory free than was asked for; nothing was taken.
class DeviceMemoryRefused : public Error {
  public:
    DeviceMemoryRefused(std::string device, std::size_t wanted_bytes, std::size_t free_bytes)
        : Error("device memory refused"),
          device(std::move(device)),
          wanted_bytes(wanted_bytes),
          free_bytes(free_bytes) {}
    std::string device;
    std::size_t wanted_bytes;
    std::size_t free_bytes;
};

/// A device, or its driver, did not do what it was asked to.
class DeviceFailed : public Error {
  public:
    DeviceFailed(std::string device, std::string call, std::string code)
        : Error("device failed"),
          device(std::move(device)),
          call(std::move(call)),
          code(std::move(code)) {}
    std::string device;
    std::string call;  ///< of the driver, "cuMemCreate"
    std::string code;  ///< the driver's answer, "CUDA_ERROR_UNKNOWN"
};

class LoadCancelled : public Error {
  public:
    LoadCancelled() : Error("load cancelled") {}
};

class LoaderClosed : public Error {
  public:
    LoaderClosed() : Error("loader closed") {}
};

}  // namespace pilotlight::native
