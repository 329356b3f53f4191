"""The fake CUDA driver, for tests in Python: built where it is needed, and controlled."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "native_loader/tests/fake_cuda"
INCLUDES = ROOT / "native_loader/include"
BUILDS = ROOT / "build/fake_cuda"

_BUILD_SECONDS = 100


class FakeCounts(ctypes.Structure):
    """What lives in this process, and what was done wrong."""

    _fields_ = (
        ("contexts", ctypes.c_int64),
        ("handles", ctypes.c_int64),
        ("reservations", ctypes.c_int64),
        ("mappings", ctypes.c_int64),
        ("streams", ctypes.c_int64),
        ("events", ctypes.c_int64),
        ("registrations", ctypes.c_int64),
        ("unpinned_copies", ctypes.c_int64),
        ("misuses", ctypes.c_int64),
    )


class FakeCopy(ctypes.Structure):
    """A copy that was done."""

    _fields_ = (
        ("device", ctypes.c_int32),
        ("is_pinned", ctypes.c_int32),
        ("bytes", ctypes.c_uint64),
        ("begin_ns", ctypes.c_int64),
        ("end_ns", ctypes.c_int64),
    )


class FakeDriver:
    """Controls the fake driver of this process; `fake_cuda.hpp` says what each call does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_cuda_counts.restype = FakeCounts
        self._library.fake_cuda_last_misuse.restype = ctypes.c_char_p
        self._library.fake_cuda_copies.restype = ctypes.c_size_t

    def reset(self, n_devices: int, bytes_of_each: int) -> None:
        self._library.fake_cuda_reset(n_devices, ctypes.c_size_t(bytes_of_each))

    def set_bandwidth(self, device: int, bytes_per_second: float) -> None:
        self._library.fake_cuda_set_bandwidth(device, ctypes.c_double(bytes_per_second))

    def set_event_delay(self, seconds: float) -> None:
        self._library.fake_cuda_set_event_delay(ctypes.c_int64(int(seconds * 1e9)))

    def fail(self, function: str, *, nth: int = 1, code: int = 999, times: int = 1) -> None:
        self._library.fake_cuda_fail(function.encode(), nth, code, times)

    def break_device(self, device: int, code: int) -> None:
        self._library.fake_cuda_break(device, code)

    def counts(self) -> FakeCounts:
        counts = self._library.fake_cuda_counts()
        assert isinstance(counts, FakeCounts)
        return counts

    def copies(self) -> list[FakeCopy]:
        room = self._library.fake_cuda_copies(None, ctypes.c_size_t(0))
        copies = (FakeCopy * room)()
        done = self._library.fake_cuda_copies(copies, ctypes.c_size_t(room))
        return list(copies[: min(room, done)])

    def check_clean(self) -> None:
        """Check that nothing lives any more, and that nothing was done wrong."""
        misuse = self._library.fake_cuda_last_misuse().decode()
        assert misuse == ""
        counts = self.counts()
        names = [field[0] for field in FakeCounts._fields_ if field[0] != "unpinned_copies"]
        assert {name: getattr(counts, name) for name in names} == dict.fromkeys(names, 0)


def build_fake_driver() -> Path | None:
    """Return the fake driver, built from the sources that lie here; None without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    sources = sorted(SOURCES.glob("*.cpp"))
    built = BUILDS / _digest([*sources, *sorted(SOURCES.glob("*.hpp"))]) / "libfake_cuda.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        unfinished = built.with_suffix(".new")
        options = ["-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-pthread", f"-I{INCLUDES}"]
        subprocess.run(
            [compiler, *options, *map(str, sources), "-o", str(unfinished)],
            check=True,
            timeout=_BUILD_SECONDS,
        )
        unfinished.rename(built)
    return built


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
