"""The weight files of one checkpoint, read and held together."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.header import FIRST_READ_BYTES, Header, read_header
from pilotlight.native_loader.formats.parts import CheckpointFile, TensorEntry

# A FIFO would block a plain open for ever.
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_FORMAT_KEY = "format"
"""The one name in `__metadata__` that other tools give another meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Weight files with their headers, and what they hold together."""

    files: tuple[CheckpointFile, ...]
    tensors: Mapping[str, TensorEntry]
    aliases: Mapping[str, str]
    layout_id: str


def read_shards(
    directory: Path,
    names: Sequence[str],
    *,
    format: str,
    roots: Roots,
    mentioned_in: str,
    contents: Mapping[str, memoryview] | None = None,
) -> Shards:
    """Read the headers of a directory's weight files, or take them from their `contents`.

    Raises:
        CorruptCheckpoint: a header breaks a rule, a file is missing, two hold one tensor.
        OutsideRoots: a file is a link that leads outside.
    """
    files: list[CheckpointFile] = []
    headers: list[Header] = []
    paths = [directory / name for name in names]
    for path in paths:
        roots.check(path)
    if len(paths) > 1:
        _fetch_starts(paths)
    for name, path in zip(names, paths, strict=True):
        try:
            file, header = _read_file(path, roots, (contents or {}).get(name))
        except FileNotFoundError as exc:
            rule = f"names {name!r}, which is missing"
            raise CorruptCheckpoint(directory / mentioned_in, rule) from exc
        files.append(file)
        headers.append(header)
    tensors = _join_tensors(files, headers)
    sizes_bytes = [file.size_bytes for file in files]
    return Shards(
        files=tuple(files),
        tensors=tensors,
        aliases=_declared_aliases(headers, tensors),
        layout_id=layout_id_of(format, [header.raw for header in headers], sizes_bytes),
    )


def layout_id_of(format: str, headers: Sequence[bytes], sizes_bytes: Sequence[int]) -> str:
    """Return the id of the way in which tensors lie in files."""
    digest = hashlib.sha256(f"pilotlight layout 1 {format}\n".encode())
    for raw, size_bytes in zip(headers, sizes_bytes, strict=True):
        digest.update(f"{len(raw)} {size_bytes}\n".encode())
        digest.update(raw)
    return digest.hexdigest()


def _fetch_starts(paths: Sequence[Path]) -> None:
    """Have the kernel read where headers are, all at once instead of one after another."""
    for path in paths:
        with suppress(OSError):
            fd = os.open(path, _OPEN_FLAGS)
            try:
                os.posix_fadvise(fd, 0, FIRST_READ_BYTES, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(fd)


def _read_file(
    path: Path, roots: Roots, content: memoryview | None
) -> tuple[CheckpointFile, Header]:
    fd = os.open(path, _OPEN_FLAGS)
    try:
        roots.check_open(fd, path)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptCheckpoint(path, "is no regular file")
        read = partial(os.pread, fd) if content is None else partial(_range_of, content)
        header = read_header(read, file=path, size_bytes=status.st_size)
    finally:
        os.close(fd)
    file = CheckpointFile(
        path=path,
        size_bytes=status.st_size,
        data_offset=header.data_offset,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )
    return file, header


def _range_of(content: memoryview, length: int, offset: int) -> bytes:
    return content[offset : offset + length].tobytes()


def _join_tensors(
    files: Sequence[CheckpointFile], headers: Sequence[Header]
) -> dict[str, TensorEntry]:
    joined: dict[str, TensorEntry] = {}
    for index, header in enumerate(headers):
        for name in header.tensors.keys() & joined.keys():
            other = files[joined[name].file].path.name
            raise CorruptCheckpoint(
                files[index].path, f"holds tensor {name!r}, which {other} holds too"
            )
        joined |= _entries(index, header)
    return joined


def _entries(file: int, header: Header) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    for name, tensor in header.tensors.items():
        begin, end = tensor.data_offsets
        entries[name] = TensorEntry(
            file=file,
            offset=header.data_offset + begin,
            size_bytes=end - begin,
            dtype=tensor.dtype,
            shape=tensor.shape,
        )
    return entries


def _declared_aliases(
    headers: Sequence[Header], tensors: Mapping[str, TensorEntry]
) -> dict[str, str]:
    """Return the aliases that headers declare.

    The declaration is that of safetensors' own `save_model`: the name that is not
    stored maps to the one that is.
    """
    return {
        alias: name
        for header in headers
        for alias, name in header.metadata.items()
        if alias != _FORMAT_KEY and alias not in tensors and name in tensors
    }
