"""Measured times of real models on real GPUs, read from a CSV file."""

from __future__ import annotations

import csv
import difflib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from pilotlight.store_node.errors import InvalidOption

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class _Row(msgspec.Struct, frozen=True):
    """What is read of a row: a batch of prompts of one length, and how long it took."""

    model: str
    gpu: str
    input_len: _Count
    batch: _Count
    avg_prefill_s: _Seconds
    """Of all the batch's prompts together."""
    avg_decode_step_s: _Seconds
    """Of one token for each."""


_COLUMNS = _Row.__struct_fields__

# Prompts that fill the context leave nothing to decode, and the steps that Aegaeon's profiles
# have for them take a tenth of one that decodes; all others take eight tenths at least.
_LEAST_SHARE_OF_A_STEP = 0.5


class ExecutionProfile:
    """How long one model takes on one GPU, between and beyond what was measured.

    A prompt takes what the rows of batch 1 say, linearly between two lengths. A
    token for each of n requests is bilinear: linear in the batch at the measured
    lengths around theirs, then linear in the length. Shorter or fewer than
    measured takes as long as the least measured; longer or more goes on along
    the line through the last two measurements, but never falls. A single
    measurement holds everywhere. Steps that take less than half of the shortest
    prompt's have decoded nothing, and do not count.
    """

    def __init__(self, rows: Sequence[_Row]) -> None:
        """Take checked rows, at least one of them of batch 1."""
        shortest = min(rows, key=lambda row: (row.input_len, row.batch))
        least_seconds = shortest.avg_decode_step_s * _LEAST_SHARE_OF_A_STEP
        prefills: dict[float, float] = {}
        decodes: dict[int, dict[float, float]] = {}
        for row in rows:
            if row.batch == 1:
                prefills[row.input_len] = row.avg_prefill_s
            if row.avg_decode_step_s >= least_seconds:
                decodes.setdefault(row.input_len, {})[row.batch] = row.avg_decode_step_s
        self._prefill = _Curve(prefills)
        self._lengths = sorted(decodes)
        self._decodes = [_Curve(decodes[length]) for length in self._lengths]

    def prefill_seconds(self, n_tokens: int) -> float:
        """Return how long a prompt of so many tokens takes."""
        return self._prefill.at(n_tokens)

    def decode_seconds(self, n_requests: int, n_tokens: float) -> float:
        """Return how long one token of each request takes, that have so many on average."""
        right = min(bisect_left(self._lengths, n_tokens), len(self._lengths) - 1)
        around = range(max(0, right - 1), right + 1)
        return _Curve({self._lengths[i]: self._decodes[i].at(n_requests) for i in around}).at(
            n_tokens
        )


class _Curve:
    """A line through points: level before the first, straight on and never down after the last."""

    def __init__(self, points: Mapping[float, float]) -> None:
        self._points = sorted(points.items())
        self._xs = [x for x, _ in self._points]

    def at(self, x: float) -> float:
        right = min(bisect_left(self._xs, x), len(self._xs) - 1)
        x_right, y_right = self._points[right]
        if right == 0:
            return y_right
        x_left, y_left = self._points[right - 1]
        slope = (y_right - y_left) / (x_right - x_left)
        if x > x_right:
            slope = max(0.0, slope)
        return y_right + slope * (x - x_right)


def read_execution_profile(path: Path, *, model: str, gpu: str) -> ExecutionProfile:
    """Read what a file says of one model on one GPU.

    It has a header with the columns model, gpu, input_len, batch, avg_prefill_s
    and avg_decode_step_s; others are ignored. Rows that name neither input_len
    nor batch are about something else, and left out.

    Raises:
        InvalidOption: names the file, and the line and the rule that it breaks.
    """
    try:
        if not path.is_file():
            raise InvalidOption(f"{path} is no file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return ExecutionProfile(_select(path, csv.DictReader(file), model=model, gpu=gpu))
    except OSError as error:
        raise InvalidOption(f"{path} can't be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} is no CSV file: {error}") from error


def _select(path: Path, reader: csv.DictReader[str], *, model: str, gpu: str) -> list[_Row]:
    absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if absent:
        raise InvalidOption(f"{path} has no column {', '.join(absent)}")
    gpus: dict[str, set[str]] = {}
    rows: dict[tuple[int, int], _Row] = {}
    for line, values in _about_batches(reader):
        gpus.setdefault(values["model"], set()).add(values["gpu"])
        if (values["model"], values["gpu"]) != (model, gpu):
            continue
        row = _convert(values, f"{path}, line {line}")
        if rows.setdefault((row.input_len, row.batch), row) is not row:
            raise InvalidOption(
                f"{path}, line {line}: input_len {row.input_len} and batch {row.batch}"
                " stand in an earlier line too"
            )
    _check_known(path, "model", model, gpus)
    _check_known(path, f"gpu with model {model!r}", gpu, gpus[model])
    if not any(row.batch == 1 for row in rows.values()):
        raise InvalidOption(
            f"{path} has no row of {model!r} on {gpu!r} with batch 1,"
            " which says how long a prompt takes"
        )
    return list(rows.values())


def _about_batches(reader: csv.DictReader[str]) -> Iterator[tuple[int, dict[str, str]]]:
    for values in reader:
        # A row that is cut short has None for the rest.
        known = {column: values[column] or "" for column in _COLUMNS}
        if known["input_len"] or known["batch"]:
            yield reader.line_num, known


def _convert(values: Mapping[str, str], where: str) -> _Row:
    try:
        return msgspec.convert(values, _Row, strict=False)
    except msgspec.ValidationError as error:
        rule, _, column = str(error).removesuffix("`").partition(" - at `$.")
        raise InvalidOption(f"{where}: {column} is {values[column]!r}: {rule}") from error


def _check_known(path: Path, what: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
    raise InvalidOption(f"{path} has no rows of {what} {name!r}; {hint}")
