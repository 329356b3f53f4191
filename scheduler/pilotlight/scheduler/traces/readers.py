"""How each trace's rows become records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar, cast

from pilotlight.scheduler.traces.files import TraceFile
from pilotlight.scheduler.traces.records import (
    Burst,
    FunctionDay,
    Lengths,
    Profile,
    TracedRequest,
)
from pilotlight.scheduler.traces.rows import Row, read_table

AZURE_LLM = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
AEGAEON = ("Request Time", "Model Name", "Input Length", "Output Length")
PROFILES = (
    *("source", "model", "gpu", "profile", "input_len", "batch", "avg_prefill_s"),
    *("avg_decode_step_s", "max_seq_len", "max_batch_size"),
)
LENGTHS_MS = ("arrival_ms", "input_tokens", "output_tokens")
LENGTHS_S = ("arrival_s", "input_tokens", "output_tokens")
SERVEGEN = ("window start", "rate", "CV", "family", "shape", "scale")
N_MINUTES = 1440
AZURE_FUNCTIONS = (
    *("HashOwner", "HashApp", "HashFunction", "Trigger"),
    *(str(minute) for minute in range(1, N_MINUTES + 1)),
)
GSM8K = ("question", "answer")

_PROFILE = re.compile(r"i(\d{1,9})b(\d{1,9})(?:-(?:tp|(v100)-)(\d{1,9}))?", re.ASCII)

_TIME_OF_DAY = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)

FAMILIES = ("", "Gamma", "Weibull")

T = TypeVar("T", float, datetime)


def read_azure_llm(file: TraceFile) -> Iterator[TracedRequest]:
    """Yield the requests; times count from the first one."""
    first: datetime | None = None
    for row, at in _in_order(read_table(file, AZURE_LLM), _timestamp):
        first = first or at
        yield TracedRequest(
            at=(at - first).total_seconds(),
            model="",
            prompt_tokens=row.count(1),
            output_tokens=row.count(2),
        )


def read_aegaeon(file: TraceFile) -> Iterator[TracedRequest]:
    """Yield the requests; times count from the trace's own zero."""
    for row, at in _in_order(read_table(file, AEGAEON), _time_of_day):
        yield TracedRequest(
            at=at, model=row.text(1), prompt_tokens=row.count(2), output_tokens=row.count(3)
        )


def read_lengths_ms(file: TraceFile) -> Iterator[TracedRequest]:
    """Yield the requests of a trace in milliseconds; an output that is empty has no tokens."""
    return _read_lengths(file, LENGTHS_MS, units_per_second=1000)


def read_lengths_s(file: TraceFile) -> Iterator[TracedRequest]:
    """Yield the requests of a trace in seconds; an output that is empty has no tokens."""
    return _read_lengths(file, LENGTHS_S, units_per_second=1)


def read_servegen(file: TraceFile) -> Iterator[Burst]:
    """Yield one client's windows."""
    rows = read_table(file, SERVEGEN, has_header=False)
    for row, begins_at in _in_order(rows, lambda row: row.amount(0)):
        if row.field(3) not in FAMILIES:
            row.wrong(3, "Gamma, Weibull or nothing")
        burst = Burst(
            begins_at=begins_at,
            requests_per_second=row.amount(1),
            cv=row.amount(2),
            family=row.field(3),
            shape=row.amount(4),
            scale=row.amount(5),
        )
        if burst.family and not (burst.shape and burst.scale):
            row.fail(f"a {burst.family} distribution has a shape and a scale above 0")
        yield burst


def read_azure_functions(file: TraceFile) -> Iterator[FunctionDay]:
    """Yield the functions of one day."""
    for row in read_table(file, AZURE_FUNCTIONS):
        yield FunctionDay(
            function="/".join(row.text(column) for column in range(3)),
            trigger=row.field(3),
            calls=row.counts(4),
        )


def read_profiles(file: TraceFile) -> Iterator[Profile]:
    """Yield the profiles; rows about memory are passed over."""
    for row in read_table(file, PROFILES):
        if row.field(3) == "memory":
            continue
        found = _PROFILE.fullmatch(row.field(3))
        if found is None:
            row.wrong(3, "as in i64b8, i64b8-tp2 or i64b8-v100-2")
        prompt_tokens, batch, other_device, devices = found.groups()
        yield Profile(
            model=row.text(1),
            device=(other_device or row.text(2)).upper(),
            devices=int(devices or 1),
            prompt_tokens=int(prompt_tokens),
            batch=int(batch),
            prefill_seconds=row.amount(6),
            decode_step_seconds=row.amount(7),
        )


def read_gsm8k(file: TraceFile) -> Iterator[Lengths]:
    """Yield the lengths of questions and answers."""
    number = 0
    for number, line in enumerate(file.lines(), 1):
        yield _lengths_of(line, file, number)
    if not number:
        raise file.broken("it has no rows")


def _lengths_of(line: str, file: TraceFile, number: int) -> Lengths:
    try:
        found = cast("object", json.loads(line))
    except (ValueError, RecursionError) as exc:
        raise file.broken(f"it is no JSON: {exc}", row=number) from exc
    texts = cast("dict[str, object]", found if isinstance(found, dict) else {})
    question, answer = (texts.get(name) for name in GSM8K)
    if not isinstance(question, str) or not isinstance(answer, str):
        raise file.broken("it is no object with a question and an answer", row=number)
    return Lengths(prompt_characters=len(question), answer_characters=len(answer))


def _read_lengths(
    file: TraceFile, columns: Sequence[str], *, units_per_second: int
) -> Iterator[TracedRequest]:
    rows = read_table(file, columns)
    for row, at in _in_order(rows, lambda row: row.amount(0) / units_per_second):
        yield TracedRequest(
            at=at,
            model="",
            prompt_tokens=row.count(1),
            output_tokens=row.count(2) if row.field(2) else 0,
        )


def _in_order(rows: Iterator[Row], time_of: Callable[[Row], T]) -> Iterator[tuple[Row, T]]:
    before: T | None = None
    for row in rows:
        at = time_of(row)
        if before is not None and at < before:
            row.fail("it is earlier than the row before it")
        before = at
        yield row, at


def _timestamp(row: Row) -> datetime:
    try:
        at = datetime.fromisoformat(row.text(0))
    except ValueError:
        row.wrong(0, "a date and a time")
    if at.tzinfo is not None:
        row.wrong(0, "without a time zone")
    return at


def _time_of_day(row: Row) -> float:
    found = _TIME_OF_DAY.fullmatch(row.field(0))
    if found is None:
        row.wrong(0, "HH:MM:SS")
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
