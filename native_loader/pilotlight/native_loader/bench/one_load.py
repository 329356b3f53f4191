"""One load in a fresh process: the clock, the touch of every page, the digest.

The process says Ready once its imports are done and a tiny checkpoint was loaded;
then it waits for a line, has the machine give its memory, loads, and says how that
went. Interpreters that have nothing of ours use this file too: it needs numpy, and
torch where tensors are torch's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import resource
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Tensors = Mapping[str, Any]
Group = dict[str, Any]
"""One checkpoint: its `directory` and its `files`."""

_PR_SET_PDEATHSIG = 1
_MADV_POPULATE_WRITE = 23
_WARMING_ROUNDS = 3
_RESET_PEAK = "5"
_PAGE_BYTES = 4096
_WORD_BYTES = 8
_MODULUS = 1 << 64


class Loading:
    """A loader that is ready: it loads checkpoints one after another, or many at once."""

    def __init__(
        self,
        load_one: Callable[[Group], Tensors],
        load_all: Callable[[Sequence[Group]], list[Tensors]] | None = None,
    ) -> None:
        self._load_one = load_one
        self._load_all = load_all
        self.each_seconds: list[float] = []
        self.facts: dict[str, Any] = {}

    def warm_up(self, group: Group) -> None:
        """Load a tiny checkpoint, so that all that is done only once is done."""
        self._load_one(group)

    def load(self, groups: Sequence[Group]) -> list[Tensors]:
        """Load checkpoints."""
        if self._load_all is not None:
            return self._load_all(groups)
        loaded: list[Tensors] = []
        for group in groups:
            began = time.monotonic()
            loaded.append(self._load_one(group))
            self.each_seconds.append(time.monotonic() - began)
        return loaded

    def settle(self) -> None:
        """Note in `facts` what is to be known beside; the clock has stopped."""


def serve(question: Mapping[str, Any], loading_of: Callable[[Mapping[str, Any]], Loading]) -> None:
    """Answer one question by stdout, where nothing else is written then."""
    _die_with(question["parent_pid"])
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        loading = loading_of(question)
        for group in question["warm_up"]:
            loading.warm_up(group)
        gc.collect()
        _say(out, {"type": "Ready"})
        if sys.stdin.readline():
            # At the last moment: what is free goes back to a virtual machine's host in seconds.
            warm_memory(question["warm_bytes"])
            _say(out, {"type": "Loaded", **measure(loading, question["groups"])})
    # The outermost loop: whatever it is, whoever waits gets an answer.
    except Exception as error:
        line = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        _say(out, {"mishap": line})
    # A peer's threads may keep an interpreter that ends in order from ending.
    os._exit(0)


def measure(loading: Loading, groups: Sequence[Group]) -> dict[str, Any]:
    """Load, touch every page, and return how long that took and what came."""
    loading.each_seconds.clear()
    _reset_peak()
    resident_before, share_before = _memory_bytes("status", "VmRSS"), _share_bytes()
    read_before, cpu_before = _bytes_read(), _cpu_seconds()
    began = time.monotonic()
    loaded = loading.load(groups)
    _await_device()
    loaded_at = time.monotonic()
    tensors = [(name, flat(tensor)) for each in loaded for name, tensor in each.items()]
    touching_at = time.monotonic()
    for _, data in tensors:
        data[::_PAGE_BYTES].max(initial=0)
    touched_at = time.monotonic()
    result = {
        "load_seconds": loaded_at - began,
        "total_seconds": loaded_at - began + touched_at - touching_at,
        "each_seconds": loading.each_seconds,
        "cpu_seconds": _cpu_seconds() - cpu_before,
        "bytes_read": _bytes_read() - read_before,
        "peak_bytes": max(_memory_bytes("status", "VmHWM") - resident_before, 0),
        "share_bytes": max(_share_bytes() - share_before, 0),
        "size_bytes": sum(data.size for _, data in tensors),
    }
    loading.settle()
    digest = digest_of([digest_of_tensor(name, data) for name, data in tensors])
    return {**result, **loading.facts, "digest": digest}


def flat(tensor: Any) -> Bytes:
    """Return a tensor's bytes as a flat array, without a copy if they are the CPU's."""
    data: Bytes = tensor
    if not isinstance(tensor, np.ndarray):
        import torch

        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return data


def digest_of_tensor(name: str, data: Bytes) -> int:
    """Return what tells whether a tensor's bytes are those that they should be.

    It is cheap, and no cryptography: sums over rows of a page, weighted by where
    the row lies, so that a page that is missing, repeated or misplaced shows.
    """
    n_whole = data.size // _PAGE_BYTES * _PAGE_BYTES
    rows = data[:n_whole].view(np.uint64).reshape(-1, _PAGE_BYTES // _WORD_BYTES)
    sums = rows.sum(axis=1, dtype=np.uint64)
    weights = np.arange(1, len(rows) + 1, dtype=np.uint64)
    weighted = int((sums * weights).sum(dtype=np.uint64))
    rest = zlib.crc32(data[n_whole:].tobytes(), zlib.crc32(name.encode()))
    # Any odd factors will do; these are well known from hashing.
    spread = rest * 0x9E3779B97F4A7C15 + data.size * 0xC2B2AE3D27D4EB4F
    return (weighted + 1) * (spread | 1) % _MODULUS


def digest_of(digests: Sequence[int]) -> str:
    """Return the digest of many tensors, in whatever order they came."""
    return f"{sum(digests) % _MODULUS:016x}"


def warm_memory(size_bytes: int) -> None:
    """Have the machine give memory a few times, and let go of it again.

    The first touch of a virtual machine's page costs its host more than any load. What
    is free lies with each processor and with all of them, so each one takes its turns.
    """
    if not size_bytes:
        return
    processors = os.sched_getaffinity(0)
    try:
        for processor in [*processors] * _WARMING_ROUNDS:
            os.sched_setaffinity(0, {processor})
            populated(size_bytes).close()
    finally:
        os.sched_setaffinity(0, processors)


def populated(size_bytes: int) -> mmap.mmap:
    """Return memory that is there, with huge pages where the kernel has them."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in (mmap.MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
        try:
            memory.madvise(advice)
        except OSError:
            pass  # Kernels that know neither have it less warm.
    return memory


def _await_device() -> None:
    """Wait for copies that a peer has only begun."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say(out: int, answer: Mapping[str, Any]) -> None:
    os.write(out, json.dumps(answer).encode() + b"\n")


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        pass  # Not every container lets one; the peak then counts the imports too.


def _bytes_read() -> int:
    return int(_fields("io")["read_bytes"])


def _memory_bytes(file: str, name: str) -> int:
    return int(_fields(file)[name].split()[0]) << 10


def _share_bytes() -> int:
    """Return this process's memory, of which no page counts twice."""
    return _memory_bytes("smaps_rollup", "Pss")


def _fields(file: str) -> dict[str, str]:
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
