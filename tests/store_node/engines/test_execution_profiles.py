"""Measured times, between and beyond what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.store_node.engines.timed_rig import arrivals, bind, make_setup, make_work

from pilotlight.store_node.engines.execution_profiles import read_execution_profile
from pilotlight.store_node.errors import InvalidOption
from pilotlight.store_node.testing import FakeClock

# Read before tests are kept from seeing the environment.
TRACES = os.environ.get("PILOTLIGHT_TRACES", "")

HEADER = "source,model,gpu,profile,input_len,batch,avg_prefill_s,avg_decode_step_s,max_seq_len\n"
ROWS = """\
measured,small,A1,i10b1,10,1,0.1,0.01,
measured,small,A1,i10b4,10,4,0.4,0.04,
measured,small,A1,i30b1,30,1,0.2,0.02,
measured,small,A1,i30b2,30,2,0.4,0.04,
measured,small,A1,tp2,,,0.1,0.1,
measured,small,B2,i10b1,10,1,1.0,0.1,
measured,large,A1,memory,,,,,4096
measured,large,A1,i10b2,10,2,1.0,0.1,
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.csv"
    path.write_text(HEADER + ROWS)
    return path


@pytest.fixture
def traces(absent: Callable[[str, str], NoReturn]) -> Path:
    """Return the folder of recorded workloads, or skip."""
    beside = Path(__file__).parents[4] / "shared" / "traces"
    folder = Path(TRACES) if TRACES else beside
    if not (folder / "aegaeon" / "execution_profiles.csv").exists():
        absent("traces", f"{folder} holds no aegaeon/execution_profiles.csv")
    return folder


@pytest.mark.parametrize(
    ("n_tokens", "seconds"),
    [
        (10, 0.1),
        (30, 0.2),
        (20, 0.15),  # half way
        (3, 0.1),  # the least that was measured
        (50, 0.3),  # on along 0.1 for 20 tokens
    ],
)
def test_a_prompt_takes_what_one_alone_took(profiles: Path, n_tokens: int, seconds: float) -> None:
    profile = read_execution_profile(profiles, model="small", gpu="A1")

    assert profile.prefill_seconds(n_tokens) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("n_requests", "n_tokens", "seconds"),
    [
        (1, 10, 0.01),
        (4, 10, 0.04),
        (2, 10, 0.02),  # a third of the way from 1 to 4
        (2, 20, 0.03),  # half way from 0.02 to 0.04
        (2, 5, 0.02),  # shorter than measured: as at 10
        (3, 30, 0.06),  # on along 0.02 for a request
        (1, 50, 0.03),  # on along 0.01 for 20 tokens
        (3, 50, 0.09),  # 0.03 at 10, 0.06 at 30
    ],
)
def test_a_token_for_each_is_bilinear(
    profiles: Path, n_requests: int, n_tokens: int, seconds: float
) -> None:
    profile = read_execution_profile(profiles, model="small", gpu="A1")

    assert profile.decode_seconds(n_requests, n_tokens) == pytest.approx(seconds)


