"""What every contract of engines starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pilotlight.store_node.engines.engine import Engine, EngineSetup, Offer, Weights, Work
from pilotlight.store_node.protocol.values import RequestId, Sampling
from pilotlight.store_node.testing.transcripts import Transcript, run_to_end

Bound = tuple[Engine, Offer]

GREEDY = Sampling(temperature=0.0, max_tokens=12)
SAMPLED = Sampling(temperature=0.9, top_p=0.95, seed=7, max_tokens=12)

PENALISED = replace(
    SAMPLED,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    repetition_penalty=1.2,
    logit_bias={5: 1.0},
)

every_sampling = pytest.mark.parametrize(
    "sampling", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"]
)


class EngineFixtures:
    """What a test of an engine provides, and what is made of it."""

    prompt_ids: tuple[int, ...] = (5, 6, 7, 8, 9)
    chunks_prefill: bool = True
    """Whether others get tokens while a long prompt is computed; False: it says it can't."""

    @pytest.fixture
    def make_engine(self) -> Callable[[], Engine]:
        """Return a function that makes an engine, neither prepared nor bound."""
        raise NotImplementedError

    @pytest.fixture
    def engine_setup(self) -> EngineSetup:
        """Return what engines are prepared with."""
        raise NotImplementedError

    @pytest.fixture
    def weights(self) -> Weights:
        """Return what engines are bound to."""
        raise NotImplementedError

    @pytest.fixture
    def bound(
        self, make_engine: Callable[[], Engine], engine_setup: EngineSetup, weights: Weights
    ) -> Bound:
        """Return an engine ready for work, and its offer."""
        engine = make_engine()
        engine.prepare(engine_setup)
        return engine, engine.bind(weights)

    def work(self, name: str = "a", sampling: Sampling = GREEDY, **changes: object) -> Work:
        """Build an attempt of the default prompt."""
        work = Work(
            request_id=RequestId(name),
            attempt=1,
            prompt_ids=self.prompt_ids,
            emitted_ids=(),
            sampling=sampling,
        )
        return replace(work, **changes)  # type: ignore[arg-type]  # the tests know the fields

    def answer(self, engine: Engine, work: Work) -> Transcript:
        """Run one attempt alone."""
        return run_to_end(engine, [work])[work.request_id]
