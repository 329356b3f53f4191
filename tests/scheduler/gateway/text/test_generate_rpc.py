from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pilotlight.scheduler.errors import InvalidRequest, UnknownModel
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.scheduler.gateway.text.generate_rpc import generate_responses
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.protocol.control_plane_pb2 import (
    ChatMessage,
    ChatPrompt,
    GenerateRequest,
    TokenPrompt,
)

TEXT = "The quick brown fox"


@pytest.fixture(autouse=True)
def deployed(
    backend: ScriptedBackend,
    model_directories: dict[str, Path],
    tokenizers: dict[str, Tokenizer],
) -> None:
    ids = tokenizers["byte-level"].encode(TEXT, add_special_tokens=False).ids
    backend.deploy("fox", model_directories["byte-level"], Script(token_ids=[*ids, 2]))


async def test_streams_text_tokens_and_the_end(generator: TextGenerator) -> None:
    request = GenerateRequest(model="fox", text="Hello", request_id="mine")

    responses = [response async for response in generate_responses(generator, request)]

    assert "".join(response.text for response in responses) == TEXT
    assert {response.request_id for response in responses} == {"mine"}
    last = responses[-1]
    assert last.finish_reason == "stop"
    assert [response.finish_reason for response in responses[:-1]] == [""] * (len(responses) - 1)
    assert last.usage.completion_tokens == sum(len(one.token_ids) for one in responses)
    assert not responses[0].HasField("usage")


async def test_an_id_is_made_where_there_is_none(generator: TextGenerator) -> None:
    request = GenerateRequest(model="fox", text="Hello")

    responses = [response async for response in generate_responses(generator, request)]

    assert {response.request_id.startswith("req-") for response in responses} == {True}


async def test_unset_parameters_are_the_gateways(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    messages = [ChatMessage(role="user", content="Hello")]
    request = GenerateRequest(model="fox", chat=ChatPrompt(messages=messages))

    [_ async for _ in generate_responses(generator, request)]

    inference = backend.inferences[0]
    sampling = inference.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    assert sampling.max_tokens == 1024 - len(inference.prompt_ids)
    assert inference.deadline_seconds == pytest.approx(300.0, abs=5.0)


async def test_set_parameters_are_the_callers_zero_included(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    request = GenerateRequest(
        model="fox",
        tokens=TokenPrompt(ids=[5, 6]),
        max_tokens=4,
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        seed=0,
        stop=["quick"],
        deadline_seconds=7.0,
    )

    responses = [response async for response in generate_responses(generator, request)]

    inference = backend.inferences[0]
    assert inference.prompt_ids == (5, 6)
    sampling = inference.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 3)
    assert (sampling.seed, sampling.max_tokens) == (0, 4)
    assert inference.deadline_seconds == pytest.approx(7.0, abs=1.0)
    assert "".join(response.text for response in responses) == "The "


async def test_a_request_without_a_prompt_is_refused(generator: TextGenerator) -> None:
    with pytest.raises(InvalidRequest, match="a prompt is needed"):
        await anext(generate_responses(generator, GenerateRequest(model="fox")))


async def test_errors_are_the_schedulers(generator: TextGenerator) -> None:
    with pytest.raises(UnknownModel):
        await anext(generate_responses(generator, GenerateRequest(model="cat", text="x")))


async def test_a_caller_that_leaves_cancels_its_request(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    responses = generate_responses(generator, GenerateRequest(model="fox", text="Hello"))
    await anext(responses)

    await responses.aclose()

    assert backend.cancelled.is_set()
