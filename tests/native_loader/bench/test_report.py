from __future__ import annotations

import json

import pytest
from tests.native_loader.bench.samples import RAW, loaded, measured, runs

from pilotlight.native_loader.bench import report
from pilotlight.native_loader.bench.bars import Bar, chart
from pilotlight.native_loader.bench.measuring import Mishaps
from pilotlight.native_loader.bench.plots import charts
from pilotlight.native_loader.bench.runs import Measured

FIGURES = (
    "peers_measured",
    "cold_pool_ratio_to_limit",
    "cold_fresh_ratio_to_limit",
    "speedup_over_best_peer_cold",
    "dram_attach_seconds",
    "dram_touch_ratio_to_safetensors_hot",
    "lora_batch_ratio_to_limit",
    "lora_single_ratio_to_limit",
)


@pytest.fixture
def some() -> Measured:
    return measured(
        runs(RAW, loaded(0.9), loaded(0.9)),
        runs("pool", loaded(1.0, 1.2), loaded(1.0, 1.2)),
        runs("fresh", loaded(1.2, 1.5), loaded(1.2, 1.5)),
        runs("torch", loaded(1.4), loaded(1.4)),
        runs("bulk", loaded(2.0), part="ablation"),
        versions={"torch": "2.13.0"},
        missing={"tensorizer": "no network"},
        mishaps=Mishaps(thrown_away={"torch": 2}, failed={"runai": "gave other tensors"}),
        notes=["fio alone tells the disk's limit"],
    )


def test_tables_say_what_was_measured(some: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    report.print_report(some)

    out = capsys.readouterr().out
    for words in ("pilotlight, pool", "1.50 s", "NOT AHEAD", "bulk", "667 MB/s", "≥ 0.95", "NO"):
        assert words in out, words
    assert "Adapters" not in out


def test_what_went_otherwise_is_told(some: Measured) -> None:
    *lines, last = report.notes(some)

    assert lines == [
        "fio alone tells the disk's limit",
        "tensorizer is missing: no network",
        "runai failed: gave other tensors",
    ]
    assert last.startswith("2 of the runs of torch did not read")


def test_nothing_measured_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_report(measured())

    assert capsys.readouterr().out == ""


def test_a_document_has_the_figures_on_top_and_every_run(some: Measured) -> None:
    document = report.as_document(some, machine={"processors": 2}, settings={"runs": 2})

    found = json.loads(json.dumps(document))
    assert found["cold_pool_ratio_to_limit"] == pytest.approx(0.9)
    assert found["peers"] == {"torch": "2.13.0"}
    assert {row["figure"] for row in found["targets"]} <= found.keys()
    assert len(found["runs"]) == len(some.runs)
    assert found["runs"][0]["load_seconds"] == 0.9
    assert set(FIGURES) <= found.keys()


def test_charts_are_of_all_parts_and_mark_the_limit(some: Measured) -> None:
    found = charts(some)

    assert list(found) == ["cold-llama", "ablation-llama"]
    assert found["cold-llama"].count('class="ours"') == 2
    assert found["cold-llama"].count('class="limit"') == 1
    assert "pilotlight, pool" in found["cold-llama"]


def test_a_chart_escapes_what_it_shows_and_has_bars_in_proportion() -> None:
    text = chart(
        "a <b>",
        "more & more",
        [
            Bar(label="one", value=2.0, shown="2", is_ours=True),
            Bar(label="two", value=1.0, shown="1", is_ours=False),
        ],
    )

    assert "a &lt;b&gt;" in text
    assert "more &amp; more" in text
    # 760 less the labels and a margin is 530.
    assert 'width="530.0"' in text
    assert 'width="265.0"' in text
    assert 'class="limit"' not in text


def test_a_chart_of_nothing_is_a_chart() -> None:
    assert chart("nothing", "", []).endswith("</svg>\n")
