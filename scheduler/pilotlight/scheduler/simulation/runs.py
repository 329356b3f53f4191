"""Runs of scenarios: each policy on each seed, several at once in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pilotlight.estimators import Estimator, StartEstimator
from pilotlight.process.lifeline import die_with_parent
from pilotlight.process.plugins import load_plugin
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.errors import SchedulerError
from pilotlight.scheduler.policies import Policy
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.bound import RunBound, run_bound, run_problem
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.network import Network
from pilotlight.scheduler.simulation.report import RunResult, result_of
from pilotlight.scheduler.simulation.scenarios import Built, Scenario
from pilotlight.scheduler.simulation.simulation import Simulation

_KIBIBYTE = 1024
_COUNT_EVERY = 256
"""Requests between two words on how far a run is."""
_POLL_SECONDS = 0.2


class RunLost(SchedulerError, RuntimeError):
    """A process that simulated was killed."""

    def __init__(self) -> None:
        super().__init__(
            "a process that simulated was killed, perhaps for want of memory; try fewer at once"
        )


class PolicyFailed(SchedulerError, RuntimeError):
    """A policy did not plan."""

    def __init__(self, text: str) -> None:
        super().__init__(text)


class GuardedPolicy:
    """A policy by its name; whatever it raises says who raised it."""

    def __init__(self, name: str, seed: int) -> None:
        """Make it.

        Raises:
            PluginError: it is not there.
            PolicyFailed: it can't be made without arguments.
        """
        self.name = name
        self._seed = seed
        made = load_plugin("pilotlight.policies", name)
        self._policy = self._guarded(made)

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        """Return its plan.

        Raises:
            PolicyFailed: it raised something, or returned something else.
        """
        plan = self._guarded(self._policy.plan, snapshot, estimator)
        if not isinstance(plan, Plan):
            raise PolicyFailed(f"policy {self.name} returned {plan!r:.200} instead of a Plan")
        return plan

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        # It may be anybody's, and ends in the process that asked for it, as words.
        except (Exception, SystemExit) as exc:
            text = f"policy {self.name} failed with seed {self._seed}: {exc!r:.500}"
            raise PolicyFailed(text) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to be done."""

    scenario: Scenario
    policy: str
    seed: int
    traces: Path | None = None
    """The folder of published traces; None = what PILOTLIGHT_TRACES names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a job, and what it cost."""

    result: RunResult
    wall_seconds: float
    """Of simulating; building the cluster included."""
    peak_memory_bytes: int
    """Of the process, which may have done other runs before."""


def do_job(job: Job, *, arrived: Callable[[int], None] = lambda n: None) -> Run:
    """Simulate one run; `arrived` hears from time to time how many requests have come.

    Raises:
        PluginError: the policy is not there.
        SchedulerError: the scenario can't be built, or a trace is broken.
    """
    policy = GuardedPolicy(job.policy, job.seed)
    began = time.perf_counter()
    built = job.scenario.build(job.seed, traces=job.traces)
    simulation = prepare(built, policy)
    simulation.feed(_counted(built.arrivals, arrived))
    simulation.run()
    return Run(
        result=result_of(
            simulation,
            built.channels.values(),
            scenario=job.scenario.name,
            policy=job.policy,
            seed=job.seed,
        ),
        wall_seconds=time.perf_counter() - began,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE,
    )


def bound_of(scenario: Scenario, seed: int, *, traces: Path | None = None) -> RunBound:
    """Return what no policy can beat on a seed's requests, should all of them be served.

    Raises:
        SchedulerError: the scenario can't be built, a trace is broken, or a model's
            requests can't be bounded.
    """
    built = scenario.build(seed, traces=traces)
    near = {model for model, _ in built.in_dram}
    machines = list(built.machines.values())
    return run_bound(run_problem(built.arrivals, built.models, machines, in_dram=near))


