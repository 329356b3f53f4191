"""The errors of the loader, each with the file and the rule it is about."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import cast


class LoaderError(Exception):
    """Root of what `pilotlight.native_loader` raises. All can be pickled and copied."""

    def __reduce__(self) -> tuple[object, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            # The one attribute that these keep elsewhere.
            state["errno"] = self.errno
        return _restored, (type(self), self.args), state


def _restored(type_: type[LoaderError], args: tuple[object, ...]) -> LoaderError:
    """Return an error with its message; its attributes are set afterwards."""
    # The one base that says how its memory is laid out, and must make it.
    kind: type = type_
    while issubclass(kind, LoaderError):
        kind = kind.__base__ or Exception
    error = cast("type[BaseException]", kind).__new__(type_)
    Exception.__init__(error, *args)
    return error


class NotACheckpoint(LoaderError, ValueError):
    """A path that holds no checkpoint, and why."""

    def __init__(self, path: str | Path, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = Path(path)
        self.rule = rule


class NoSuchCheckpoint(NotACheckpoint, FileNotFoundError):
    """A path at which there is nothing."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "does not exist")


class OutsideRoots(NotACheckpoint, PermissionError):
    """A path that leads out of the directories it must stay in."""

    def __init__(self, path: str | Path, roots: Sequence[Path]) -> None:
        super().__init__(path, f"leads outside {', '.join(str(root) for root in roots)}")
        self.roots = tuple(roots)


class PickleRefused(NotACheckpoint):
    """Weights that are pickled: opening them would run whatever code they hold."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(
            path, "is a pickle, which is never opened; only safetensors weights are loaded"
        )


class CorruptCheckpoint(LoaderError, ValueError):
    """A checkpoint's file that breaks a rule of its format."""

    def __init__(self, file: str | Path, rule: str) -> None:
        # A rule may quote the file, which may hold names of any length.
        rule = textwrap.shorten(rule, 400, placeholder=" …") if len(rule) > 400 else rule
        super().__init__(f"{file}: {rule}")
        self.file = Path(file)
        self.rule = rule


class UnsupportedVersion(LoaderError, ValueError):
    """A packed checkpoint of a version that this release does not know."""

    def __init__(self, file: str | Path, version: int, newest: int) -> None:
        super().__init__(
            f"{file}: has format version {version}, and this release reads up to {newest}"
        )
        self.file = Path(file)
        self.version = version


class ContentMismatch(LoaderError, ValueError):
    """A packed checkpoint's bytes are not those that it was packed with."""

    def __init__(self, path: str | Path, expected: str, actual: str) -> None:
        super().__init__(f"{path}: has content id {actual}, its manifest says {expected}")
        self.path = Path(path)
        self.expected = expected
        self.actual = actual


class ChecksumMismatch(LoaderError, ValueError):
    """A chunk's bytes are not those that its checksum was made of."""

    def __init__(self, file: str | Path, chunk: int, expected: int, actual: int) -> None:
        super().__init__(
            f"{file}: chunk {chunk} has checksum {actual:08x}, {expected:08x} was expected"
        )
        self.file = Path(file)
        self.chunk = chunk
        self.expected = expected
        self.actual = actual


class FileChanged(LoaderError, OSError):
    """A weight file is not what it was when its checkpoint was opened."""

    def __init__(self, file: str | Path, what: str) -> None:
        super().__init__(f"{file}: has changed since its checkpoint was opened: {what}")
        self.file = Path(file)
        self.what = what


class ReadFailed(LoaderError, OSError):
    """The file system did not give a file's bytes."""

    def __init__(self, file: str | Path, offset: int, number: int) -> None:
        super().__init__(f"{file}: can't be read at byte {offset:,d}: {os.strerror(number)}")
        self.file = Path(file)
        self.offset = offset
        self.errno = number


class MemoryRefused(LoaderError, MemoryError):
    """The kernel refused memory, address space, a descriptor, a thread or a process."""

    def __init__(self, action: str, number: int) -> None:
        super().__init__(f"the kernel refused {action}: {os.strerror(number)}")
        self.action = action
        self.errno = number


class PoolTooSmall(LoaderError, ValueError):
    """A pool that could not hold a single chunk."""

    def __init__(self, capacity_bytes: int, chunk_bytes: int) -> None:
        super().__init__(
            f"a pool of {capacity_bytes:,d} bytes holds no chunk of {chunk_bytes:,d} bytes"
        )
        self.capacity_bytes = capacity_bytes
        self.chunk_bytes = chunk_bytes


