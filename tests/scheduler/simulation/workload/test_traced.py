from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pilotlight.scheduler.simulation.workload import (
    ClientSource,
    InvalidWorkload,
    Replay,
    Seeds,
    read_counts,
    read_lengths,
    zipf_shares,
)
from pilotlight.scheduler.simulation.workload.clients import check_clients
from pilotlight.scheduler.simulation.workload.service import MOST_KEPT
from pilotlight.scheduler.traces import BrokenTrace
from pilotlight.scheduler.traces.readers import AZURE_FUNCTIONS, N_MINUTES

SEEDS = Seeds(1)


def azure_day(path: Path, calls: dict[str, dict[int, int]]) -> Path:
    """Write functions with their calls by minute, from 0 on."""
    rows = [",".join(AZURE_FUNCTIONS)]
    for name, by_minute in calls.items():
        counts = (str(by_minute.get(minute, 0)) for minute in range(N_MINUTES))
        rows.append(f"o,a,{name},http,{','.join(counts)}")
    path.write_text("\n".join(rows) + "\n")
    return path


def client(path: Path, windows: Sequence[str]) -> Path:
    path.write_text("".join(f"{600 * row},{each}\n" for row, each in enumerate(windows)))
    return path


def lengths(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{r}\n" for r in rows))
    return path


class TestCounts:
    def test_functions_that_are_called_go_to_models_in_stripes(self, tmp_path: Path) -> None:
        path = azure_day(
            tmp_path / "day.csv",
            {"f0": {10: 1, 11: 2}, "never": {}, "f1": {10: 5}, "early": {3: 9}, "f2": {11: 7}},
        )

        counts = read_counts([path], n_models=2, first_minute=10, n_minutes=2)

        # f0 and f2 are for model 0, f1 for model 1; the others have no calls in the slice.
        assert counts.tolist() == [[1, 5], [9, 0]]

    def test_a_function_is_for_the_same_model_on_all_days(self, tmp_path: Path) -> None:
        days = [
            azure_day(tmp_path / "d1.csv", {"f0": {N_MINUTES - 1: 1}, "f1": {N_MINUTES - 1: 2}}),
            azure_day(tmp_path / "d2.csv", {"f1": {0: 4}, "f0": {0: 8}}),
        ]

        counts = read_counts(days, n_models=2, first_minute=N_MINUTES - 1, n_minutes=2)

        assert counts.tolist() == [[1, 2], [8, 4]]

    def test_a_slice_without_calls_is_refused(self, tmp_path: Path) -> None:
        path = azure_day(tmp_path / "day.csv", {"f0": {10: 1}})

        with pytest.raises(InvalidWorkload, match=r"day\.csv: no function is called"):
            read_counts([path], n_models=2, first_minute=20, n_minutes=5)

    def test_a_slice_that_ends_after_the_last_day_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidWorkload, match=r"^minutes: .* 1,441 of 1,440"):
            read_counts([tmp_path / "day.csv"], n_models=2, first_minute=1436, n_minutes=5)

    def test_a_broken_row_is_named(self, tmp_path: Path) -> None:
        path = azure_day(tmp_path / "day.csv", {"f0": {10: 1}, "f1": {10: -5}})

        with pytest.raises(BrokenTrace, match=r"day\.csv, row 3: 11 is '-5', not a count"):
            read_counts([path], n_models=2, first_minute=10, n_minutes=2)


