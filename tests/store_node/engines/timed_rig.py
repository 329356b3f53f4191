"""What tests of the timed engine start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.store_node.engines import Engine, EngineSetup, Offer, Work
from pilotlight.store_node.engines.timed import TimedEngine
from pilotlight.store_node.protocol import (
    ModelId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    RequestId,
    Sampling,
)
from pilotlight.store_node.testing import FakeClock

if TYPE_CHECKING:
    import torch


class NoWeights:
    """A checkpoint that no engine looks at."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.copied_bytes = 0
        self.aliases: dict[str, str] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        raise AssertionError("this engine looks at no weights")


def make_setup(
    directory: Path,
    options: dict[str, str] | None = None,
    *,
    concurrency: int = 1,
    context_tokens: int = 0,
    **more_options: str,
) -> EngineSetup:
    spec = ReplicaSpec(
        replica_id=ReplicaId("r"),
        model=ModelId("model"),
        reference=Reference("c"),
        engine="timed",
        engine_options={**(options or {}), **more_options},
        concurrency=concurrency,
        context_tokens=context_tokens,
    )
    return EngineSetup(spec=spec, directory=directory, threads=1)


def bind(setup: EngineSetup, clock: FakeClock) -> tuple[TimedEngine, Offer]:
    engine = TimedEngine(clock=clock)
    engine.prepare(setup)
    return engine, engine.bind(NoWeights())


def make_work(
    name: str = "a",
    *,
    prompt: int = 10,
    max_tokens: int = 3,
    sampling: Sampling | None = None,
    is_held: bool = False,
) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        prompt_ids=tuple(range(prompt)),
        emitted_ids=(),
        sampling=sampling or Sampling(temperature=0.0, max_tokens=max_tokens),
        is_held=is_held,
    )


def arrivals(engine: Engine, clock: FakeClock) -> list[tuple[str, float]]:
    """Step to the end; return when each token came."""
    times: list[tuple[str, float]] = []
    while engine.is_busy:
        emissions = engine.step()
        times += [(emission.request_id, round(clock.now(), 9)) for emission in emissions]
    return times