def prepare(
    built: Built,
    policy: Policy,
    *,
    on_event: Callable[[float, AnyEvent], None] = lambda now, event: None,
) -> Simulation:
    """Return a cluster that runs, has in DRAM what it should, and waits for its requests."""
    heap = EventHeap()
    network = Network(heap)
    simulation = Simulation(
        core=Core(estimator=StartEstimator(built.priors)),
        policy=policy,
        heap=heap,
        delays=built.delays,
        on_event=on_event,
    )
    simulation.begin(built.models, built.nodes(heap, network, simulation))
    for model, node in built.in_dram:
        simulation.fetch(model, [node])
    built.expect_failures(simulation, network)
    simulation.run_until(built.begins_at)
    return simulation


def do_jobs(
    jobs: Sequence[Job],
    *,
    n_processes: int,
    progress: Callable[[int, int], None] = lambda n_runs, n_requests: None,
) -> list[Run]:
    """Do all jobs, at most so many at once; return their runs in the order of the jobs.

    `progress` hears how many runs are over, and how many requests have come in all.
    A job that fails ends the others. Whatever ends this, no process is left.
    """
    if n_processes == 1 or len(jobs) == 1:
        return list(_one_after_another(jobs, progress))
    with _pool(min(n_processes, len(jobs)), len(jobs)) as (pool, counts, children):
        futures = [pool.submit(_do_in_child, row, job) for row, job in enumerate(jobs)]
        for n_runs in _waiting(futures):
            # The pool itself may notice no sooner than when another run is over.
            if any(child.exitcode for child in children()):
                raise RunLost
            progress(n_runs, sum(counts))
        return [future.result() for future in futures]


def _one_after_another(jobs: Iterable[Job], progress: Callable[[int, int], None]) -> Iterator[Run]:
    n_requests = 0
    for n_runs, job in enumerate(jobs):
        run = do_job(job, arrived=partial(_tell, progress, n_runs, n_requests))
        n_requests += run.result.requests
        progress(n_runs + 1, n_requests)
        yield run


def _tell(progress: Callable[[int, int], None], n_runs: int, before: int, arrived: int) -> None:
    progress(n_runs, before + arrived)


def _counted(arrivals: Iterable[Arrival], arrived: Callable[[int], None]) -> Iterator[Arrival]:
    for number, arrival in enumerate(arrivals):
        if number % _COUNT_EVERY == 0:
            arrived(number)
        yield arrival


def _waiting(futures: Sequence[Future[Run]]) -> Iterator[int]:
    """Yield again and again how many are over, until all are; raise what the first one raises."""
    left = set(futures)
    while left:
        done, left = wait(left, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
            except BrokenProcessPool as exc:
                raise RunLost from exc
        yield len(futures) - len(left)


@contextmanager
def _pool(
    n_processes: int, n_jobs: int
) -> Generator[tuple[ProcessPoolExecutor, Any, Callable[[], Iterable[BaseProcess]]]]:
    """Give processes, counters that they share, and who they are; in the end none is left."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", n_jobs, lock=False)
    others, found = set(multiprocessing.active_children()), set[BaseProcess]()

    def children() -> Iterable[BaseProcess]:
        found.update(set(multiprocessing.active_children()) - others)
        return found

    pool = ProcessPoolExecutor(
        n_processes, mp_context=context, initializer=_begin_child, initargs=(os.getpid(), counts)
    )
    try:
        yield pool, counts, children
    except BaseException:
        # Nobody waits for what they still do.
        for child in children():
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_counts: Any = None
"""In a child: the counters of all jobs."""


def _begin_child(parent_pid: int, counts: Any) -> None:
    global _counts
    die_with_parent(parent_pid)
    # Ctrl-C goes to the whole terminal; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _counts = counts


def _do_in_child(row: int, job: Job) -> Run:
    def arrived(n: int) -> None:
        _counts[row] = n

    run = do_job(job, arrived=arrived)
    _counts[row] = run.result.requests
    return run
