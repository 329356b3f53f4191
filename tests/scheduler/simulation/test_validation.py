"""A simulation stands in for the real cluster: a faithful scenario passes, another one does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.recording import Header, encode_entry, encode_header
from pilotlight.scheduler.errors import BrokenTrace
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation import Arrival
from pilotlight.scheduler.simulation.runs import prepare
from pilotlight.scheduler.simulation.scenarios import load_scenario
from pilotlight.scheduler.simulation.validation import (
    NotComparable,
    RealRun,
    ReplayedRequest,
    read_run,
    validate,
)

CHANGES: dict[str, object] = {
    "cluster.nodes[0].times.noise": 0.2,
    "workload.duration_seconds": 200,
    "workload.parts[0].service": {"kind": "tokens", "prompt_tokens": 16, "output_tokens": 24},
}
SCENARIO = load_scenario("quick", changes=CHANGES)


def _arrivals() -> list[Arrival]:
    return list(SCENARIO.build(1).arrivals)


def _record(folder: Path, seed: int) -> Path:
    """Keep what a simulated cluster does with the requests of seed 1, as a real one's is kept."""
    built = SCENARIO.build(seed)
    lines = [encode_header(Header(package_version="1", policy="p", began_at=0.0, began_now=0.0))]

    def note(now: float, event: AnyEvent) -> None:
        lines.append(encode_entry(len(lines) - 1, now, event))

    simulation = prepare(built, ServerlessLLM(), on_event=note)
    arrivals = _arrivals()
    simulation.feed(arrivals)
    simulation.run()
    waits = simulation.ledger.first_token_seconds().tolist()
    requests = [
        ReplayedRequest(
            at=arrival.at,
            due_at=arrival.at,
            model=arrival.model,
            prompt_tokens=arrival.prompt_tokens,
            output_tokens=arrival.output_tokens,
            first_token_seconds=wait,
            total_seconds=wait,
        )
        for arrival, wait in zip(arrivals, waits, strict=True)
    ]
    (folder / "recording").mkdir(parents=True)
    (folder / "recording" / "000.jsonl").write_bytes(b"".join(lines))
    (folder / "requests.jsonl").write_bytes(
        b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
    )
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[RealRun]:
    folder = tmp_path_factory.mktemp("real")
    return [read_run(_record(folder / str(seed), seed)) for seed in (11, 12, 13, 14, 15)]


def test_the_right_scenario_is_within_the_spread_of_reality(real: list[RealRun]) -> None:
    found = validate(SCENARIO, real, policy="serverlessllm", seeds=range(1, 6))

    assert [each.name for each in found.percentiles] == ["median", "p95"]
    assert all(each.error_over_spread < 1.0 for each in found.percentiles)
    # Where models contend, one late load changes what follows: real runs differ as much.
    assert found.same_tier_share == pytest.approx(found.same_tier_share_of_real, abs=0.1)
    assert min(found.n_starts) > 10


def test_the_wrong_scenario_is_not(real: list[RealRun]) -> None:
    slow = load_scenario(
        "quick", changes={**CHANGES, "cluster.nodes[0].disks[0].bytes_per_second": 0.25e9}
    )

    found = validate(slow, real, policy="serverlessllm", seeds=range(1, 6))

    assert found.percentiles[1].error_over_spread > 3.0


def test_tiers_that_differ_are_counted(real: list[RealRun]) -> None:
    forgetful = load_scenario("quick", changes={**CHANGES, "cluster.nodes[0].dram_gb": 0.0})

    found = validate(forgetful, real, policy="serverlessllm", seeds=[1])

    assert found.same_tier_share < found.same_tier_share_of_real


def test_runs_of_other_requests_are_not_compared(real: list[RealRun]) -> None:
    other = RealRun(requests=real[1].requests[:-1], tiers=real[1].tiers)

    with pytest.raises(NotComparable, match="run 2 had other requests than run 1"):
        validate(SCENARIO, [real[0], other], policy="serverlessllm", seeds=[1])
    with pytest.raises(NotComparable, match="two real runs at least"):
        validate(SCENARIO, real[:1], policy="serverlessllm", seeds=[1])


def test_a_failed_request_is_told_of(real: list[RealRun]) -> None:
    first = msgspec.structs.replace(real[0].requests[0], error="it broke")
    failed = RealRun(requests=[first, *real[0].requests[1:]], tiers=real[0].tiers)

    with pytest.raises(NotComparable, match="a request of run 1 failed: it broke"):
        validate(SCENARIO, [failed, real[1]], policy="serverlessllm", seeds=[1])


def test_a_model_that_the_scenario_lacks_is_named(real: list[RealRun]) -> None:
    other = load_scenario("quick", changes={**CHANGES, "models[0].count": 2})

    with pytest.raises(NotComparable, match="has no model model-3"):
        validate(other, real, policy="serverlessllm", seeds=[1])


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    folder = _record(tmp_path / "run", 1)
    with (folder / "requests.jsonl").open("a") as file:
        file.write("{}\n")

    with pytest.raises(BrokenTrace, match=r"requests\.jsonl, row \d+: Object missing"):
        read_run(folder)
