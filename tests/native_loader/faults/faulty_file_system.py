"""A file system in user space that shows a directory's files, with faults as it is told.

`python -m tests.native_loader.faults.faulty_file_system SOURCE MOUNTPOINT` mounts it and serves
it until its input ends. Each line of input is a command, each line of output an event;
`faulty_files.FaultyFiles` is the other end.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import json
import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.native_loader.faults import fuse_messages as fuse
from tests.native_loader.faults.fuse_messages import Opcode, Request

_ROOT = 1
_MS_RDONLY = 1
_MNT_DETACH = 2
_COMMANDS = "commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with one file."""

    error_at: int | None = None
    """Reads that touch this byte fail with EIO."""
    hold_at: int | None = None
    """The first read that touches this byte has no answer until "release"."""
    delay_seconds: float = 0.0
    """Before each answer to a read."""
    most_bytes: int = fuse.MAX_READ_BYTES
    """No read gets more."""
    refuses_direct: bool = False
    """Opening it for direct reads fails with EINVAL."""
    bypasses_cache: bool = False
    """The kernel asks for each read of a program, as it is."""
    missing_bytes: int = 0
    """The file is said to be so much shorter than it is, and ends there."""
    open_error: int = 0
    """Opening it fails with this errno."""


class FileSystem:
    """Answers the kernel, from one thread, in whatever order the faults say."""

    def __init__(
        self, device: int, source: Path, tell: Callable[[Mapping[str, object]], None]
    ) -> None:
        self._device = device
        self._tell = tell
        self._root = source
        self._files = sorted(path for path in source.iterdir() if path.is_file())
        self._faults = {path.name: Faults() for path in self._files}
        self._held: list[Request] = []
        self._delayed: list[tuple[float, int, Request]] = []

    @property
    def seconds_to_next_answer(self) -> float | None:
        """Return how long until a delayed answer is due; None without one."""
        return max(self._delayed[0][0] - time.monotonic(), 0.0) if self._delayed else None

    def command(self, line: str) -> None:
        """Do what the other end says: set a file's faults, or answer what was held."""
        command = json.loads(line)
        if command["do"] == "set":
            self._faults[command["file"]] = Faults(**command["faults"])
        else:
            for request in self._held:
                self._answer_read(request)
            self._held.clear()
        self._tell({"done": command["do"]})

    def handle(self, message: bytes) -> None:
        """Answer a message of the kernel's, now or later."""
        request = Request.parse(message)
        if request.opcode in fuse.UNANSWERED:
            return
        if request.opcode == Opcode.READ:
            self._read(request)
            return
        try:
            self._send(fuse.answer(request, self._body(request)))
        except OSError as exc:
            self._send(fuse.answer(request, error=exc.errno or errno.EIO))

    def answer_delayed(self) -> None:
        """Give the answers that are due."""
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._answer_read(heapq.heappop(self._delayed)[2])

    def _body(self, request: Request) -> bytes:
        match request.opcode:
            case Opcode.INIT:
                return fuse.init_body()
            case Opcode.LOOKUP:
                node = self._node(request.name)
                return fuse.entry_body(self._attributes(node), node)
            case Opcode.GETATTR:
                return fuse.attr_body(self._attributes(request.node), request.node)
            case Opcode.OPEN:
                return self._open(request)
            case Opcode.OPENDIR:
                return fuse.open_body(bypasses_cache=False)
            case Opcode.READDIR:
                names = [(path.name, self._node(path.name)) for path in self._files]
                return fuse.directory_body(names, request.range[0])
            case Opcode.STATFS:
                return fuse.statfs_body()
            case Opcode.RELEASE | Opcode.RELEASEDIR | Opcode.FLUSH:
                return b""
        raise OSError(errno.ENOSYS, "not served")

    def _open(self, request: Request) -> bytes:
        faults = self._faults[self._file(request.node).name]
        if faults.open_error:
            raise OSError(faults.open_error, "told to")
        if faults.refuses_direct and request.open_flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "told to")
        return fuse.open_body(bypasses_cache=faults.bypasses_cache)

    def _read(self, request: Request) -> None:
        name = self._file(request.node).name
        faults = self._faults[name]
        offset, size = request.range
        if faults.hold_at is not None and offset <= faults.hold_at < offset + size:
            self._held.append(request)
            self._faults[name] = replace(faults, hold_at=None)
            self._tell({"held": offset})
        elif faults.delay_seconds:
            due = time.monotonic() + faults.delay_seconds
            heapq.heappush(self._delayed, (due, request.unique, request))
        else:
            self._answer_read(request)

    def _answer_read(self, request: Request) -> None:
        file = self._file(request.node)
        faults = self._faults[file.name]
        offset, size = request.range
        if faults.error_at is not None and offset <= faults.error_at < offset + size:
            self._send(fuse.answer(request, error=errno.EIO))
            return
        end = file.stat().st_size - faults.missing_bytes
        wanted = max(min(size, faults.most_bytes, end - offset), 0)
        with file.open("rb") as stream:
            data = os.pread(stream.fileno(), wanted, offset)
        self._send(fuse.answer(request, data))

    def _file(self, node: int) -> Path:
        return self._files[node - _ROOT - 1]

    def _node(self, name: str) -> int:
        for number, path in enumerate(self._files, start=_ROOT + 1):
            if path.name == name:
                return number
        raise FileNotFoundError(errno.ENOENT, name)

    def _attributes(self, node: int) -> fuse.Attributes:
        place = self._root if node == _ROOT else self._file(node)
        status = place.stat()
        missing_bytes = 0 if node == _ROOT else self._faults[place.name].missing_bytes
        return fuse.Attributes(
            size_bytes=status.st_size - missing_bytes,
            mode=status.st_mode,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )

    def _send(self, message: bytes) -> None:
        try:
            os.write(self._device, message)
        except FileNotFoundError:
            # Whoever asked does not wait any more.
            pass


def mount(device: int, mountpoint: Path) -> None:
    """Mount what a descriptor of /dev/fuse serves."""
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    place, kind = os.fsencode(mountpoint), b"fuse"
    if libc.mount(b"pilotlight-faults", place, kind, _MS_RDONLY, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def unmount(mountpoint: Path) -> None:
    """Take a mount away, whoever still uses it."""
    ctypes.CDLL(None).umount2(os.fsencode(mountpoint), _MNT_DETACH)


def serve(source: Path, mountpoint: Path) -> None:
    """Serve until the input ends, or say why that can't be done here."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        mount(device, mountpoint)
    except OSError as exc:
        _tell({"refused": str(exc)})
        return
    files = FileSystem(device, source, _tell)
    with selectors.DefaultSelector() as selector:
        selector.register(device, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ, _COMMANDS)
        _tell({"done": "mount"})
        try:
            while _serve_once(selector, files, device):
                files.answer_delayed()
        finally:
            unmount(mountpoint)


def _tell(event: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _serve_once(selector: selectors.BaseSelector, files: FileSystem, device: int) -> bool:
    for key, _ in selector.select(files.seconds_to_next_answer):
        if key.data == _COMMANDS:
            line = sys.stdin.readline()
            if not line:
                return False
            files.command(line)
            continue
        try:
            files.handle(os.read(device, fuse.MAX_READ_BYTES + 65536))
        except OSError as exc:
            if exc.errno == errno.ENODEV:  # It was unmounted.
                return False
            # Somebody was interrupted before the request was taken.
            if exc.errno not in (errno.EAGAIN, errno.ENOENT, errno.EINTR):
                raise
    return True


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
