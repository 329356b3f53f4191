"""PyTorch's pickled weights, as `pack` reads them: by a process that may fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from pilotlight.native_loader.errors import (
    CorruptCheckpoint,
    FileChanged,
    MemoryRefused,
    NotACheckpoint,
)
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.execution_files import find_execution_files
from pilotlight.native_loader.formats.model_config import read_model_config, says_tied
from pilotlight.native_loader.formats.scanning import opened as opened_file
from pilotlight.native_loader.formats.scanning import regular_file
from pilotlight.native_loader.formats.unicode_text import is_unicode
from pilotlight.native_loader.packing.pickle_files import find_pickle_files
from pilotlight.native_loader.packing.pickle_messages import (
    BYTES,
    END,
    FAILED,
    LIST,
    READ,
    TENSORS,
    Failure,
    Garbled,
    PickledTensor,
    PickledTensors,
    receive,
    send,
)
from pilotlight.native_loader.packing.sources import SourceTensor
from pilotlight.native_loader.packing.tensor_order import Stage, stage_of
from pilotlight.native_loader.placements.slices import UnevenBytes

_RESERVED = ("__metadata__",)
"""Names that a safetensors header keeps for something else."""

_LAST_WORDS_SECONDS = 5.0
_PIPE_BYTES = 1 << 20


class PickleSource:
    """Weights in `.bin`, `.pt` or `.pth` files. Nothing in this process opens them."""

    def __init__(self, path: Path) -> None:
        """Have their tensors listed.

        Raises:
            NotACheckpoint: there are none, or PyTorch is not there to read them.
            CorruptCheckpoint: they are broken, or hold something else than tensors.
            MemoryRefused: there can be no process that reads them.
        """
        found = find_pickle_files(path)
        self.path = found.directory
        self.execution_files: Sequence[str] = find_execution_files(self.path, Roots([]))
        self.content_id = ""
        if find_spec("torch") is None:
            raise NotACheckpoint(
                path, "is pickled, and PyTorch, which reads that, is not installed"
            )
        self._files = [regular_file(self.path / name) for name in found.names]
        with _reading([file.path for file in self._files]) as reader:
            self._listed = reader.tensors
        self.aliases: Mapping[str, str] = self._shared()
        self.tensors: Mapping[str, SourceTensor] = {
            name: SourceTensor(dtype=tensor.dtype, shape=tensor.shape)
            for name, tensor in self._listed.items()
            if name not in self.aliases
        }

    @contextmanager
    def opened(self) -> Generator[_Reader]:
        """Have the files read by a process of their own."""
        with ExitStack() as stack:
            for file in self._files:
                stack.enter_context(opened_file(file))
            reader = stack.enter_context(_reading([file.path for file in self._files]))
            if reader.tensors != self._listed:
                raise FileChanged(self._files[0].path, "it holds other tensors")
            yield reader

    def _shared(self) -> dict[str, str]:
        """Return the names of tensors that share memory with one before them."""
        is_untied = says_tied(read_model_config(self.path)) is False
        first: dict[int, str] = {}
        aliases: dict[str, str] = {}
        for name, tensor in self._listed.items():
            stored = first.setdefault(tensor.view, name)
            # A model whose config says that its head is its own looks for it under its own name.
            is_own = is_untied and stage_of(name)[0] is Stage.HEAD
            if stored != name and name != "format" and not is_own:
                aliases[name] = stored
        return aliases


@contextmanager
def _reading(paths: Sequence[Path]) -> Generator[_Reader]:
    """Have a process read them; it ends with the block, or with this process."""
    with _started() as process:
        try:
            reader = _Reader(process, paths)
            reader.list()
            yield reader
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                cast("BinaryIO", process.stdin).close()


def _started() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pilotlight.native_loader.packing.pickle_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pipesize=_PIPE_BYTES,
            env=_environ(),
        )
    except OSError as exc:
        raise MemoryRefused("the process that reads pickles", exc.errno or 0) from exc


def _environ() -> dict[str, str]:
    # Neither devices nor what would have PyTorch open all there is in a pickle.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    }
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class _Reader:
    """The other end of the process."""

    def __init__(self, process: subprocess.Popen[bytes], paths: Sequence[Path]) -> None:
        self._process = process
        self._paths = paths
        self.tensors: dict[str, PickledTensor] = {}

    def list(self) -> None:
        self._ask(LIST, msgspec.json.encode([os.fspath(path) for path in self._paths]))
        kind, payload = self._hear()
        if kind != TENSORS:
            raise self._broken("gives no list of tensors")
        try:
            listed = msgspec.json.decode(payload, type=PickledTensors).tensors
        except msgspec.DecodeError as exc:
            raise self._broken("gives no list of tensors") from exc
        for name, tensor in listed.items():
            self._check(name, tensor)
        self.tensors = listed

    def pieces(self, name: str) -> Iterator[memoryview]:
        tensor = self.tensors[name]
        left = SourceTensor(dtype=tensor.dtype, shape=tensor.shape).size_bytes
        self._ask(READ, name.encode())
        while True:
            kind, payload = self._hear()
            if kind == BYTES and len(payload) <= left:
                left -= len(payload)
                yield memoryview(payload)
            elif kind == END and not left:
                return
            else:
                raise self._broken(f"gives other bytes of tensor {name!r} than there are")

    def _check(self, name: str, tensor: PickledTensor) -> None:
        rule = ""
        if name in _RESERVED or not is_unicode(name):
            rule = f"holds a tensor of the name {name!r}, which can't be stored"
        elif tensor.dtype not in ITEM_BITS or min(tensor.shape, default=0) < 0:
            rule = f"holds tensor {name!r}, which is none"
        try:
            if not rule and SourceTensor(dtype=tensor.dtype, shape=tensor.shape).size_bytes < 0:
                rule = f"holds tensor {name!r}, which is none"
        except UnevenBytes:
            rule = f"holds tensor {name!r}, which does not end at a whole byte"
        if rule:
            raise self._broken(rule)

    def _ask(self, kind: bytes, payload: bytes) -> None:
        try:
            send(cast("BinaryIO", self._process.stdin), kind, payload)
        except BrokenPipeError:
            # How it ended is told where its answer is missed.
            pass

    def _hear(self) -> tuple[bytes, bytes]:
        try:
            kind, payload = receive(cast("BinaryIO", self._process.stdout))
        except Garbled as exc:
            rule = f"can't be read as weights: the process that did so ended by {self._ending()}"
            raise self._broken(rule) from exc
        if kind != FAILED:
            return kind, payload
        try:
            failure = msgspec.json.decode(payload, type=Failure)
        except msgspec.DecodeError as exc:
            raise self._broken("can't be read as weights") from exc
        file = self._paths[min(max(failure.file, 0), len(self._paths) - 1)]
        raise CorruptCheckpoint(file, failure.rule)

    def _ending(self) -> str:
        try:
            code = self._process.wait(_LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            return "itself"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _broken(self, rule: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(self._paths[0], rule)