def test_times_that_fall_at_the_end_do_not_fall_on(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    path.write_text(HEADER + "x,m,g,,10,1,0.3,0.02,\nx,m,g,,20,1,0.2,0.01,\n")

    profile = read_execution_profile(path, model="m", gpu="g")

    assert profile.prefill_seconds(15) == pytest.approx(0.25)
    assert profile.prefill_seconds(1000) == pytest.approx(0.2)
    assert profile.decode_seconds(9, 1000) == pytest.approx(0.01)


def test_steps_that_decoded_nothing_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    path.write_text(HEADER + "x,m,g,,10,1,0.1,0.02,\nx,m,g,,20,1,0.2,0.002,\n")

    profile = read_execution_profile(path, model="m", gpu="g")

    assert profile.decode_seconds(1, 20) == pytest.approx(0.02)
    assert profile.prefill_seconds(20) == pytest.approx(0.2)


def test_one_measurement_holds_everywhere(profiles: Path) -> None:
    profile = read_execution_profile(profiles, model="small", gpu="B2")

    assert {profile.prefill_seconds(n) for n in (1, 10, 100)} == {1.0}
    assert {profile.decode_seconds(n, 10 * n) for n in (1, 10, 100)} == {0.1}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "has no column model, gpu, input_len, batch"),
        ("model,gpu,input_len,batch,avg_prefill_s\n", "has no column avg_decode_step_s"),
        (HEADER, "has no rows of model 'small'; known: none"),
        (HEADER + "x,smaller,A1,,1,1,1,1,\n", "did you mean 'smaller'"),
        (HEADER + "x,small,A100,,1,1,1,1,\n", "gpu with model 'small' 'A1'; did you mean 'A100'"),
        (HEADER + "x,small,A1,,1,2,1,1,\n", "with batch 1, which says how long a prompt takes"),
        (HEADER + "x,small,A1,,1,1,1,1,\nx,small,A1,,many,1,1,1,\n", "line 3: input_len is 'many'"),
        (HEADER + "x,small,A1,,1,0,1,1,\n", "line 2: batch is '0': Expected `int` >= 1"),
        (HEADER + "x,small,A1,,1,1,nan,1,\n", "line 2: avg_prefill_s is 'nan'"),
        (HEADER + "x,small,A1,,1,1,1,-1,\n", "line 2: avg_decode_step_s is '-1'"),
        (HEADER + "x,small,A1,,1,1\n", "line 2: avg_prefill_s is ''"),
        (HEADER + "x,small,A1,,1,1,1,1,\n" * 2, "line 3: input_len 1 and batch 1 stand in an"),
        ("\0\n", "no CSV file|has no column"),
    ],
)
def test_a_file_that_says_no_times_is_refused(tmp_path: Path, content: str, rule: str) -> None:
    path = tmp_path / "profiles.csv"
    path.write_text(content)

    with pytest.raises(InvalidOption, match=rule) as refused:
        read_execution_profile(path, model="small", gpu="A1")

    assert str(path) in str(refused.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidOption, match="is no CSV file"):
        read_execution_profile(path, model="small", gpu="A1")


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption, match="is no file"):
        read_execution_profile(tmp_path / name, model="small", gpu="A1")


def test_the_engine_keeps_the_measured_pace(profiles: Path) -> None:
    clock = FakeClock()
    options = {"profile_file": profiles.name, "profile_model": "small", "profile_gpu": "A1"}
    engine, _ = bind(make_setup(profiles.parent, options, concurrency=2), clock)

    engine.admit(make_work("a", prompt=10, max_tokens=2))
    engine.admit(make_work("b", prompt=30, max_tokens=2))

    # Prompts of 0.1 and 0.2; then two tokens after 11 and 31: at 21 half way between 0.02
    # and 0.04, and a twentieth of that more.
    assert arrivals(engine, clock) == [("a", 0.1), ("b", 0.3), ("a", 0.331), ("b", 0.331)]


def test_a_profile_needs_all_its_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="profile_file, profile_model and profile_gpu"):
        bind(make_setup(tmp_path, profile_model="small"), FakeClock())


def test_recorded_profiles_give_back_what_was_recorded(traces: Path) -> None:
    path = traces / "aegaeon" / "execution_profiles.csv"

    profile = read_execution_profile(path, model="baichuan2_13b_chat", gpu="H800")
    other = read_execution_profile(path, model="llama2_13b_chat", gpu="A100")

    assert profile.prefill_seconds(1024) == pytest.approx(0.0459426, rel=1e-5)
    assert profile.decode_seconds(8, 1024) == pytest.approx(0.0171242, rel=1e-5)
    assert profile.prefill_seconds(8192) > profile.prefill_seconds(4096)
    # That row of the file says 0.0004: its prompts filled the context.
    assert other.decode_seconds(2, 4096) > 0.02
