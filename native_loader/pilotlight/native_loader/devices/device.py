"""The devices of this machine, and memory on them."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight.native_loader import _native
from pilotlight.native_loader.errors import DeviceMemoryRefused, LayoutMismatch
from pilotlight.native_loader.memory.memory_limits import available_memory_bytes

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device of this machine, and how much memory it has."""

    name: str
    """"cpu", "cuda:0"."""
    model: str
    """"NVIDIA H200"; "" for the CPU."""
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpace:
    """How much memory a device has."""

    total_bytes: int
    free_bytes: int


def available_devices() -> list[DeviceInfo]:
    """Return the CPU, then the GPUs; the CPU alone where there is no CUDA driver or no GPU.

    Each GPU is opened to ask it, which takes about a second unless this process
    uses it already.

    Raises:
        DeviceUnavailable, DeviceFailed: a GPU is there that can't be used, or does not answer.
    """
    found = _native.available_devices()
    return [
        DeviceInfo(
            name=info.name,
            model=info.model,
            total_bytes=info.total_bytes,
            free_bytes=open_device(info.name).space().free_bytes,
        )
        for info in found
    ]


def open_device(name: str) -> Device:
    """Return the device of that name: "cpu", "cuda:1", or "cuda", which is "cuda:0".

    The CUDA driver is the one that the environment variable PILOTLIGHT_CUDA_LIBRARY
    names, else libcuda.so.1. It counts the GPUs as CUDA_VISIBLE_DEVICES says.

    Raises:
        DeviceUnavailable: there is none, or no driver for it.
        DeviceFailed: it is there, but does not answer.
    """
    return Device(_native.open_device(name))


class Device:
    """A device, open until the last of its objects and memories goes. Thread-safe."""

    def __init__(self, native: _native.Device) -> None:
        """Not for callers: `open_device` makes them."""
        self.native = native
        self.name = native.name

    def __repr__(self) -> str:
        return f"<Device {self.name}>"

    def space(self) -> DeviceSpace:
        """Return how much memory the device has; of the CPU's, what this process may take.

        Raises:
            DeviceFailed: it does not answer.
        """
        space = self.native.space()
        free_bytes = space.free_bytes
        if self.name == CPU:
            allowed = available_memory_bytes()
            free_bytes = free_bytes if allowed is None else min(free_bytes, allowed)
        return DeviceSpace(total_bytes=space.total_bytes, free_bytes=free_bytes)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Take memory, which goes back with the last object that holds it.

        A GPU's is there at once; the CPU gives memory to what is copied into.

        Raises:
            DeviceMemoryRefused: that much is not free.
            DeviceFailed: the device does not do it.
            MemoryRefused: the kernel refuses addresses or a descriptor.
        """
        if self.name == CPU:
            free_bytes = self.space().free_bytes
            if size_bytes > free_bytes:
                raise DeviceMemoryRefused(self.name, size_bytes, free_bytes)
        return DeviceMemory(self, self.native.allocate(size_bytes))

    def attach(self, fd: int, size_bytes: int) -> DeviceMemory:
        """Map what another process exported from this device; the descriptor may be closed then.

        What is written into the CPU's memory stays in this process; a GPU's is shared.

        Raises:
            LayoutMismatch: the memory is smaller, or none of this device's.
            DeviceFailed: the device does not do it.
            MemoryRefused: the kernel does not.
        """
        try:
            return DeviceMemory(self, self.native.attach(fd, size_bytes))
        except (ValueError, TypeError) as exc:
            # A number that no size can have is a TypeError.
            raise LayoutMismatch(f"{self.name}: {exc}") from exc


class DeviceMemory:
    """Memory on a device. Thread-safe."""

    def __init__(self, device: Device, native: _native.DeviceMemory) -> None:
        """Not for callers: `Device.allocate` and `Device.attach` make it."""
        self.device = device
        self.native = native

    def __repr__(self) -> str:
        return f"<DeviceMemory of {self.size_bytes:,d} bytes on {self.device.name}>"

    @property
    def address(self) -> int:
        """Return where it begins, as the device counts."""
        return self.native.address

    @property
    def size_bytes(self) -> int:
        """Return its size."""
        return self.native.size_bytes

    def export(self) -> int:
        """Return a new descriptor, the caller's to close, by which other processes attach it.

        The memory lives while there is such a descriptor, or somebody has it attached,
        whoever dies.

        Raises:
            DeviceFailed: the device can't share memory.
        """
        return self.native.export()

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a copy of some of its bytes, for checks.

        Raises:
            IndexError: they are not all there.
            DeviceFailed: the device does not copy them.
        """
        return self.device.native.read(self.native, offset, size_bytes)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into it, and wait until they are there.

        Raises:
            IndexError: they do not fit.
            DeviceFailed, DeviceMemoryRefused: the device does not copy them.
        """
        self.device.native.write(self.native, offset, data)
