"""The process that opens pickles: only weights, within limits, far from everything else.

PyTorch builds nothing but tensors and plain containers out of a pickle that is
opened with `weights_only`. Should a file get around that, it finds a process that
can make no file grow and has little memory, and whose answers are checked. It has the
rights of its user all the same.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import torch

from pilotlight.native_loader.formats.dtypes import dtype_of
from pilotlight.native_loader.formats.unicode_text import is_unicode
from pilotlight.native_loader.packing.pickle_messages import (
    BYTES,
    END,
    FAILED,
    LIST,
    TENSORS,
    Failure,
    Garbled,
    PickledTensor,
    PickledTensors,
    Unreadable,
    receive,
    send,
)
from pilotlight.native_loader.packing.zip_records import ZipRecords

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Under which names training code keeps a model's state dict among other things."""
_ZIP_START = b"PK\x03\x04"
_PIECE_BYTES = 4 << 20
_SPARE_MEMORY_BYTES = 2 << 30
_SPARE_SECONDS = 60
_SLOWEST_BYTES_PER_SECOND = 20_000_000


def serve(requests: BinaryIO, answers: BinaryIO, limit: Callable[[Sequence[str]], None]) -> None:
    """Answer until there are no more requests; `limit` is told what is going to be opened."""
    files = _Files([])
    while True:
        try:
            kind, payload = receive(requests)
        except Garbled:
            return
        try:
            if kind == LIST:
                files = _Files(msgspec.json.decode(payload, type=list[str]))
                limit(files.paths)
                send(answers, TENSORS, _listing(files))
            else:
                for piece in _pieces(files.tensor(payload.decode())):
                    send(answers, BYTES, piece)
                send(answers, END)
        except Unreadable as exc:
            failure = Failure(file=files.current, rule=str(exc))
            send(answers, FAILED, msgspec.json.encode(failure))


def _listing(files: _Files) -> bytes:
    try:
        return msgspec.json.encode(files.describe())
    except Unreadable:
        raise
    except MemoryError as exc:
        raise Unreadable("needs more memory than a file of its size may") from exc
    except Exception as exc:
        # Whatever a tensor that only looks like one makes PyTorch raise.
        raise Unreadable(f"is no file of plain weights: {_one_line(exc)}") from exc


class _Files:
    """The files of a checkpoint. Those that can't be mapped are held one at a time."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.current = 0
        self._places: dict[str, int] = {}
        self._mapped: dict[int, dict[str, torch.Tensor]] = {}
        self._records: dict[int, ZipRecords] = {}
        self._held: tuple[int, dict[str, torch.Tensor]] | None = None

    def describe(self) -> PickledTensors:
        described: dict[str, PickledTensor] = {}
        views: dict[object, int] = {}
        for number in range(len(self.paths)):
            state = self._state(number)
            for name, tensor in state.items():
                if name in described:
                    other = Path(self.paths[described[name].file]).name
                    raise Unreadable(f"holds tensor {name!r}, which {other} holds too")
                dtype, shape = _description(name, tensor)
                described[name] = PickledTensor(
                    file=number,
                    dtype=dtype,
                    shape=shape,
                    view=views.setdefault(_view_key(number, name, tensor), len(views)),
                )
                self._places[name] = number
            if number in self._records:
                self._records[number].check_extents(state.values())
        return PickledTensors(tensors=described)

    def tensor(self, name: str) -> torch.Tensor:
        number = self._places.get(name)
        if number is None:
            raise Unreadable(f"holds no tensor {name!r}")
        tensor = self._state(number)[name]
        if number in self._records:
            self._records[number].check_bytes(tensor)
        return tensor

    def _state(self, number: int) -> dict[str, torch.Tensor]:
        self.current = number
        if number in self._mapped:
            return self._mapped[number]
        if self._held is not None and self._held[0] == number:
            return self._held[1]
        self._held = None
        path = self.paths[number]
        with open(path, "rb") as stream:
            is_mapped = stream.read(len(_ZIP_START)) == _ZIP_START
        state = _state_dict(_load(path, is_mapped=is_mapped))
        if is_mapped:
            self._mapped[number] = state
            self._records[number] = ZipRecords(path)
        else:
            self._held = (number, state)
        return state


def _load(path: str, *, is_mapped: bool) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except MemoryError as exc:
        raise Unreadable("needs more memory than a file of its size may") from exc
    except Exception as exc:
        # Whatever a broken or hostile file makes the unpickler raise.
        raise Unreadable(f"is no file of plain weights: {_one_line(exc)}") from exc


def _one_line(error: Exception) -> str:
    """Return what matters of PyTorch's advice, which fills a page."""
    text = str(error)
    match = re.search(r"(Unsupported|Trying to|Can not|Cannot use|Invalid)[^\n]*", text)
    return " ".join((match[0] if match else text or type(error).__name__).split())[:300]


