from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.traces import (
    FORMATS,
    BrokenTrace,
    Burst,
    FunctionDay,
    Lengths,
    Profile,
    Record,
    TracedRequest,
    TraceFile,
    detect,
)
from pilotlight.scheduler.traces.readers import AZURE_FUNCTIONS, N_MINUTES

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
PROFILES = (
    "source,model,gpu,profile,input_len,batch,avg_prefill_s,avg_decode_step_s,"
    "max_seq_len,max_batch_size\n"
)
# Taken before any test takes settings of the outside away.
PUBLISHED = Path(
    os.environ.get("PILOTLIGHT_TRACES", Path(__file__).parents[4] / "shared" / "traces")
)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], list[Record]]:
    def from_text(text: str | bytes) -> list[Record]:
        return read_text(tmp_path / "trace", text)

    return from_text


Read = Callable[[str | bytes], list[Record]]


def read_text(path: Path, text: str | bytes) -> list[Record]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with TraceFile(path) as file:
        return list(detect(file).read(file))


def requests(*rows: tuple[float, str, int, int]) -> list[TracedRequest]:
    return [
        TracedRequest(at=at, model=model, prompt_tokens=prompt, output_tokens=output)
        for at, model, prompt, output in rows
    ]


def day(counts: list[str]) -> str:
    return f"{','.join(AZURE_FUNCTIONS)}\nowner,app,function,http,{','.join(counts)}\n"


def test_times_of_an_azure_llm_trace_count_from_its_first_request(read: Read) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"

    assert read(AZURE + rows) == requests((0.0, "", 374, 44), (4.314579, "", 396, 109))


def test_aegaeons_requests_name_their_models(read: Read) -> None:
    header = "Request Time,Model Name,Input Length,Output Length\n"

    assert read(f"{header}00:01:00.418,a,168,416\n01:00:03.5,b,619,503\n") == requests(
        (60.418, "a", 168, 416), (3603.5, "b", 619, 503)
    )


def test_lengths_may_be_timed_in_milliseconds_and_lack_an_output(read: Read) -> None:
    rows = "arrival_ms,input_tokens,output_tokens\r\n6011,178,8\r\n6917,423,\r\n"

    assert read(rows) == requests((6.011, "", 178, 8), (6.917, "", 423, 0))


def test_lengths_may_be_timed_in_seconds(read: Read) -> None:
    assert read("arrival_s,input_tokens,output_tokens\n0.5,2358,531\n") == requests(
        (0.5, "", 2358, 531)
    )


def test_servegens_windows_have_no_header(read: Read) -> None:
    assert read("0,0,0,,0,0\n600,2.5,4,Gamma,0.0625,6.4\n") == [
        Burst(begins_at=0.0, requests_per_second=0.0, cv=0.0, family="", shape=0.0, scale=0.0),
        Burst(
            begins_at=600.0,
            requests_per_second=2.5,
            cv=4.0,
            family="Gamma",
            shape=0.0625,
            scale=6.4,
        ),
    ]


def test_azure_functions_have_a_count_for_each_minute(read: Read) -> None:
    counts = [str(minute % 7) for minute in range(N_MINUTES)]

    assert read(day(counts)) == [
        FunctionDay(function="owner/app/function", trigger="http", calls=tuple(map(int, counts)))
    ]


@pytest.mark.parametrize(
    ("profile", "device", "devices"),
    [("i64b8", "H800", 1), ("i64b8-tp2", "H800", 2), ("i64b8-v100-4", "V100", 4)],
)
def test_profiles_say_on_how_many_devices(
    read: Read, profile: str, device: str, devices: int
) -> None:
    rows = f"sim,yi-6b,h800,{profile},,,0.35,0.03,,\nsim,yi-6b,a10,memory,,,,,4096,4096\n"

    assert read(PROFILES + rows) == [
        Profile(
            model="yi-6b",
            device=device,
            devices=devices,
            prompt_tokens=64,
            batch=8,
            prefill_seconds=0.35,
            decode_step_seconds=0.03,
        )
    ]


def test_questions_and_answers_are_counted_in_characters(read: Read) -> None:
    assert read('{"question": "Wie viel?", "answer": "\\u00e4 7"}\n') == [
        Lengths(prompt_characters=9, answer_characters=3)
    ]


def test_a_mark_of_byte_order_is_no_part_of_a_column(read: Read) -> None:
    rows = b"\xef\xbb\xbfarrival_s,input_tokens,output_tokens\n1,2,3\n"

    assert read(rows) == requests((1.0, "", 2, 3))


