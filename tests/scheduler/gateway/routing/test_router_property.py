"""Whatever nodes do, each request ends with exactly its tokens, or with an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.errors import InvalidRequest, QueueFull
from pilotlight.scheduler.gateway.routing.testing import (
    PROMPT_IDS,
    Attempt,
    Client,
    RoutingCase,
)
from pilotlight.scheduler.testing.virtual_time import VirtualTimeLoop
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.protocol import FinishReason, TokenBatch, store_node_pb2
from pilotlight.store_node.protocol.refusals import ErrorCode

pytestmark = pytest.mark.property

VOCABULARY = 1000
DEADLINE_SECONDS = 60.0
REPLICAS = ("r0", "r1", "r2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a node does with one attempt."""

    before_seconds: float
    n_tokens: int
    """Emitted before the end."""
    batch_tokens: int
    repeats: int
    """Tokens that each batch repeats of the one before."""
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One client's request."""

    after_seconds: float
    max_tokens: int
    leaves_after_seconds: float | None
    is_slow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the controller says."""

    after_seconds: float
    what: str
    replica: str
    concurrency: int


# No such finish reason is known.
_NONSENSE = store_node_pb2.TokenBatch()
_NONSENSE.ParseFromString(b"\x30\x63")

SECONDS = st.sampled_from([0.0, 0.0, 0.05, 1.0, 7.0])
ENDS = ["finish", "break", "end", "gap", "old", "nonsense", "hang", *ErrorCode]

BEHAVIOURS = st.builds(
    Behaviour,
    before_seconds=SECONDS,
    n_tokens=st.integers(0, 4),
    batch_tokens=st.integers(1, 3),
    repeats=st.integers(0, 2),
    end=st.sampled_from(ENDS),
)
ASKED = st.builds(
    Asked,
    after_seconds=SECONDS,
    max_tokens=st.integers(1, 6),
    leaves_after_seconds=st.one_of(st.none(), st.none(), SECONDS),
    is_slow=st.booleans(),
)
CHANGES = st.builds(
    Change,
    after_seconds=SECONDS,
    what=st.sampled_from(["add", "add", "remove", "lose"]),
    replica=st.sampled_from(REPLICAS),
    concurrency=st.integers(1, 3),
)


class Cluster:
    """Nodes that misbehave as drawn, and then no more."""

    def __init__(self, case: RoutingCase, behaviours: Sequence[Behaviour]) -> None:
        self._case = case
        self._behaviours = list(behaviours)
        self._tasks: list[asyncio.Task[None]] = []
        self.concurrency: dict[str, int] = {}
        case.nodes.on_attempt = self._take

    def change(self, change: Change) -> None:
        if change.what == "add":
            # What runs there is as much as there ever was room for.
            known = self.concurrency.get(change.replica, 0)
            self.concurrency[change.replica] = max(known, change.concurrency)
            self._case.add(change.replica, concurrency=self.concurrency[change.replica])
        else:
            self._case.remove(change.replica, is_lost=change.what == "lose")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, attempt: Attempt) -> None:
        here = [a for a in self._case.nodes.attempts if a.address == attempt.address and a.is_open]
        assert len(here) <= self.concurrency[attempt.address], "more than a replica takes at once"
        behaviour = self._behaviours.pop(0) if self._behaviours else None
        self._tasks.append(asyncio.ensure_future(_play(attempt, behaviour)))


async def _play(attempt: Attempt, behaviour: Behaviour | None) -> None:
    request = attempt.request
    reference = _reference(request.sampling.max_tokens)
    known = len(request.emitted_ids)
    assert request.emitted_ids == reference[:known], "a resumed request has other tokens"
    if behaviour is None:
        attempt.finish(*reference[known:])
        return
    await asyncio.sleep(behaviour.before_seconds)
    upto = min(known + behaviour.n_tokens, len(reference) - 1)
    for seq in range(known, upto, behaviour.batch_tokens):
        first = max(seq - behaviour.repeats, 0)
        attempt.send(*reference[first : min(seq + behaviour.batch_tokens, upto)], seq=first)
        await asyncio.sleep(0.01)
    _end(attempt, behaviour.end, upto, reference)


def _end(attempt: Attempt, end: str, upto: int, reference: Sequence[int]) -> None:
    match end:
        case "finish":
            attempt.send(*reference[upto:], seq=upto, finish_reason=FinishReason.LENGTH)
            attempt.end()
        case "break":
            attempt.break_off()
        case "end":
            attempt.end()
        case "gap":
            attempt.send(0, seq=upto + 1)
        case "old":
            attempt.send(VOCABULARY, seq=upto, attempt=attempt.request.attempt - 1)
            attempt.break_off()
        case "nonsense":
            attempt.say(_NONSENSE)
        case "hang":
            return
        case code:
            attempt.refuse(ErrorCode(code))


def _reference(n_tokens: int) -> tuple[int, ...]:
    return expected_ids(PROMPT_IDS, n_tokens, salt="m", vocabulary=VOCABULARY)


async def _serve(case: RoutingCase, asked: Asked, number: int) -> tuple[Asked, Client]:
    await asyncio.sleep(asked.after_seconds)
    client = case.ask(f"q{number}", max_tokens=asked.max_tokens, deadline_seconds=DEADLINE_SECONDS)
    if asked.is_slow:
        client.may_read.clear()
        asyncio.get_running_loop().call_later(2.0, client.may_read.set)
    if asked.leaves_after_seconds is not None:
        await asyncio.sleep(asked.leaves_after_seconds)
        client.task.cancel()
    await asyncio.wait([client.task])
    return asked, client


async def _change_all(cluster: Cluster, changes: Sequence[Change]) -> None:
    for change in changes:
        await asyncio.sleep(change.after_seconds)
        cluster.change(change)


async def _run(
    all_asked: Sequence[Asked], behaviours: Sequence[Behaviour], changes: Sequence[Change]
) -> None:
    async with RoutingCase.running() as case:
        cluster = Cluster(case, behaviours)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_change_all(cluster, changes))
            served = [
                tasks.create_task(_serve(case, asked, number))
                for number, asked in enumerate(all_asked)
            ]
        await case.settle()

        for asked, client in (task.result() for task in served):
            _check(asked, client)
        # Every place was given back, once: nothing is counted, and nothing is left running.
        assert all(counts == (0, 0) for counts in case.router.counts().values())
        assert not any(attempt.is_open for attempt in case.nodes.attempts)
        replicas = [replica for replica, _ in case.link.first_tokens]
        assert len(case.link.demand) == 0 or case.link.demand[-1] == ("m", 0, None)
        assert len(replicas) <= sum(change.what == "add" for change in changes)
        await cluster.close()


def _check(asked: Asked, client: Client) -> None:
    reference = list(_reference(asked.max_tokens))
    assert client.ids == reference[: len(client.ids)]
    if client.task.cancelled():
        assert asked.leaves_after_seconds is not None
    elif client.error is None:
        assert client.task.exception() is None
        assert (client.ids, client.finish_reason) == (reference, FinishReason.LENGTH)


@given(
    asked=st.lists(ASKED, min_size=1, max_size=6),
    behaviours=st.lists(BEHAVIOURS, max_size=12),
    changes=st.lists(CHANGES, max_size=8),
)
def test_each_request_ends_with_its_tokens_or_an_error(
    asked: list[Asked], behaviours: list[Behaviour], changes: list[Change]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_run(asked, behaviours, changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests that come as one."""

    after_seconds: float
    n: int
    leaves_after_seconds: float | None