class TestClients:
    def test_each_client_is_for_its_own_model_in_its_own_windows(self, tmp_path: Path) -> None:
        files = [
            client(tmp_path / "a.csv", ["2,1,Gamma,1,0.5", "0,0,,0,0"]),
            client(tmp_path / "b.csv", ["0,0,,0,0", "1,1,Weibull,1,1"]),
        ]
        source = ClientSource(files=files, requests_per_second=1.5, span_seconds=1200.0)

        found = list(source.timed(SEEDS, math.inf))

        assert all(at < 600.0 if model == 0 else 600.0 <= at < 1200.0 for at, model in found)
        counts = np.bincount([model for _, model in found])
        # 1200 and 600 requests, as traced; five standard deviations are 173 and 122.
        assert counts == pytest.approx([1200, 600], abs=175)
        assert source.shares(SEEDS) == pytest.approx([2 / 3, 1 / 3])

    def test_a_span_runs_at_another_pace_and_rate(self, tmp_path: Path) -> None:
        file = client(tmp_path / "a.csv", ["5,1,,0,0", "1,1,,0,0", "3,1,,0,0", "5,1,,0,0"])
        source = ClientSource(
            files=[file],
            requests_per_second=10.0,
            from_seconds=600.0,
            span_seconds=1200.0,
            speedup=12.0,
        )

        times = [at for at, _ in source.timed(SEEDS, math.inf)]

        # 1200 s become 100 s, with a quarter of the requests in the first half.
        assert source.seconds == 100.0
        assert times[-1] < 100.0
        assert len(times) == pytest.approx(1000, abs=160)
        assert sum(at < 50.0 for at in times) == pytest.approx(250, abs=80)

    def test_popularity_may_be_said_apart_from_when_clients_are_busy(self, tmp_path: Path) -> None:
        files = [
            client(tmp_path / "a.csv", ["100,1,,0,0"]),
            client(tmp_path / "b.csv", ["1,1,,0,0"]),
            client(tmp_path / "c.csv", ["0,0,,0,0"]),
        ]
        source = ClientSource(
            files=files,
            requests_per_second=2.0,
            span_seconds=600.0,
            popularity=zipf_shares(3, 0.0),
        )

        # The third one sends nothing, so that there is nothing to scale.
        assert source.shares(SEEDS) == pytest.approx([0.5, 0.5, 0.0])
        counts = np.bincount([model for _, model in source.timed(SEEDS, math.inf)])
        assert counts == pytest.approx([600, 600], abs=125)

    def test_windows_are_as_bursty_as_they_were_fitted(self, tmp_path: Path) -> None:
        windows = ["1,9,Gamma,0.0625,16"] * 200
        source = ClientSource(
            files=[client(tmp_path / "a.csv", windows)],
            requests_per_second=1.0,
            span_seconds=120_000.0,
        )

        gaps = np.diff([at for at, _ in source.timed(SEEDS, math.inf)])

        # A shape of 1 / 16 is a CV of 4.
        assert gaps.std() / gaps.mean() == pytest.approx(4.0, rel=0.2)

    def test_a_span_without_requests_is_refused(self, tmp_path: Path) -> None:
        source = ClientSource(
            files=[client(tmp_path / "a.csv", ["0,0,,0,0"])],
            requests_per_second=1.0,
            span_seconds=600.0,
        )

        with pytest.raises(InvalidWorkload, match="no client sends requests in the span"):
            list(source.timed(SEEDS, math.inf))

    def test_rows_out_of_order_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("600,1,1,,0,0\n0,1,1,,0,0\n")
        source = ClientSource(files=[path], requests_per_second=1.0, span_seconds=1200.0)

        with pytest.raises(BrokenTrace, match=r"a\.csv, row 2: it is earlier than the row before"):
            list(source.timed(SEEDS, math.inf))

    def test_another_number_of_clients_than_of_models_is_refused(self, tmp_path: Path) -> None:
        file = client(tmp_path / "a.csv", ["1,1,,0,0"])

        with pytest.raises(InvalidWorkload, match="there are 1 clients for 2 models"):
            check_clients([file], 2)


