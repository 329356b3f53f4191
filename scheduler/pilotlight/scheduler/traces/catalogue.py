"""Which traces there are, and which of them a file is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pilotlight.scheduler.traces import readers
from pilotlight.scheduler.traces.files import TraceFile
from pilotlight.scheduler.traces.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """A trace that is published, and how its files are read."""

    name: str
    holds: str
    """What its rows are."""
    published: str
    licence: str
    columns: Sequence[str]
    read: Callable[[TraceFile], Iterator[Record]]
    """Yields the records of a file; raises BrokenTrace."""


_AZURE = "https://github.com/Azure/AzurePublicDataset"
_AEGAEON = "https://github.com/MachineLearningSystem/25SOSP-Aegaeon"

FORMATS: Sequence[TraceFormat] = (
    TraceFormat(
        name="azure-functions-2019",
        holds="calls of each function in each minute of a day",
        published=_AZURE,
        licence="CC-BY-4.0",
        columns=readers.AZURE_FUNCTIONS,
        read=readers.read_azure_functions,
    ),
    TraceFormat(
        name="azure-llm-2023",
        holds="requests to one service in one hour",
        published=_AZURE,
        licence="CC-BY-4.0",
        columns=readers.AZURE_LLM,
        read=readers.read_azure_llm,
    ),
    TraceFormat(
        name="aegaeon",
        holds="requests to many models, drawn by its authors",
        published=_AEGAEON,
        licence="Apache-2.0",
        columns=readers.AEGAEON,
        read=readers.read_aegaeon,
    ),
    TraceFormat(
        name="aegaeon-profiles",
        holds="measured prefill and decode times, gathered in one table",
        published=_AEGAEON,
        licence="Apache-2.0",
        columns=readers.PROFILES,
        read=readers.read_profiles,
    ),
    TraceFormat(
        name="servegen",
        holds="request rates of one client over days",
        published="https://github.com/alibaba/ServeGen",
        licence="Apache-2.0",
        columns=readers.SERVEGEN,
        read=readers.read_servegen,
    ),
    TraceFormat(
        name="sharegpt-aibrix",
        holds="arrivals and lengths of conversations, in milliseconds",
        published="https://github.com/vllm-project/aibrix",
        licence="Apache-2.0",
        columns=readers.LENGTHS_MS,
        read=readers.read_lengths_ms,
    ),
    TraceFormat(
        name="sharegpt-llmservingsim",
        holds="arrivals and lengths of conversations, in seconds",
        published="https://github.com/casys-kaist/LLMServingSim",
        licence="MIT",
        columns=readers.LENGTHS_S,
        read=readers.read_lengths_s,
    ),
    TraceFormat(
        name="gsm8k",
        holds="questions and answers: short prompts",
        published="https://github.com/openai/grade-school-math",
        licence="MIT",
        columns=readers.GSM8K,
        read=readers.read_gsm8k,
    ),
)

_BY_NAME = {each.name: each for each in FORMATS}
_BY_COLUMNS = {
    frozenset(each.columns): each
    for each in FORMATS
    if each.columns not in (readers.SERVEGEN, readers.GSM8K)
}


def detect(file: TraceFile) -> TraceFormat:
    """Return what trace a file is, by its first row.

    Columns in another order are of the same trace, whose reader refuses them.

    Raises:
        BrokenTrace: it is none of them, empty, or can't be read.
    """
    first = next(file.lines(), "").rstrip("\r\n")
    if not first:
        raise file.broken("it has no rows")
    if first.startswith("{"):
        return _BY_NAME["gsm8k"]
    fields = first.split(",")
    found = _BY_COLUMNS.get(frozenset(fields))
    if found is not None:
        return found
    if len(fields) == len(readers.SERVEGEN) and fields[3] in readers.FAMILIES:
        return _BY_NAME["servegen"]
    raise file.broken("its columns are those of no known trace", row=1)
