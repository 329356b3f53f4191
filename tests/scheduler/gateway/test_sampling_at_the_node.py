"""What a client says of sampling, as the node hears it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from pilotlight.scheduler.errors import InvalidRequest
from pilotlight.scheduler.gateway.http.openai_requests import read_completion
from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.routing.testing import Attempt, RoutingCase
from pilotlight.scheduler.gateway.testing import inline_renderer
from pilotlight.scheduler.gateway.text.generate_rpc import generate_responses
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.gateway.text.transcript import TextPiece
from pilotlight.scheduler.protocol.control_plane_pb2 import GenerateRequest, TokenPrompt
from pilotlight.store_node.protocol import Sampling, store_node_pb2, wire
from pilotlight.store_node.protocol.refusals import ErrorCode

BODY: dict[str, Any] = {
    "model": "m",
    "prompt": [1, 2, 3],
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.75,
    "top_k": 40,
    "presence_penalty": 0.25,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {"5": -100, "7": 2.5},
    "seed": 11,
    "stop_token_ids": [44],
    "logprobs": 3,
}
SAMPLING = Sampling(
    temperature=0.5,
    top_p=0.75,
    top_k=40,
    seed=11,
    max_tokens=9,
    stop_token_ids=(44,),
    logprobs=3,
    presence_penalty=0.25,
    frequency_penalty=-0.5,
    repetition_penalty=1.5,
    logit_bias={5: -100.0, 7: 2.5},
)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[RoutingCase]:
    """Yield a router with room for two requests, of a model without a tokenizer."""
    async with RoutingCase.running() as case:
        case.deploy("m", directory=tmp_path)
        case.add("r1", concurrency=2)
        yield case


@pytest.fixture
async def generator(case: RoutingCase) -> AsyncIterator[TextGenerator]:
    async with TextModels(renderer=inline_renderer()) as models:
        yield TextGenerator(
            case.router,
            models=models,
            metrics=GatewayMetrics(CollectorRegistry()),
            rng=random.Random(1),
        )


async def ask(generator: TextGenerator, **fields: object) -> list[TextPiece]:
    call = read_completion(msgspec.json.encode({**BODY, **fields}))
    return [piece async for piece in generator.generate(call.request)]


def heard(case: RoutingCase) -> list[Sampling]:
    """Return what came with each attempt, as read from the wire."""
    messages = [
        wire.to_message(attempt.request, store_node_pb2.GenerateRequest).SerializeToString()
        for attempt in case.nodes.attempts
    ]
    parsed = map(store_node_pb2.GenerateRequest.FromString, messages)
    return [wire.from_message(message.sampling, Sampling) for message in parsed]


async def test_all_that_openais_body_says_is_heard(
    case: RoutingCase, generator: TextGenerator
) -> None:
    case.nodes.on_attempt = lambda attempt: attempt.finish(7)

    await ask(generator)

    assert heard(case) == [SAMPLING]


async def test_all_that_the_rpc_says_is_heard(case: RoutingCase, generator: TextGenerator) -> None:
    case.nodes.on_attempt = lambda attempt: attempt.finish(7)
    fields = {name: value for name, value in BODY.items() if name not in ("prompt", "logit_bias")}
    request = GenerateRequest(
        **fields, tokens=TokenPrompt(ids=[1, 2, 3]), logit_bias={5: -100.0, 7: 2.5}
    )

    [_ async for _ in generate_responses(generator, request)]

    assert heard(case) == [SAMPLING]


async def test_a_resumed_attempt_is_sampled_as_the_lost_one_was(
    case: RoutingCase, generator: TextGenerator
) -> None:
    def answer(attempt: Attempt) -> None:
        if attempt.request.attempt == 1:
            attempt.send(7)
            attempt.break_off()
        else:
            attempt.finish(8)

    case.nodes.on_attempt = answer
    case.add("r2")

    pieces = await ask(generator)

    assert [piece.token_ids for piece in pieces] == [(7,), (8,)]
    assert case.nodes.last.request.emitted_ids == (7,)
    assert heard(case) == [SAMPLING, SAMPLING]


async def test_several_answers_are_several_requests_that_share_the_places(
    case: RoutingCase, generator: TextGenerator
) -> None:
    case.nodes.on_attempt = lambda attempt: attempt.finish(int(attempt.request.sampling.seed))

    pieces = await ask(generator, n=4)

    assert sorted((piece.index, piece.token_ids) for piece in pieces) == [
        (0, (11,)),
        (1, (12,)),
        (2, (13,)),
        (3, (14,)),
    ]
    ids = [attempt.request.request_id for attempt in case.nodes.attempts]
    assert sorted(ids) == [ids[0], *(f"{ids[0]}.{index}" for index in (1, 2, 3))]
    assert len({sampling.seed for sampling in heard(case)}) == 4


async def test_an_answer_that_a_node_refuses_cancels_the_others(
    case: RoutingCase, generator: TextGenerator
) -> None:
    def answer(attempt: Attempt) -> None:
        attempt.send(7)
        if attempt.request.request_id.endswith(".1"):
            attempt.refuse(ErrorCode.INVALID_REQUEST, "its logits are no numbers")

    case.nodes.on_attempt = answer

    with pytest.raises(InvalidRequest, match="its logits are no numbers"):
        await ask(generator, n=3)

    assert not any(attempt.is_open for attempt in case.nodes.attempts)
    assert case.router.counts() == {"m": (0, 0)}