class TestReplay:
    def test_requests_come_at_another_pace_with_their_own_tokens(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,10,20", "3,30,40", "7,50,"])
        replay = Replay(file=path, popularity=zipf_shares(1, 0.0), speedup=2.0, from_seconds=2.0)

        # The first one is too early; an output that is empty is of one token all the same.
        assert list(replay.traced(SEEDS, math.inf)) == [(0.5, 0, 30, 40), (2.5, 0, 50, 1)]
        assert list(replay.timed(SEEDS, 2.5)) == [(0.5, 0)]

    def test_a_trace_is_read_as_far_as_requests_are_asked_for(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,10,20", "3,30,40", "2,50,60"])
        found = Replay(file=path, popularity=zipf_shares(1, 0.0)).timed(SEEDS, math.inf)

        assert [next(found), next(found)] == [(1.0, 0), (3.0, 0)]
        with pytest.raises(BrokenTrace, match=r"t\.csv, row 4: it is earlier than the row before"):
            next(found)

    def test_names_are_models_in_the_order_in_which_they_come_up(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text(
            "Request Time,Model Name,Input Length,Output Length\n"
            "00:00:01,b,1,1\n00:00:02,a,1,1\n00:00:03,b,1,1\n00:00:04,c,1,1\n"
        )
        replay = Replay(file=path, popularity=zipf_shares(2, 0.0))

        assert [model for _, model in replay.timed(SEEDS, math.inf)] == [0, 1, 0, 0]
        assert replay.shares(SEEDS) == pytest.approx([0.75, 0.25])

    def test_requests_without_names_are_dealt_by_popularity(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", [f"{at},1,1" for at in range(2000)])
        replay = Replay(file=path, popularity=zipf_shares(3, 1.0))

        assert replay.shares(SEEDS) == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.05)

    def test_a_trace_of_something_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"question": "a", "answer": "b"}\n')

        with pytest.raises(BrokenTrace, match=r"t\.jsonl, row 1: a gsm8k trace has no requests"):
            list(Replay(file=path, popularity=zipf_shares(1, 0.0)).timed(SEEDS, math.inf))


class TestLengths:
    def test_lengths_are_those_of_rows(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,10,20", "2,30,40", "3,5,0"])

        drawn = read_lengths([path], np.random.default_rng(1)).draw(np.random.default_rng(2), 100)

        pairs = set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True))
        assert pairs == {(10, 20), (30, 40)}
        assert drawn.serve_seconds is None

    def test_characters_become_tokens(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"question": "123456789", "answer": "1234"}\n')

        drawn = read_lengths([path], np.random.default_rng(1)).draw(np.random.default_rng(1), 1)

        # Four characters a token, rounded up.
        assert (drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist()) == ([3], [1])

    def test_the_mean_service_is_as_it_is_said_to_be(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,10,100", "2,30,300"])

        service = read_lengths([path], np.random.default_rng(1), mean_serve_seconds=8.0)
        drawn = service.draw(np.random.default_rng(1), 1000)

        assert drawn.serve_seconds is not None
        # 200 tokens in the mean take 8 s, so 100 take 4 s and 300 take 12 s.
        assert set(drawn.serve_seconds.tolist()) == {4.0, 12.0}

    def test_texts_are_cut_off_at_the_end_of_the_context(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,5000,300", "2,2000,300"])

        service = read_lengths([path], np.random.default_rng(1), most_tokens=2048)

        assert service.prompt_tokens.tolist() == [2047, 2000]
        assert service.output_tokens.tolist() == [1, 48]

    def test_of_a_long_trace_a_fair_sample_is_kept(self, tmp_path: Path) -> None:
        n_rows = 2 * MOST_KEPT
        path = lengths(tmp_path / "t.csv", [f"1,1,{row + 1}" for row in range(n_rows)])

        service = read_lengths([path], np.random.default_rng(1))

        assert len(service.output_tokens) == MOST_KEPT
        assert service.output_tokens.mean() == pytest.approx(n_rows / 2, rel=0.01)
        assert len(set(service.output_tokens.tolist())) == MOST_KEPT

    def test_traces_without_outputs_are_refused(self, tmp_path: Path) -> None:
        path = lengths(tmp_path / "t.csv", ["1,10,0"])

        with pytest.raises(InvalidWorkload, match=r"t\.csv: no row has an output"):
            read_lengths([path], np.random.default_rng(1))
