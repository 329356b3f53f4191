"""The link's limit: one copy of so many pinned bytes onto a GPU, by the driver itself.

Run as `python -m pilotlight.native_loader.bench.link_reader PARENT_PID DEVICE BYTES`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time

import numpy as np

from pilotlight.native_loader import open_device
from pilotlight.native_loader.bench.measuring import LIBRARY_VARIABLE
from pilotlight.native_loader.bench.messages import Go, Loaded, Ready
from pilotlight.native_loader.bench.one_load import populated
from pilotlight.process.bench.answers import Answers
from pilotlight.process.bench.errors import BenchFailed

_LIBRARY = "libcuda.so.1"
_PORTABLE = 1
"""Pinned for every GPU."""
_NON_BLOCKING = 1
"""A stream that does not wait for the one that nobody names."""


class PinnedCopy:
    """Memory that is pinned, and as much on a GPU; copies are not ours, but the driver's."""

    def __init__(self, device: str, size_bytes: int) -> None:
        self._library = ctypes.CDLL(os.environ.get(LIBRARY_VARIABLE) or _LIBRARY)
        self._size_bytes = size_bytes
        opened = open_device(device)
        self._memory = opened.allocate(size_bytes)
        number = int(opened.name.partition(":")[2] or 0)
        self._call("cuInit", ctypes.c_uint(0))
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(number))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._call("cuCtxPushCurrent_v2", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))
        self._host = populated(size_bytes)
        self._address = ctypes.c_void_p(np.frombuffer(self._host, dtype=np.uint8).ctypes.data)
        pinned_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._call(
            "cuMemHostRegister_v2",
            self._address,
            ctypes.c_size_t(pinned_bytes),
            ctypes.c_uint(_PORTABLE),
        )

    def copy(self) -> float:
        """Copy everything once; return the seconds."""
        began = time.monotonic()
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(self._memory.address),
            self._address,
            ctypes.c_size_t(self._size_bytes),
            self._stream,
        )
        self._call("cuStreamSynchronize", self._stream)
        return time.monotonic() - began

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise BenchFailed(f"{name} failed with {code}")


def main() -> None:
    """Pin, wait for the word, copy, and say how that went."""
    answers = Answers()

    def measure() -> None:
        size_bytes = int(sys.argv[3])
        pinned = PinnedCopy(sys.argv[2], size_bytes)
        pinned.copy()
        answers.say(Ready())

        def copy(_: Go) -> None:
            seconds = pinned.copy()
            answers.say(
                Loaded(
                    load_seconds=seconds,
                    total_seconds=seconds,
                    size_bytes=size_bytes,
                    cpu_seconds=0.0,
                    bytes_read=0,
                )
            )

        answers.serve(Go, copy)

    answers.attempt(measure)


if __name__ == "__main__":
    main()