@pytest.mark.parametrize(
    ("text", "row", "rule"),
    [
        ("", None, "no rows"),
        (AZURE, None, "no rows"),
        ("a,b,c\n1,2,3\n", 1, "no known trace"),
        ("TIMESTAMP,GeneratedTokens,ContextTokens\n", 1, "column 2 is 'GeneratedTokens'"),
        (AZURE + "2023-11-16 18:15:46,1\n", 2, "2 fields instead of 3"),
        (AZURE + "2023-11-16 18:15:46,-1,2\n", 2, "ContextTokens is '-1', not a count"),
        (AZURE + "2023-11-16 18:15:46,1e3,2\n", 2, "ContextTokens is '1e3', not a count"),
        (AZURE + f"2023-11-16 18:15:46,{'9' * 5000},2\n", 2, "not a count"),
        (PROFILES + f"sim,m,a10,i{'9' * 5000}b1,,,1,1,,\n", 2, "not as in"),
        (AZURE + "2023-11-16 18:15:46,1,\n", 2, "GeneratedTokens is '', not a count"),
        (AZURE + "yesterday,1,2\n", 2, "'yesterday', not a date"),
        (
            AZURE + "2023-11-16 18:15:46,1,2\n2023-11-16 18:15:45,1,2\n",
            3,
            "earlier than the row before",
        ),
        (
            AZURE + "2023-11-16 18:15:46,1,2\n2023-11-16 18:15:47+00:00,1,2\n",
            3,
            "time zone",
        ),
        ("arrival_s,input_tokens,output_tokens\nnan,1,2\n", 2, "arrival_s is 'nan'"),
        ("arrival_s,input_tokens,output_tokens\n-1,1,2\n", 2, "arrival_s is '-1'"),
        ("arrival_s,input_tokens,output_tokens\n1,1,2\n\n", 3, "0 fields instead of 3"),
        ("Request Time,Model Name,Input Length,Output Length\n1:2,m,1,2\n", 2, "not HH:MM:SS"),
        (
            "Request Time,Model Name,Input Length,Output Length\n00:00:nan,m,1,2\n",
            2,
            "not HH:MM:SS",
        ),
        ("Request Time,Model Name,Input Length,Output Length\n00:00:-1,m,1,2\n", 2, "not HH:MM:SS"),
        ("Request Time,Model Name,Input Length,Output Length\n00:00:01,,1,2\n", 2, "is empty"),
        ("0,1,1,Gamma,0,1\n", 1, "a shape and a scale above 0"),
        ("0,1,1,,0,0\n1,1,1,Normal,1,1\n", 2, "family is 'Normal'"),
        (day([*"1" * (N_MINUTES - 1), "-1"]), 2, "1440 is '-1', not a count"),
        (day([*"1" * (N_MINUTES - 1), ""]), 2, "1440 is '', not a count"),
        (PROFILES + "sim,m,a10,b8i64,,,1,1,,\n", 2, "profile is 'b8i64'"),
        ('{"question": 1, "answer": ""}\n', 1, "a question and an answer"),
        ("{\n", 1, "no JSON"),
        (AZURE.encode() + b"\xff\n", 2, "no text"),
        (AZURE + "1" * (2 << 20), 2, "longer than any row"),
        (AZURE + '"' + "1" * 200_000 + "\n", 2, "no row of a table"),
    ],
)
def test_a_broken_file_is_named_with_its_row_and_the_rule(
    tmp_path: Path, text: str | bytes, row: int | None, rule: str
) -> None:
    with pytest.raises(BrokenTrace) as caught:
        read_text(tmp_path / "trace", text)

    assert caught.value.row == row
    assert str(caught.value).startswith(str(tmp_path / "trace"))
    assert rule in str(caught.value)


def test_what_can_t_be_read_is_told(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "gone", "No such file")):
        with pytest.raises(BrokenTrace, match=reason):
            TraceFile(path)


def test_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "1,2,3\n" * 200_000)
    with TraceFile(path) as file:
        next(detect(file).read(file))

        assert 0 < file.done_bytes < file.size_bytes / 10


@pytest.mark.property
@given(header=st.sampled_from([",".join(each.columns) for each in FORMATS]), rest=st.binary())
def test_any_bytes_are_records_or_a_broken_trace(
    tmp_path_factory: pytest.TempPathFactory, header: str, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-trace"
    try:
        found = read_text(path, header.encode() + b"\n" + rest)
    except BrokenTrace:
        return
    assert found


def test_published_traces_are_whole(absent: Callable[[str, str], NoReturn]) -> None:
    if not PUBLISHED.is_dir():
        absent("traces", "PILOTLIGHT_TRACES names no folder with published traces")
    files = [path for path in PUBLISHED.rglob("*") if path.suffix in (".csv", ".jsonl")]

    found: dict[str, int] = {}
    for path in files:
        with TraceFile(path) as file:
            trace = detect(file)
            found[trace.name] = found.get(trace.name, 0) + sum(1 for _ in trace.read(file))

    # Of each the whole file, as its publisher has it.
    assert found["azure-llm-2023"] == 8819 + 19366
    assert found["servegen"] == 43 * 2016
    assert found["aegaeon-profiles"] == 9252
    assert found["gsm8k"] == 1319
