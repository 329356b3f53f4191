"""Which request computes what in which step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pilotlight.store_node.engines import Extension, Offer, Work, WorkRefused
from pilotlight.store_node.engines.transformers.decoder import Part
from pilotlight.store_node.engines.transformers.loop import StepLoop
from pilotlight.store_node.protocol import RequestId, Sampling

_VOCABULARY = 10


class CountingDecoder:
    """Says after each sequence the number that follows its last token; notes what it computed."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        """Tokens of each part, by step."""
        self.capacities: list[int] = []
        self.most_tokens = 1_000_000

    def begin(self, capacity_tokens: int) -> list[int]:
        if capacity_tokens > self.most_tokens:
            raise MemoryError(f"no memory for {capacity_tokens} tokens")
        self.capacities.append(capacity_tokens)
        return []

    def extend(self, parts: Sequence[Part[list[int]]]) -> torch.Tensor:
        self.steps.append([len(part.token_ids) for part in parts])
        for part in parts:
            part.sequence.extend(part.token_ids)
        wanted = [part.token_ids[-1] for part in parts if part.wants_logits]
        logits = torch.zeros(len(wanted), _VOCABULARY)
        for row, token_id in enumerate(wanted):
            logits[row, (token_id + 1) % _VOCABULARY] = 1
        return logits


def _loop(
    decoder: CountingDecoder, *, prefill_chunk: int | None = 4, **changes: Any
) -> StepLoop[list[int]]:
    offer = Offer(
        **{
            "concurrency": 4,
            "context_tokens": 200,
            "dtype": "none",
            "kv_tokens": 400,
            "kv_block_tokens": 16,
            **changes,
        }
    )
    return StepLoop(
        decoder, offer, vocabulary=_VOCABULARY, prefill_chunk=prefill_chunk, clock=lambda: 0.0
    )


def _work(name: str, n_prompt: int, *, max_tokens: int = 50, is_held: bool = False) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        prompt_ids=(7,) * n_prompt,
        emitted_ids=(),
        sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
        is_held=is_held,
    )


def test_a_prompt_that_nobody_waits_for_is_computed_in_long_steps() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("a", 37))

    emissions = [loop.step() for _ in range(3)]

    assert decoder.steps == [[16], [16], [5]]  # 4 * 4, the rest of 37
    assert [len(each) for each in emissions] == [0, 0, 1]


def test_streams_go_on_while_a_prompt_is_computed_in_chunks() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("stream", 1))
    loop.step()
    loop.admit(_work("long", 10))

    emissions = [loop.step() for _ in range(4)]

    assert decoder.steps[1:] == [[1, 4], [1, 4], [1, 2], [1, 1]]
    names = [[emission.request_id for emission in each] for each in emissions]
    assert names == [["stream"], ["stream"], ["stream", "long"], ["stream", "long"]]


def test_prompts_share_a_chunk_in_the_order_in_which_they_came() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("stream", 1))
    loop.step()
    for name in ("first", "second"):
        loop.admit(_work(name, 3))

    loop.step()
    loop.step()

    assert decoder.steps[1:] == [[1, 3, 1], [1, 1, 2]]


def test_a_cancelled_request_is_in_no_step_that_follows() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("a", 20))
    loop.admit(_work("b", 2))
    loop.step()

    loop.cancel(RequestId("a"))
    loop.step()

    assert decoder.steps == [[16], [2]]


def test_a_request_reserves_all_that_it_may_come_to_in_whole_blocks() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)

    loop.admit(_work("a", 3, max_tokens=20))
    loop.admit(_work("b", 3, max_tokens=1000))

    assert decoder.capacities == [32, 208]  # 23 in blocks of 16; the context of 200 is 13 of them
    with pytest.raises(WorkRefused, match="208 tokens don't fit beside 240 into 400"):
        loop.admit(_work("c", 3, max_tokens=1000))


def test_a_held_request_computes_all_but_what_the_next_token_comes_from() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("a", 6, is_held=True))

    (notice,) = loop.step()
    was_busy = loop.is_busy
    extension = Extension(request_id=RequestId("a"), attempt=2, emitted_ids=(8, 9), is_held=False)
    loop.extend(extension)
    (emission,) = loop.step()

    assert (notice.is_prepared, notice.token_ids, was_busy) == (True, (), False)
    assert decoder.steps == [[5], [3]]  # 6 - 1, then that one and two more
    assert (emission.attempt, emission.seq, emission.token_ids) == (2, 2, (0,))


def test_a_held_request_of_one_token_is_prepared_without_computing() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    loop.admit(_work("a", 1, is_held=True))

    (notice,) = loop.step()

    assert notice.is_prepared
    assert decoder.steps == []
    assert not loop.is_busy


def test_prompts_that_can_not_be_cut_are_computed_as_a_whole() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder, prefill_chunk=None)
    loop.admit(_work("stream", 1))
    loop.step()
    loop.admit(_work("long", 37))

    loop.step()

    assert decoder.steps[1:] == [[1, 37]]


def test_what_is_extended_and_can_not_be_cut_is_computed_anew() -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder, prefill_chunk=None)
    loop.admit(_work("a", 6, is_held=True))
    loop.step()
    extension = Extension(request_id=RequestId("a"), attempt=2, emitted_ids=(8, 9), is_held=False)

    loop.extend(extension)
    (emission,) = loop.step()

    assert decoder.steps == [[5], [8]]
    assert emission.token_ids == (0,)


@pytest.mark.parametrize(("n_running", "code"), [(0, "too_long"), (1, "full")])
def test_a_request_whose_memory_can_not_be_had_is_refused(n_running: int, code: str) -> None:
    decoder = CountingDecoder()
    loop = _loop(decoder)
    for number in range(n_running):
        loop.admit(_work(str(number), 3, max_tokens=10))
    decoder.most_tokens = 20

    with pytest.raises(WorkRefused, match="no memory for 64 tokens") as refused:
        loop.admit(_work("large", 3, max_tokens=50))

    assert refused.value.code == code
    decoder.most_tokens = 100
    loop.admit(_work("large", 3, max_tokens=50))
