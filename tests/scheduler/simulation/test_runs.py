from __future__ import annotations

import multiprocessing
import pickle

import msgspec
import pytest

from pilotlight.process.errors import PluginError
from pilotlight.scheduler.simulation import runs
from pilotlight.scheduler.simulation.runs import Job, RunLost, do_job, do_jobs
from pilotlight.scheduler.simulation.scenarios import load_scenario

QUICK = load_scenario("quick")


def _jobs(n: int = 2) -> list[Job]:
    return [
        Job(scenario=QUICK, policy=policy, seed=seed)
        for policy in ("random", "serverlessllm")
        for seed in range(1, n + 1)
    ]


@pytest.mark.parametrize("policy", ["random", "serverlessllm"])
def test_equal_seeds_give_equal_results_to_the_last_byte(policy: str) -> None:
    one, other, another = (
        msgspec.json.encode(do_job(Job(scenario=QUICK, policy=policy, seed=seed)).result)
        for seed in (1, 1, 2)
    )

    assert one == other
    assert one != another


def test_several_processes_do_what_one_does() -> None:
    heard: list[tuple[int, int]] = []

    alone = do_jobs(_jobs(), n_processes=1)
    together = do_jobs(_jobs(), n_processes=2, progress=lambda *done: heard.append(done))

    assert [run.result for run in together] == [run.result for run in alone]
    assert heard[-1] == (4, sum(run.result.requests for run in alone))
    assert multiprocessing.active_children() == []


def test_a_run_says_how_many_requests_have_come() -> None:
    heard: list[int] = []

    run = do_job(_jobs()[0], arrived=heard.append)

    assert heard == sorted(heard)
    assert run.wall_seconds > 0.0
    assert run.peak_memory_bytes > 10_000_000


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_policy_that_is_not_there_ends_all(n_processes: int) -> None:
    jobs = [*_jobs(), Job(scenario=QUICK, policy="nobody's", seed=1)]

    with pytest.raises(PluginError, match=r"no pilotlight\.policies plugin is called"):
        do_jobs(jobs, n_processes=n_processes)

    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_is_told_of(which: int) -> None:
    slow = load_scenario("quick", changes={"workload.duration_seconds": 1e6})
    jobs = [Job(scenario=slow, policy="random", seed=seed) for seed in (1, 2)]

    def kill_one(n_runs: int, n_requests: int) -> None:
        children = multiprocessing.active_children()
        if n_requests and len(children) == 2:
            children[which].kill()

    with pytest.raises(RunLost, match="was killed"):
        do_jobs(jobs, n_processes=2, progress=kill_one)

    assert multiprocessing.active_children() == []


class Raising:
    """A policy of somebody's."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def plan(self, snapshot: object, estimator: object) -> None:
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("it broke"), SystemExit(0)])
def test_a_policy_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(runs, "load_plugin", lambda group, name: lambda: Raising(error))

    with pytest.raises(runs.PolicyFailed, match=r"policy mine failed with seed 7: .*\(") as caught:
        do_job(Job(scenario=QUICK, policy="mine", seed=7))

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_policy_that_returns_no_plan_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def plan(self, snapshot: object, estimator: object) -> None:
            return None

    monkeypatch.setattr(runs, "load_plugin", lambda group, name: Silent)

    with pytest.raises(runs.PolicyFailed, match="policy mine returned None instead of a Plan"):
        do_job(Job(scenario=QUICK, policy="mine", seed=1))