def _state_dict(loaded: object) -> dict[str, torch.Tensor]:
    """Return the state dict that a file holds, alone or among other things."""
    if not isinstance(loaded, Mapping):
        raise Unreadable(f"holds a {type(loaded).__name__}, and no state dict")
    outer = cast("Mapping[object, object]", loaded)
    found = [name for name in _WRAPPERS if isinstance(outer.get(name), Mapping)]
    if not found or any(isinstance(value, torch.Tensor) for value in outer.values()):
        return _only_tensors(outer, "")
    if len(found) > 1:
        raise Unreadable(f"holds several state dicts: {', '.join(map(repr, found))}")
    return _only_tensors(cast("Mapping[object, object]", outer[found[0]]), f"{found[0]}.")


def _only_tensors(values: Mapping[object, object], prefix: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise Unreadable(f"holds something under {name!r:.80}, which is no name")
        if not is_unicode(name):
            raise Unreadable(f"holds a tensor of the name {name!r:.120}, which can't be stored")
        if not isinstance(value, torch.Tensor):
            shown = f"{prefix}{name}"
            raise Unreadable(f"holds {shown!r:.120}, a {type(value).__name__} and no tensor")
        state[name] = value.detach()
    return state


def _description(name: str, tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    is_plain = is_plain and not tensor.is_nested
    described = dtype_of(tensor.dtype, tensor.shape) if is_plain else None
    if described is None:
        layout = "nested" if tensor.is_nested else tensor.layout
        kind = f"{tensor.dtype} tensor on {tensor.device.type} with layout {layout}"
        raise Unreadable(f"holds {name!r:.120}, a {kind}, which safetensors can't store")
    return described


def _view_key(file: int, name: str, tensor: torch.Tensor) -> object:
    if tensor.numel() == 0 or tensor.is_conj() or tensor.is_neg():
        return name
    return file, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes in row-major order, whatever order its memory has them in."""
    if tensor.is_conj() or tensor.is_neg():
        yield from _pieces_of_rows(tensor)
    elif tensor.is_contiguous():
        flat = tensor.reshape(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _PIECE_BYTES):
            yield flat[start : start + _PIECE_BYTES].numpy().data
    else:
        yield from _pieces_of_rows(tensor)


def _pieces_of_rows(tensor: torch.Tensor) -> Iterator[memoryview]:
    if tensor.nbytes <= _PIECE_BYTES:
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        yield from _pieces(plain)
        return
    # A row may be longer than a piece, and the first dimension 1.
    n_rows = max(1, _PIECE_BYTES * tensor.shape[0] // tensor.nbytes)
    if tensor.shape[0] == 1:
        yield from _pieces_of_rows(tensor[0])
        return
    for start in range(0, tensor.shape[0], n_rows):
        yield from _pieces_of_rows(tensor[start : start + n_rows])


def limit_process() -> None:
    """Take from this process what it does not need."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_work(paths: Sequence[str]) -> None:
    """Leave memory for mapping and for holding the files, and some more; and time likewise."""
    files_bytes = sum(os.stat(path).st_size for path in paths)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * files_bytes + _SPARE_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = _SPARE_SECONDS + files_bytes // _SLOWEST_BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def main() -> None:
    """Serve the process that has started this one."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limit_process()
    serve(sys.stdin.buffer, sys.stdout.buffer, limit_work)


if __name__ == "__main__":
    main()
