"""Messages as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.store_node.engines import Emission, Work
from pilotlight.store_node.errors import BrokenFrame
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling, TokenLogprobs
from pilotlight.store_node.workers import messages
from pilotlight.store_node.workers.framing import MAX_FRAME_BYTES, FrameDecoder, encode_frame

_MESSAGES: list[messages.FromWorker] = [
    messages.Warm(),
    messages.Prepared(call=1, seconds=0.5),
    messages.Refused(call=2, code="full", message="no slot"),
    messages.Emitted(
        emissions=(
            Emission(
                request_id=RequestId("a"),
                attempt=2,
                seq=3,
                token_ids=(4, 5),
                logprobs=(TokenLogprobs(logprob=-0.5, top_ids=(4,), top_logprobs=(-0.5,)),),
                finish_reason=FinishReason.STOP,
            ),
        )
    ),
]


@pytest.mark.property
@given(st.lists(st.integers(1, 40), min_size=1))
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b"".join(encode_frame(message) for message in _MESSAGES)
    decoder = FrameDecoder[messages.FromWorker](messages.FromWorker)
    arrived: list[messages.FromWorker] = []

    at = 0
    while at < len(data):
        length = cuts[at % len(cuts)]
        arrived += decoder.feed(data[at : at + length])
        at += length

    assert arrived == _MESSAGES


def test_work_arrives_as_the_value_it_was() -> None:
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=tuple(range(1000)),
        emitted_ids=(7,),
        sampling=Sampling(
            temperature=0.3,
            seed=2**63,
            stop_token_ids=(1, 2),
            logprobs=3,
            logit_bias={0: -100.0, 2**32 - 1: 0.5},
        ),
    )
    decoder = FrameDecoder[messages.ToWorker](messages.ToWorker)

    (message,) = decoder.feed(encode_frame(messages.Admit(call=1, work=work)))

    assert message == messages.Admit(call=1, work=work)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "little"), "is announced"),
        (b"\x01\0\0\0\xc1", "is no message"),
        (encode_frame(messages.Preloaded(seconds=1.0)), "is no message"),
    ],
    ids=["too-large", "not-msgpack", "not-for-here"],
)
def test_what_is_no_message_is_refused(data: bytes, rule: str) -> None:
    decoder = FrameDecoder[messages.FromWorker](messages.FromWorker)

    with pytest.raises(BrokenFrame, match=rule):
        list(decoder.feed(data))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    message = messages.Failed(code="x", message="x" * (MAX_FRAME_BYTES + 1))

    with pytest.raises(BrokenFrame, match="a Failed of"):
        encode_frame(message)
