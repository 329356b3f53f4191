"""What lies below the model roots: opened once, looked at again cheaply.

A scan walks the roots and compares what `stat` says of each checkpoint's files
with the scan before; only new or changed checkpoints are opened. What can't be
opened is listed too, with the reason, so that whoever deploys it is told. Only a
directory whose name nobody could say, as it is no UTF-8, is left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from pilotlight.native_loader import Checkpoint, LoaderError, NotACheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.unicode_text import as_unicode, is_unicode
from pilotlight.store_node.core import CheckpointCopy
from pilotlight.store_node.protocol import ChannelId, Reference
from pilotlight.store_node.shell.identity import disk_channel
from pilotlight.store_node.storage.model_facts import read_model_facts

MOST_LEVELS = 5
"""A snapshot in a Hugging Face home directory lies that deep: hub, model, snapshots, revision."""

_SKIPPED = frozenset({"blobs", "refs"})
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_MANIFEST = "manifest.json"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint's directory, as one scan saw it."""

    copy: CheckpointCopy
    checkpoint: Checkpoint | None
    """None where it can't be opened."""
    signature: str
    """Changes whenever one of its files does."""


class Catalogue:
    """The checkpoints below some roots."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(dict.fromkeys(root.absolute() for root in roots))
        self._confinement = Roots(self._roots)
        self._found: Mapping[Reference, Found] = {}
        self._told: set[Path] = set()

    @property
    def roots(self) -> tuple[Path, ...]:
        """The directories below which checkpoints are looked for."""
        return self._roots

    def copies(self) -> tuple[CheckpointCopy, ...]:
        """Return what the last scan found."""
        return tuple(each.copy for each in self._found.values())

    def usable_directories(self) -> tuple[Path, ...]:
        """Return where the checkpoints lie that the last scan found no problem with."""
        return tuple(Path(copy.path) for copy in self.copies() if not copy.problem)

    def find(self, reference: Reference) -> Found | None:
        """Return one checkpoint as the last scan saw it."""
        return self._found.get(reference)

    def is_current(self, reference: Reference) -> bool:
        """Whether a checkpoint's files are those that the last scan saw."""
        found = self._found.get(reference)
        if found is None:
            return False
        try:
            return _signature(Path(found.copy.path)) == found.signature
        except OSError:
            return False

    def scan(self) -> Mapping[Reference, Found]:
        """Look at everything again. Changes nothing, so it may run in a thread; see `adopt`."""
        found: dict[Reference, Found] = {}
        for root in self._roots:
            for directory in self._directories(root):
                if not is_unicode(str(directory)):
                    self._tell_once(directory, "checkpoint left out, as its path is no UTF-8")
                    continue
                reference = Reference(str(directory.relative_to(root)))
                if reference in found:
                    by = found[reference].copy.path
                    self._tell_once(directory, "checkpoint hidden by another", by=by)
                    continue
                entry = self._look(reference, directory)
                if entry is not None:
                    found[reference] = entry
        return found

    def adopt(self, found: Mapping[Reference, Found]) -> bool:
        """Take the result of a scan; return whether anything has changed."""
        before, self._found = self._found, found
        return {reference: each.signature for reference, each in before.items()} != {
            reference: each.signature for reference, each in found.items()
        }

    def resolve_file(self, reference: Reference, name: str) -> Path | None:
        """Return where an execution file lies; None where the checkpoint has none of that name.

        Raises:
            NotACheckpoint: it is a link that leads outside the roots.
        """
        found = self._found.get(reference)
        if found is None or name not in found.copy.execution_files:
            return None
        path = Path(found.copy.path) / name
        self._confinement.check(path)
        return path.resolve()

    def _directories(self, root: Path) -> Iterator[Path]:
        """Yield the directories below a root that hold weights, each once, in order."""
        seen: set[tuple[int, int]] = set()
        pending = [(root, 0)]
        while pending:
            directory, level = pending.pop()
            try:
                status = directory.stat()
                children = _children(directory)
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if any(_is_weights(entry.name) for entry in children):
                yield directory
            elif level < MOST_LEVELS and self._may_descend(directory):
                pending += [
                    (directory / entry.name, level + 1)
                    for entry in reversed(children)
                    if _is_walkable(entry)
                ]

    def _may_descend(self, directory: Path) -> bool:
        """Whether a directory lies inside the roots; a link may lead anywhere."""
        try:
            self._confinement.check(directory)
        except NotACheckpoint:
            return False
        return True

    def _tell_once(self, directory: Path, what: str, **facts: str) -> None:
        if directory not in self._told:
            self._told.add(directory)
            log.warning(what, path=as_unicode(str(directory)), **facts)

    def _look(self, reference: Reference, directory: Path) -> Found | None:
        try:
            signature = _signature(directory)
        except OSError:
            # It went away between the walk and this look.
            return None
        known = self._found.get(reference)
        is_known = known is not None and known.copy.path == str(directory)
        if known is not None and is_known and known.signature == signature:
            return known
        return self._open(reference, directory, signature)

    def _open(self, reference: Reference, directory: Path, signature: str) -> Found:
        try:
            checkpoint = Checkpoint.open(directory, roots=self._roots)
            copy = _copy_of(reference, checkpoint)
        except (LoaderError, OSError) as exc:
            problem = as_unicode(str(exc))
            log.warning("checkpoint can't be used", reference=reference, reason=problem)
        # Directories hold what anybody put there: none of them may keep the node from the others.
        except Exception as exc:
            problem = as_unicode(f"{directory}: {type(exc).__name__}: {exc}")
            log.exception("defect: a checkpoint can't be looked at", reference=reference)
        else:
            return Found(copy=copy, checkpoint=checkpoint, signature=signature)
        copy = CheckpointCopy(
            reference=reference,
            path=str(directory),
            identity=signature,
            ssd_channel=ChannelId(""),
            problem=problem,
        )
        return Found(copy=copy, checkpoint=None, signature=signature)