GROUPS = st.builds(
    Group,
    after_seconds=SECONDS,
    n=st.integers(1, 4),
    leaves_after_seconds=st.one_of(st.none(), st.none(), SECONDS),
)


async def _serve_group(case: RoutingCase, group: Group, number: int) -> list[list[int]] | None:
    """Return the tokens of all; None where the group was turned away, or left."""
    await asyncio.sleep(group.after_seconds)
    inferences = [case.inference(f"q{number}.{index}", max_tokens=2) for index in range(group.n)]
    try:
        async with (
            asyncio.timeout(group.leaves_after_seconds),
            case.router.admit(inferences) as runs,
        ):
            return await asyncio.gather(*map(_read, runs))
    except (InvalidRequest, QueueFull, TimeoutError):
        return None


async def _read(run: AsyncGenerator[TokenBatch, None]) -> list[int]:
    return [token async for batch in run for token in batch.token_ids]


@given(
    groups=st.lists(GROUPS, min_size=1, max_size=6),
    seconds=st.lists(SECONDS, max_size=12),
    queue_limit=st.integers(1, 6),
    concurrency=st.integers(1, 3),
)
def test_of_requests_that_come_as_one_all_are_served_or_none(
    groups: list[Group], seconds: list[float], queue_limit: int, concurrency: int
) -> None:
    finishing = [
        Behaviour(before_seconds=each, n_tokens=0, batch_tokens=1, repeats=0, end="finish")
        for each in seconds
    ]

    async def run() -> list[list[list[int]] | None]:
        async with RoutingCase.running() as case:
            case.deploy("m", queue_limit=queue_limit)
            cluster = Cluster(case, finishing)
            cluster.change(
                Change(after_seconds=0.0, what="add", replica="r0", concurrency=concurrency)
            )
            answers = await asyncio.gather(
                *(_serve_group(case, group, number) for number, group in enumerate(groups))
            )
            await case.settle()
            assert all(waiting <= queue_limit for _, waiting, _ in case.link.demand)
            assert case.router.counts() == {"m": (0, 0)}
            assert not any(attempt.is_open for attempt in case.nodes.attempts)
            await cluster.close()
            return answers

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        answers = runner.run(run())

    for group, answer in zip(groups, answers, strict=True):
        assert answer is None or answer == [list(_reference(2))] * group.n
        never_turned_away = len(groups) == 1 and group.n <= max(1, queue_limit)
        if never_turned_away and group.leaves_after_seconds is None:
            assert answer is not None


@given(asked=st.lists(ASKED, min_size=1, max_size=6), n_refusals=st.integers(0, 8))
def test_each_request_succeeds_where_a_replica_does(asked: list[Asked], n_refusals: int) -> None:
    refusing = Behaviour(
        before_seconds=0.0, n_tokens=0, batch_tokens=1, repeats=0, end=ErrorCode.NO_SLOT
    )
    patient = [
        Asked(
            after_seconds=each.after_seconds,
            max_tokens=each.max_tokens,
            leaves_after_seconds=None,
            is_slow=each.is_slow,
        )
        for each in asked
    ]

    async def run() -> list[Client]:
        async with RoutingCase.running() as case:
            cluster = Cluster(case, [refusing] * n_refusals)
            cluster.change(Change(after_seconds=0.0, what="add", replica="r0", concurrency=1))
            served = await asyncio.gather(
                *(_serve(case, each, number) for number, each in enumerate(patient))
            )
            await cluster.close()
            return [client for _, client in served]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        clients = runner.run(run())

    for each, client in zip(patient, clients, strict=True):
        assert client.error is None
        assert client.ids == list(_reference(each.max_tokens))
