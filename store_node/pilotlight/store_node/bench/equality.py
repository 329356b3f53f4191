"""Whether an engine's outputs are what each request would have got alone.

Requests are drawn at random, with sampling of all kinds. Each runs alone; then all
run together, 1 to 16 at once, with arrivals and cancels at random steps; beside
them each is resumed at a token of chance, in one round, or prepared in several.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pilotlight.store_node.bench.crowd import Crowd, Guest, Output, alone, renamed
from pilotlight.store_node.engines.engine import Engine, Work
from pilotlight.store_node.protocol.values import RequestId, Sampling

MOST_AT_ONCE = 16

NEAR_TIE = 1e-4
"""Of the logits' standard deviation: what rounding in float32 changes them by is less."""

_MOST_TOKENS = 28
_CANCELLED_SHARE = 0.15
_GREEDY_SHARE = 0.4
_LONG_SHARE = 0.2
_MOST_PIECES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What requests may ask of a model."""

    vocabulary: int
    context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An output that was another one than alone."""

    work: Work
    """As it ran alone."""
    way: str
    """"together", "resumed" or "resumed in rounds"."""
    seq: int
    """The number of the first token that differs."""
    ids_before: tuple[int, ...]
    """The tokens before it, on which both agree."""
    expected_id: int | None
    """The token alone; None = it had ended."""
    found_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All outputs of one engine."""

    n_requests: int
    n_compared: int
    """Outputs: each request's together with others, and resumed."""
    n_cancelled: int
    """Of those: outputs that were cut, of which what came is compared."""
    differences: Sequence[Difference]


def compare_outputs(engine: Engine, model: Model, *, n_requests: int, seed: int) -> Comparison:
    """Compare an engine that is bound with itself; it must take 16 requests at once to show all.

    Raises:
        BenchFailed: it breaks its contract.
    """
    rng = random.Random(seed)
    works = draw_works(rng, n_requests, model)
    expected = alone(engine, works)
    guests = _arrive(rng, [*_together(works), *_resumed(rng, works, expected)])
    widths = rng.sample(range(1, MOST_AT_ONCE + 1), MOST_AT_ONCE)
    outputs = Crowd(engine, [each.guest for each in guests], widths=widths).run()
    differences = [
        difference for each in guests if (difference := each.compare(expected, outputs)) is not None
    ]
    return Comparison(
        n_requests=n_requests,
        n_compared=len(guests),
        n_cancelled=sum(output.is_cancelled for output in outputs.values()),
        differences=differences,
    )


def draw_works(rng: random.Random, n: int, model: Model) -> list[Work]:
    """Draw requests: short and long, greedy and sampled in every way."""
    return [
        Work(
            request_id=RequestId(f"r{number}"),
            attempt=1,
            prompt_ids=_draw_prompt(rng, model),
            emitted_ids=(),
            sampling=draw_sampling(rng, model),
        )
        for number in range(n)
    ]