def _copy_of(reference: Reference, checkpoint: Checkpoint) -> CheckpointCopy:
    for file in checkpoint.files:
        if not is_unicode(file.path.name):
            raise NotACheckpoint(checkpoint.path, f"holds {file.path.name!r}, which is no UTF-8")
    if checkpoint.sliced:
        raise NotACheckpoint(
            checkpoint.path,
            f"is packed in slices for {checkpoint.n_partitions} devices; a node serves whole"
            " tensors, which pack --plan one writes",
        )
    facts = read_model_facts(checkpoint)
    identity = repr(
        [
            (file.device, file.inode, file.size_bytes, file.mtime_ns, file.ctime_ns)
            for file in checkpoint.files
        ]
    )
    return CheckpointCopy(
        reference=reference,
        path=str(checkpoint.path),
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        ssd_channel=disk_channel(checkpoint.files[0].device),
        layout_id=checkpoint.layout_id,
        content_id=checkpoint.content_id,
        size_bytes=checkpoint.size_bytes,
        n_chunks=checkpoint.n_chunks,
        tensors=len(checkpoint.tensors),
        architecture=facts.architecture,
        context_tokens=facts.context_tokens,
        dtype=facts.dtype,
        execution_files=tuple(filter(is_unicode, checkpoint.execution_files)),
        problem=facts.problem,
    )


def _children(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_walkable(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _SKIPPED:
        return False
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_weights(name: str) -> bool:
    return name.endswith(_WEIGHTS) or name in _PICKLES or name == _MANIFEST


def _signature(directory: Path) -> str:
    """Return what `stat` says of everything in a directory that a checkpoint may consist of."""
    lines: list[str] = []
    for entry in _children(directory):
        try:
            status = entry.stat()
        except OSError:
            lines.append(f"{entry.name} is a broken link")
            continue
        if stat.S_ISREG(status.st_mode):
            lines.append(
                f"{entry.name} {status.st_dev} {status.st_ino} {status.st_size}"
                f" {status.st_mtime_ns} {status.st_ctime_ns}"
            )
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
