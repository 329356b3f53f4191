from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pilotlight.store_node.doors.streams import MOST_WAITING_TOKENS, StreamRefused, TokenStream
from pilotlight.store_node.engines.engine import Emission
from pilotlight.store_node.protocol import FinishReason, RequestId, TokenLogprobs
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


def make_stream() -> tuple[TokenStream, list[None]]:
    overflows: list[None] = []
    stream = TokenStream(RequestId("q"), 1, on_overflow=lambda: overflows.append(None))
    return stream, overflows


def emission(
    seq: int, tokens: Sequence[int], *, finish: FinishReason | None = None, prefill: float = 0.0
) -> Emission:
    return Emission(
        request_id=RequestId("q"),
        attempt=1,
        seq=seq,
        token_ids=tuple(tokens),
        logprobs=tuple(TokenLogprobs(logprob=-float(token)) for token in tokens),
        finish_reason=finish,
        prefill_seconds=prefill,
    )


async def test_joins_all_that_waits_into_one_batch() -> None:
    stream, _ = make_stream()
    stream.put(emission(4, [7], prefill=0.5))
    stream.put(emission(5, [8, 9]))
    stream.put(emission(7, [1], finish=FinishReason.STOP))

    batch = await stream.next_batch()

    assert (batch.seq, batch.token_ids) == (4, (7, 8, 9, 1))
    assert [each.logprob for each in batch.logprobs] == [-7.0, -8.0, -9.0, -1.0]
    assert batch.finish_reason is FinishReason.STOP
    assert batch.prefill_seconds == 0.5


async def test_reader_that_waits_gets_a_token_at_once() -> None:
    stream, _ = make_stream()
    reading = asyncio.ensure_future(stream.next_batch())
    await asyncio.sleep(0)

    stream.put(emission(0, [7]))

    assert (await reading).token_ids == (7,)


async def test_end_comes_after_what_waits() -> None:
    stream, _ = make_stream()
    stream.put(emission(0, [7]))
    stream.end(Refusal(code=ErrorCode.WORKER_DIED, message="gone"))

    assert (await stream.next_batch()).token_ids == (7,)
    with pytest.raises(StreamRefused, match="gone"):
        await stream.next_batch()


async def test_tells_when_too_much_waits() -> None:
    stream, overflows = make_stream()

    stream.put(emission(0, [7] * MOST_WAITING_TOKENS))
    assert overflows == []
    stream.put(emission(MOST_WAITING_TOKENS, [7]))

    assert overflows == [None]