def draw_sampling(rng: random.Random, model: Model) -> Sampling:
    """Draw what a request may ask for; each of the rules is in force now and then."""
    is_greedy = rng.random() < _GREEDY_SHARE
    favoured = rng.sample(range(model.vocabulary), 3)
    return Sampling(
        temperature=0.0 if is_greedy else rng.choice((0.3, 0.8, 1.0, 2.5)),
        top_p=rng.choice((1.0, 0.95, 0.5)),
        top_k=rng.choice((0, 0, 3, 20)),
        seed=rng.getrandbits(63),
        max_tokens=rng.randint(1, _MOST_TOKENS),
        stop_token_ids=tuple(rng.sample(range(model.vocabulary), rng.choice((0, 0, 2)))),
        logprobs=rng.choice((None, None, 3)),
        presence_penalty=rng.choice((0.0, 0.0, 1.5, -1.0)),
        frequency_penalty=rng.choice((0.0, 0.0, 0.7)),
        repetition_penalty=rng.choice((0.0, 0.0, 1.3)),
        logit_bias={id: rng.uniform(-4, 4) for id in favoured} if rng.random() < 0.3 else {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """A guest, and the request whose output it should get."""

    guest: Guest
    work: Work
    way: str
    n_known: int = 0
    """Tokens that it was given: of those that follow, its output consists."""

    def compare(
        self, expected: Mapping[RequestId, Output], outputs: Mapping[RequestId, Output]
    ) -> Difference | None:
        """Return how the guest's output differs; None = it does not."""
        ours = outputs[self.guest.work.request_id]
        theirs = expected[self.work.request_id]
        known = tuple(theirs.token_ids[: self.n_known])
        found, wanted = (*known, *ours.token_ids), tuple(theirs.token_ids)
        if ours.is_cancelled:
            wanted = wanted[: len(found)]
        elif found == wanted and ours.finish_reason is not theirs.finish_reason:
            return self._difference(len(found), found, wanted)
        if found == wanted:
            return None
        pairs = zip(found, wanted, strict=False)
        seq = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
        return self._difference(seq, found, wanted)

    def _difference(self, seq: int, found: tuple[int, ...], wanted: tuple[int, ...]) -> Difference:
        return Difference(
            work=self.work,
            way=self.way,
            seq=seq,
            ids_before=wanted[:seq],
            expected_id=wanted[seq] if seq < len(wanted) else None,
            found_id=found[seq] if seq < len(found) else None,
        )


def _draw_prompt(rng: random.Random, model: Model) -> tuple[int, ...]:
    longest = model.context_tokens - _MOST_TOKENS
    most = longest if rng.random() < _LONG_SHARE else min(24, longest)
    return tuple(rng.randrange(model.vocabulary) for _ in range(rng.randint(1, most)))


def _together(works: Iterable[Work]) -> list[_Compared]:
    return [
        _Compared(guest=Guest(work=renamed(work, "-together")), work=work, way="together")
        for work in works
    ]


def _resumed(
    rng: random.Random, works: Iterable[Work], expected: Mapping[RequestId, Output]
) -> list[_Compared]:
    """Return those whose output is long enough to be cut, every other one in rounds."""
    long = [work for work in works if len(expected[work.request_id].token_ids) > 1]
    return [
        _resume(rng, work, tuple(expected[work.request_id].token_ids), in_rounds=number % 2 == 1)
        for number, work in enumerate(long)
    ]


def _resume(rng: random.Random, work: Work, ids: tuple[int, ...], *, in_rounds: bool) -> _Compared:
    n_known = rng.randrange(1, len(ids))
    if not in_rounds:
        attempt = replace(renamed(work, "-resumed"), attempt=2, emitted_ids=ids[:n_known])
        return _Compared(guest=Guest(work=attempt), work=work, way="resumed", n_known=n_known)
    cuts = sorted(rng.randint(0, n_known) for _ in range(rng.randint(1, _MOST_PIECES)))
    pieces = [ids[a:b] for a, b in zip(cuts, [*cuts[1:], n_known], strict=True)]
    attempt = replace(
        renamed(work, "-in-rounds"), attempt=2, emitted_ids=ids[: cuts[0]], is_held=True
    )
    guest = Guest(work=attempt, pieces=pieces, pause_steps=rng.randint(0, 4))
    return _Compared(guest=guest, work=work, way="resumed in rounds", n_known=n_known)


def _arrive(rng: random.Random, guests: list[_Compared]) -> list[_Compared]:
    """Have the guests come in an order of chance, and some of them leave early."""
    rng.shuffle(guests)
    step = 0
    arrived: list[_Compared] = []
    for each in guests:
        step += rng.choice((0, 0, 1, 3))
        leaves = rng.randint(0, 20) if rng.random() < _CANCELLED_SHARE else None
        guest = replace(each.guest, arrives_at=step, cancelled_after=leaves)
        arrived.append(replace(each, guest=guest))
    return arrived
