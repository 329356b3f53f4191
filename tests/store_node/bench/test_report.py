from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.store_node.bench.samples import a_round, rival, start

from pilotlight.process.bench.documents import write_document
from pilotlight.store_node.bench import report
from pilotlight.store_node.bench.messages import (
    BatchDone,
    Compared,
    Differing,
    PrefillDone,
)
from pilotlight.store_node.bench.outputs import OutputsOf
from pilotlight.store_node.bench.summaries import Measured
from pilotlight.store_node.bench.throughput import Race, Throughput
from pilotlight.store_node.protocol import Tier

FIGURES = (
    "dram_floor_ratio_median",
    "ssd_floor_ratio_median",
    "phases_sum_error_percent_max",
    "throughput_ratio_to_transformers_cb",
    "outputs_unequal_float64",
    "outputs_unequal_fp32_percent",
)
NOTHING = Measured(sizes_bytes={}, starts={}, throughput={}, outputs=())


@pytest.fixture
def measured() -> Measured:
    """Return one of everything."""
    rounds = [
        a_round(
            start(Tier.SSD, 0.36),
            start(Tier.DRAM, 0.12),
            rivals=(rival(Tier.SSD, 0.5), rival(Tier.SSD, 3.0, is_imported=False)),
        )
    ]
    differing = Differing(
        request="r1", way="together", seq=3, expected_id=1, found_id=2, margin=1e-6
    )
    return Measured(
        sizes_bytes={"llama-130m": 500_000_000},
        starts={"llama-130m": rounds},
        throughput={
            "llama-130m": Throughput(
                races=[
                    Race(
                        concurrency=1,
                        ours=BatchDone(seconds=1.0, outputs=((1, 2, 3),)),
                        theirs=BatchDone(seconds=2.0, outputs=((1, 2, 3),)),
                    )
                ],
                prefills={64: [PrefillDone(engine_seconds=0.1, plain_seconds=0.1)]},
            )
        },
        outputs=[
            OutputsOf(
                model="llama",
                dtype=dtype,
                compared=Compared(
                    n_requests=10, n_outputs=20, n_cancelled=1, differing=(differing,) * n
                ),
            )
            for dtype, n in (("float64", 0), ("float32", 1))
        ],
    )


def test_tables_say_what_was_measured(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    report.print_report(measured)

    out = capsys.readouterr().out
    # 0.36 s and 0.12 s to the first token; their floors are 0.3 s and 0.1 s.
    for words in ("360 ms", "120 ms", "300 ms", "100 ms", "llama-130m", "together", "yes"):
        assert words in out, words
    # One output of 20 differs, where one of a hundred may.
    assert "NO" in out


def test_nothing_measured_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_report(NOTHING)

    assert capsys.readouterr().out == ""


def test_figures_are_at_the_top(measured: Measured, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    document = report.as_document(measured, machine={"processors": 2}, settings={"threads": 1})
    write_document(document, file)

    found = json.loads(file.read_text())
    assert found["dram_floor_ratio_median"] == pytest.approx(1.2)
    assert found["throughput_ratio_to_transformers_cb"] == pytest.approx(2.0)
    assert found["outputs_unequal_fp32_percent"] == pytest.approx(5.0)
    assert {target["figure"] for target in found["targets"]} > set(FIGURES)
    assert found["rounds"]["llama-130m"][0]["starts"][0]["total_seconds"] == pytest.approx(0.36)
    assert (found["machine"], found["settings"]) == ({"processors": 2}, {"threads": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_figures_that_were_not_measured_are_null(tmp_path: Path) -> None:
    document = report.as_document(NOTHING, machine={}, settings={})

    assert [document[name] for name in FIGURES] == [None] * len(FIGURES)
