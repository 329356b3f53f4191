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
from pilotlight.store_node.protocol import TokenLogprobs

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
    assert (sampling.repetition_penalty, sampling.logit_bias, sampling.logprobs) == (1.0, {}, None)
    assert len(backend.inferences) == 1
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
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        repetition_penalty=1.25,
        logit_bias={5: -100.0},
        stop=["quick"],
        stop_token_ids=[9],
        ignore_eos=True,
        logprobs=2,
        deadline_seconds=7.0,
    )

    responses = [response async for response in generate_responses(generator, request)]

    inference = backend.inferences[0]
    assert inference.prompt_ids == (5, 6)
    sampling = inference.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 3)
    assert (sampling.seed, sampling.max_tokens) == (0, 4)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.25)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.25, {5: -100.0})
    assert (sampling.stop_token_ids, sampling.logprobs) == ((9,), 2)
    assert inference.deadline_seconds == pytest.approx(7.0, abs=1.0)
    assert "".join(response.text for response in responses) == "The "


async def test_several_answers_are_told_apart_by_their_index(generator: TextGenerator) -> None:
    request = GenerateRequest(model="fox", text="Hello", n=2)

    responses = [response async for response in generate_responses(generator, request)]

    for index in range(2):
        own = [response for response in responses if response.index == index]
        assert "".join(response.text for response in own) == TEXT
        assert own[-1].finish_reason == "stop"
    assert [response.HasField("usage") for response in responses[:-1]] == [False] * (
        len(responses) - 1
    )
    n_tokens = sum(len(response.token_ids) for response in responses)
    assert responses[-1].usage.completion_tokens == n_tokens


async def test_log_probabilities_come_with_their_tokens(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    script = backend.scripts["fox"]
    script.logprobs = [
        TokenLogprobs(logprob=-1.5, top_ids=(script.token_ids[1],), top_logprobs=(-0.5,))
    ] * len(script.token_ids)
    request = GenerateRequest(model="fox", text="Hello", logprobs=1)

    first = await anext(generate_responses(generator, request))

    [detail] = first.details
    assert (detail.token.text, detail.token.raw, detail.token.logprob) == ("The", b"The", -1.5)
    assert [(top.text, top.logprob) for top in detail.top] == [(" quick", -0.5)]


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
