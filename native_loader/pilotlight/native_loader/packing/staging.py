"""Directories that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class StagingBusy(Exception):
    """Another process is making the same directory."""


@contextmanager
def staged(destination: Path) -> Generator[Path]:
    """Make a directory beside `destination` and remove it again unless it was published.

    Its name follows from the destination's, so that what a killed process left is
    found and taken over; the lock on it keeps two processes apart.

    Raises:
        StagingBusy: as it says.
    """
    place = destination.with_name(f".{destination.name}.packing")
    lock = _locked(place)
    try:
        _clear(place)
        yield place
    finally:
        # Once it was published, a directory of that name is somebody else's.
        if _is_at(lock, place):
            shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def publish(place: Path, destination: Path) -> None:
    """Give a staged directory its name; what was there, an old version, is removed.

    Everything in it has been written and synced before.
    """
    sync_directory(place)
    replaced = destination.with_name(f".{destination.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if destination.is_dir() and any(destination.iterdir()):
        os.rename(destination, replaced)
    try:
        os.rename(place, destination)
    except OSError:
        if replaced.exists():
            os.rename(replaced, destination)
        raise
    sync_directory(destination.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a crash."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _locked(place: Path) -> int:
    while True:
        place.mkdir(exist_ok=True)
        fd = _open_directory(place)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock before may have removed or renamed the directory since.
            if _is_at(fd, place):
                return fd
        except BlockingIOError as exc:
            os.close(fd)
            raise StagingBusy from exc
        os.close(fd)


def _open_directory(place: Path) -> int:
    try:
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as exc:
        # All in it would be removed, wherever it leads.
        raise NotADirectoryError(exc.errno, "the staging directory is a link") from exc


def _is_at(fd: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(place))
    except FileNotFoundError:
        return False


def _clear(place: Path) -> None:
    for entry in os.scandir(place):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