class PoolExhausted(LoaderError, MemoryError):
    """Fewer chunks are free than were asked for; none was taken."""

    def __init__(self, wanted: int, free: int, cached: int, bound: int) -> None:
        super().__init__(
            f"{wanted} chunks were asked for and {free} are free, {cached} cached, {bound} bound"
        )
        self.wanted = wanted
        self.free = free
        self.cached = cached
        self.bound = bound


class ChunkStateError(LoaderError, ValueError):
    """A chunk is not in the account it was to be taken from; nothing was changed."""

    def __init__(self, chunk: int, expected: str, actual: str) -> None:
        super().__init__(f"chunk {chunk} is {actual}, not {expected}")
        self.chunk = chunk
        self.expected = expected
        self.actual = actual


class PlaceStateError(LoaderError, ValueError):
    """A place in a shared chunk is not in the state it was to be taken from; nothing changed."""

    def __init__(self, chunk: int, offset: int, expected: str, actual: str) -> None:
        super().__init__(f"place {offset:,d} of chunk {chunk} is {actual}, not {expected}")
        self.chunk = chunk
        self.offset = offset
        self.expected = expected
        self.actual = actual


class PoolBusy(LoaderError, RuntimeError):
    """A pool can't be closed while loads write into it."""

    def __init__(self, n_chunks: int) -> None:
        super().__init__(f"loads still write into {n_chunks} chunks of the pool")
        self.n_chunks = n_chunks


class PoolClosed(LoaderError, RuntimeError):
    """The pool was closed before."""

    def __init__(self) -> None:
        super().__init__("the pool is closed")


class LoaderClosed(LoaderError, RuntimeError):
    """The loader was closed before."""

    def __init__(self) -> None:
        super().__init__("the loader is closed")


class LoadCancelled(LoaderError, RuntimeError):
    """The load was cancelled, or its loader closed, before its end."""

    def __init__(self) -> None:
        super().__init__("the load was cancelled")


class LoadPending(LoaderError, TimeoutError):
    """The load has not ended within the time that its result was waited for."""

    def __init__(self, load_id: str, timeout: float) -> None:
        super().__init__(f"{load_id} has not ended within {timeout:g} s")
        self.load_id = load_id


class LayoutMismatch(LoaderError, ValueError):
    """Pool chunks that can't hold, or do not hold, a checkpoint's chunks."""


class WeightsClosed(LoaderError, RuntimeError):
    """The weights were detached before."""

    def __init__(self) -> None:
        super().__init__("the weights are closed")


class DeviceUnavailable(LoaderError, ValueError):
    """A device that is not there, or that nothing can be loaded to here."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"device {device!r} is not available: {reason}")
        self.device = device
        self.reason = reason


class DeviceMemoryRefused(LoaderError, MemoryError):
    """A device has less memory free than was asked for; nothing was taken."""

    def __init__(self, device: str, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"device {device!r} has {free_bytes:,d} bytes free,"
            f" and {wanted_bytes:,d} were asked for"
        )
        self.device = device
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes


class DeviceFailed(LoaderError, RuntimeError):
    """A device, or its driver, did not do what it was asked to."""

    def __init__(self, device: str, call: str, code: str) -> None:
        super().__init__(f"device {device!r} failed: {call} answered {code}")
        self.device = device
        self.call = call
        self.code = code


class SliceRefused(LoaderError, ValueError):
    """A tensor that can't be cut into equal slices by the rule for it."""

    def __init__(self, tensor: str, rule: str) -> None:
        super().__init__(f"tensor {tensor!r} can't be sliced: {rule}")
        self.tensor = tensor
        self.rule = rule


class TooManyPartitions(LoaderError, ValueError):
    """A checkpoint has fewer layers than it was to be split into."""

    def __init__(self, path: str | Path, n_partitions: int, n_layers: int) -> None:
        super().__init__(f"{path}: has {n_layers} layers, too few for {n_partitions} partitions")
        self.path = Path(path)
        self.n_partitions = n_partitions
        self.n_layers = n_layers


class ModelMismatch(LoaderError, ValueError):
    """A checkpoint lacks weights of the model that its configuration describes."""

    def __init__(self, path: str | Path, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = Path(path)
        self.rule = rule


class DestinationExists(LoaderError, FileExistsError):
    """The place for a packed checkpoint is taken."""

    def __init__(self, path: str | Path, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = Path(path)


class PackFailed(LoaderError, OSError):
    """A packed checkpoint could not be written; nothing was left behind."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: can't be written, and nothing was: {reason}")
        self.path = Path(path)
        self.reason = reason
