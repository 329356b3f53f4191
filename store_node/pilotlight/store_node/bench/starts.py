"""Measures starts through nodes, beside their floors and beside `from_pretrained`."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader import Checkpoint
from pilotlight.process.bench.children import Child, child_environ
from pilotlight.process.bench.errors import BenchFailed, named
from pilotlight.process.page_cache import drop_from_page_cache
from pilotlight.process.progress import StepProgress
from pilotlight.store_node.bench import children
from pilotlight.store_node.bench.alone import PROMPT_IDS, Alone, bind_alone, files_of
from pilotlight.store_node.bench.loaded import loaded
from pilotlight.store_node.bench.messages import BoundAlone, Ready
from pilotlight.store_node.bench.nodes import BenchNode, NodePlan
from pilotlight.store_node.bench.raw_read import RawRead, RawReader
from pilotlight.store_node.bench.samples import Parts, Rival, Round, Start, phases_of
from pilotlight.store_node.protocol import Tier

ROUNDS_PER_FRESH = 4
"""`from_pretrained` with its imports takes seconds, which are the same every time."""

Sample = Start | RawRead | BoundAlone | Rival


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPlan:
    """What is to be started, and how often."""

    checkpoints: Mapping[str, Checkpoint]
    repetitions: int
    threads: int
    seed: int = 0
    """Of the order in which things are done."""

    @property
    def n_steps(self) -> int:
        """Return how many rounds there are, those that don't count among them."""
        return len(self.checkpoints) * (self.repetitions + 1)


async def measure_starts(
    plan: StartPlan, folder: Path, progress: StepProgress
) -> dict[str, list[Round]]:
    """Return the rounds of each checkpoint; the nodes' homes go below a folder.

    The first round of each does not count: in it checksums are learned and memory
    is made ready.

    Raises:
        BenchFailed: something did not do what it should.
        LoaderError, OSError: a checkpoint can't be read.
    """
    rounds: dict[str, list[Round]] = {}
    async with AsyncExitStack() as stack:
        directories = [str(each.path) for each in plan.checkpoints.values()]
        environ = child_environ(plan.threads)
        forks = await stack.enter_async_context(
            children.running("forks", *directories, environ=environ)
        )
        await forks.receive(Ready)
        await _bind_each(plan, forks)
        warm = await stack.enter_async_context(_node(plan, folder, warm_workers=1))
        cold = await stack.enter_async_context(_node(plan, folder, warm_workers=0))
        rng = random.Random(plan.seed)
        for name, checkpoint in plan.checkpoints.items():
            progress.begin(f"starts of {name}")
            rounds[name] = []
            with (
                named(name),
                loaded(checkpoint) as held,
                RawReader(files_of(checkpoint)) as reader,
            ):
                alone = Alone(checkpoint, held, reader, forks=forks, threads=plan.threads)
                course = _Course(name, checkpoint, warm=warm, cold=cold, alone=alone)
                for number in range(plan.repetitions + 1):
                    measured = await course.run(rng, has_fresh=number % ROUNDS_PER_FRESH == 1)
                    rounds[name] += [measured] if number else []
                    progress.advance(1)
            for node in (warm, cold):
                await node.evict(name)
    return rounds


async def _bind_each(plan: StartPlan, forks: Child) -> None:
    """Find out whether our engine can run each checkpoint, before anything else tries to.

    It says at once that weights are those of a smaller model, which `from_pretrained`
    may build until no memory is left.
    """
    for name, checkpoint in plan.checkpoints.items():
        with named(name), loaded(checkpoint) as held:
            await bind_alone(checkpoint, held, forks=forks, threads=plan.threads)


class _Course:
    """Every way to start one checkpoint."""

    def __init__(
        self, name: str, checkpoint: Checkpoint, *, warm: BenchNode, cold: BenchNode, alone: Alone
    ) -> None:
        self._name = name
        self._files = files_of(checkpoint)
        self._warm = warm
        self._cold = cold
        self._alone = alone

    async def run(self, rng: random.Random, *, has_fresh: bool) -> Round:
        """Go all ways once, in an order of chance: what is slow for a while is so for all."""
        ways: list[Callable[[], Awaitable[list[Sample]]]] = [
            lambda: self._through(self._warm, is_worker_warm=True),
            lambda: self._through(self._cold, is_worker_warm=False),
            lambda: self._beside(Tier.SSD, has_fresh=has_fresh),
            lambda: self._beside(Tier.DRAM, has_fresh=has_fresh),
            self._read,
            self._bind,
        ]
        samples = [sample for way in rng.sample(ways, len(ways)) for sample in await way()]
        (read,) = (each for each in samples if isinstance(each, RawRead))
        (bound,) = (each for each in samples if isinstance(each, BoundAlone))
        return Round(
            starts=[each for each in samples if isinstance(each, Start)],
            parts=Parts.of(read, bound),
            rivals=[each for each in samples if isinstance(each, Rival)],
        )

    async def _read(self) -> list[Sample]:
        return [self._alone.read()]

    async def _bind(self) -> list[Sample]:
        return [await self._alone.bind()]

    async def _beside(self, tier: Tier, *, has_fresh: bool) -> list[Sample]:
        samples: list[Sample] = [await self._alone.imported(tier)]
        return [*samples, await self._alone.fresh(tier)] if has_fresh else samples

    async def _through(self, node: BenchNode, *, is_worker_warm: bool) -> list[Sample]:
        """Start from SSD, which leaves the weights in DRAM, and then from there."""
        await node.evict(self._name)
        drop_from_page_cache(self._files)
        return [
            await self._start(node, tier, is_worker_warm=is_worker_warm)
            for tier in (Tier.SSD, Tier.DRAM)
        ]

    async def _start(self, node: BenchNode, tier: Tier, *, is_worker_warm: bool) -> Start:
        if is_worker_warm:
            await node.wait_warm()
        replica_id, first = await node.start(self._name, PROMPT_IDS)
        teardown = await node.stop(replica_id)
        outcome = teardown.status.outcome
        assert outcome is not None, "it was READY"
        if outcome.tier is not tier:
            raise BenchFailed(f"{self._name} was started from {outcome.tier}, not from {tier}")
        return Start(
            tier=tier,
            is_worker_warm=is_worker_warm,
            total_seconds=first.total_seconds,
            ready_seconds=first.ready_seconds,
            phases=phases_of(outcome),
            teardown_seconds=teardown.seconds,
            node_teardown_seconds=teardown.status.teardown_seconds,
            bytes_read=outcome.bytes_read,
            bottleneck=outcome.bottleneck,
            token_id=first.token_id,
        )


def _node(
    plan: StartPlan, folder: Path, *, warm_workers: int
) -> AbstractAsyncContextManager[BenchNode]:
    node = NodePlan(
        name=f"warm-{warm_workers}",
        checkpoints=plan.checkpoints,
        warm_workers=warm_workers,
        threads=plan.threads,
    )
    return BenchNode.running(node, folder)
