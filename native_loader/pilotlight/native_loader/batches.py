"""Loading many checkpoints, small ones above all, as fast as their disk can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks
from pilotlight.native_loader.errors import FileChanged, LoaderError
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.manifest import MANIFEST_NAME
from pilotlight.native_loader.formats.parts import (
    CHUNK_BYTES,
    PLACE_BYTES,
    CheckpointFile,
    Place,
    cut_into_chunks,
)
from pilotlight.native_loader.formats.weight_files import SUFFIX, find_weight_files
from pilotlight.native_loader.loader import Load, Loader
from pilotlight.native_loader.memory.pool import ChunkPool
from pilotlight.native_loader.memory.slab import Slab
from pilotlight.native_loader.weights import AttachedWeights, WeightLayout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A checkpoint that is being read."""

    path: Path
    checkpoint: Checkpoint
    """Without tensors as long as its header is not known."""
    is_open: bool
    load: Load
    places: list[int | Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A checkpoint whose bytes are there."""

    checkpoint: Checkpoint
    places: list[int | Place]
    weights: AttachedWeights
    tensors: dict[str, torch.Tensor]


class BatchLoader:
    """Loads checkpoints one after another, or many at once, into a pool that it keeps.

    Thread-safe. The reading of a small checkpoint begins before its header is known;
    opening, mapping and making tensors go on meanwhile. A checkpoint's room in the
    pool is used again for later ones once the last of its tensors is gone.
    """

    def __init__(
        self,
        slab: Slab,
        *,
        settings: DiskSettings | None = None,
        disks: KnownDisks | None = None,
        ledger: ChecksumLedger | None = None,
        roots: Sequence[Path] = (),
        use_page_cache: bool = True,
    ) -> None:
        """Load into room of the slab's, as `Checkpoint.open` and `Loader` do otherwise."""
        self._slab = slab
        self._loader = Loader(slab.pool, settings=settings, disks=disks, ledger=ledger)
        self._roots = tuple(roots)
        self._confined = Roots(roots)
        self._use_page_cache = use_page_cache
        self._unmapped: deque[list[int | Place]] = deque()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def load(self, path: str | Path) -> dict[str, torch.Tensor]:
        """Load one checkpoint and return its tensors by name, declared aliases among them.

        Raises:
            LoaderError: one of those of `Checkpoint.open`, `Slab.allocate` and `Load.result`.
        """
        return self.load_all([path])[0]

    def load_all(self, paths: Iterable[str | Path]) -> list[dict[str, torch.Tensor]]:
        """Load checkpoints and return the tensors of each, or those of none.

        Raises:
            LoaderError: the first of those that `load` would raise.
        """
        self.reclaim()
        begun: list[_Begun] = []
        try:
            # In case of a failure the list has those that were begun before.
            begun.extend(self._begin(Path(path)) for path in paths)
            loaded = [self._end(each, is_alone=len(begun) == 1) for each in begun]
        except BaseException:
            for each in begun:
                each.load.cancel()
            for each in begun:
                self._abandon(each.load, each.places)
            raise
        for checkpoint in loaded:
            self._keep(checkpoint)
        return [each.tensors for each in loaded]

    def reclaim(self) -> None:
        """Give back the room of checkpoints whose tensors are gone; loading does so too."""
        self._loader.finished()
        for _ in range(len(self._unmapped)):
            # Another thread may have been faster.
            with contextlib.suppress(IndexError):
                places = self._unmapped.popleft()
                self._slab.unbind(places)
                self._slab.release(places)

    def close(self) -> None:
        """Cancel what runs. Tensors stay as they are, and their room is not used again."""
        self._loader.close()

    def _begin(self, path: Path) -> _Begun:
        known = _unread_checkpoint(path, self._confined)
        checkpoint = known or Checkpoint.open(path, roots=self._roots)
        self._loader.prepare(checkpoint)
        places = self._slab.allocate(checkpoint)
        try:
            load = self._loader.submit(checkpoint, places, use_page_cache=self._use_page_cache)
        except BaseException:
            self._slab.release(places)
            raise
        return _Begun(
            path=path, checkpoint=checkpoint, is_open=known is None, load=load, places=places
        )

    def _end(self, begun: _Begun, *, is_alone: bool) -> _Loaded:
        """Wait for a load's end.

        While the disk is busy with others, a header is had sooner from what was read of its
        file than by a read of its own; beside a load that is alone it comes at once.
        """
        checkpoint = begun.checkpoint
        if not begun.is_open:
            checkpoint = self._open_begun(begun, {} if is_alone else self._content(begun))
        weights = self._attached(checkpoint, begun.places)
        tensors = None if weights.copied_bytes else weights.tensors()
        begun.load.result()
        stored = weights.tensors() if tensors is None else tensors
        aliases = {alias: stored[name] for alias, name in checkpoint.aliases.items()}
        return _Loaded(
            checkpoint=checkpoint, places=begun.places, weights=weights, tensors=stored | aliases
        )

    def _content(self, begun: _Begun) -> dict[str, memoryview]:
        """Wait for the bytes of a checkpoint's only file."""
        begun.load.result()
        (file,) = begun.checkpoint.files
        return {file.path.name: self._attached(begun.checkpoint, begun.places).content(0)}

    def _open_begun(self, begun: _Begun, contents: Mapping[str, memoryview]) -> Checkpoint:
        """Open a checkpoint whose file is being read already."""
        checkpoint = Checkpoint.open(begun.path, roots=self._roots, contents=contents)
        files = tuple(dataclasses.replace(file, data_offset=0) for file in checkpoint.files)
        if files != begun.checkpoint.files:
            raise FileChanged(begun.path, "it was replaced or written to")
        return checkpoint

    def _attached(self, checkpoint: Checkpoint, places: Sequence[int | Place]) -> AttachedWeights:
        pool = self._slab.pool
        return AttachedWeights(pool, WeightLayout.of(checkpoint, places, pool.chunk_bytes))

    def _keep(self, loaded: _Loaded) -> None:
        """Hold a loaded checkpoint's room until its tensors are gone."""
        self._slab.bind(loaded.places)
        of_files: list[list[int | Place]] = [[] for _ in loaded.checkpoint.files]
        for chunk, place in zip(loaded.checkpoint.chunks, loaded.places, strict=True):
            of_files[chunk.file].append(place)
        loaded.weights.when_unmapped(lambda file: self._unmapped.append(of_files[file]))
        loaded.weights.close()

    def _abandon(self, load: Load, places: list[int | Place]) -> None:
        """Give back the room of a load, once that has ended."""
        load.cancel()
        with contextlib.suppress(LoaderError):
            load.result()
        self._slab.release(places)


def load_batch(
    paths: Sequence[str | Path],
    *,
    disks: KnownDisks | None = None,
    ledger: ChecksumLedger | None = None,
    roots: Sequence[Path] = (),
    use_page_cache: bool = True,
) -> list[dict[str, torch.Tensor]]:
    """Load many checkpoints at once into memory of their own; return the tensors of each.

    The memory goes with the last tensor of them all. What is in the page cache is
    taken from there.

    Raises:
        LoaderError: the first of those that `load` would raise; then none is loaded.
    """
    pool = _pool_for([size for path in paths for size in _sizes_bytes(Path(path))])
    # Ahead of the readers and in larger steps than theirs, memory is had in half the time.
    pool.populate_in_background()
    try:
        with BatchLoader(
            Slab(pool), disks=disks, ledger=ledger, roots=roots, use_page_cache=use_page_cache
        ) as loader:
            return loader.load_all(paths)
    finally:
        pool.close()


def _pool_for(sizes_bytes: Sequence[int]) -> ChunkPool:
    """Return a pool for files of those sizes."""
    if max(sizes_bytes, default=0) > CHUNK_BYTES:
        room_bytes = sum(_rounded_up(size, CHUNK_BYTES) for size in sizes_bytes)
        return ChunkPool(room_bytes, is_shared=False)
    # Side by side in one chunk they take no more memory than they need.
    room_bytes = sum(_rounded_up(size, PLACE_BYTES) for size in sizes_bytes)
    chunk_bytes = _rounded_up(max(room_bytes, 1), CHUNK_BYTES)
    return ChunkPool(chunk_bytes, chunk_bytes=chunk_bytes, is_shared=False)


def _sizes_bytes(path: Path) -> list[int]:
    """Return the sizes of a path's weight files and perhaps of others; none if it has none."""
    try:
        if not path.is_dir():
            return [path.stat().st_size]
        with os.scandir(path) as files:
            return [file.stat().st_size for file in files if file.name.endswith(SUFFIX)]
    except OSError:
        return []


def _rounded_up(size_bytes: int, multiple: int) -> int:
    return -(-size_bytes // multiple) * multiple


def _unread_checkpoint(path: Path, roots: Roots) -> Checkpoint | None:
    """Return a checkpoint of one small file before its header is read, without its tensors.

    None where more than names and sizes must be known to begin, and where something is wrong:
    opening says what.
    """
    try:
        file = _only_file(path, roots)
    except (OSError, LoaderError):
        return None
    if file is None:
        return None
    return Checkpoint(
        path=file.path.parent,
        format="safetensors",
        files=(file,),
        tensors={},
        aliases={},
        chunks=cut_into_chunks([file.size_bytes]),
        checksums=None,
        content_id="",
        layout_id="",
        execution_files=(),
    )


def _only_file(path: Path, roots: Roots) -> CheckpointFile | None:
    roots.check(path)
    found = find_weight_files(path, roots)
    if len(found.names) != 1 or (found.directory / MANIFEST_NAME).exists():
        return None
    place = found.directory / found.names[0]
    roots.check(place)
    status = os.stat(place)
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= CHUNK_BYTES:
        return None
    return CheckpointFile(
        path=place,
        size_bytes=status.st_size,
        data_offset=0,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )
