"""OpenAI's own client against a live server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from pilotlight.scheduler.errors import ModelUnavailable, QueueFull
from pilotlight.scheduler.gateway.http.server import HttpServer
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.store_node.protocol import TokenLogprobs

pytestmark = pytest.mark.integration

TEXT = "The quick brown fox 🎉 jumps"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def deployed(
    backend: ScriptedBackend,
    model_directories: dict[str, Path],
    tokenizers: dict[str, Tokenizer],
) -> Script:
    ids = tokenizers["byte-level"].encode(TEXT, add_special_tokens=False).ids
    script = Script(token_ids=[*ids, 2])
    backend.deploy("fox", model_directories["byte-level"], script)
    return script


@pytest.fixture
async def server(serve: Any) -> HttpServer:
    server: HttpServer = await serve()
    return server


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"http://{server.address}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_chat(client: openai.AsyncOpenAI, deployed: Script) -> None:
    answer = await client.chat.completions.create(model="fox", messages=MESSAGES, temperature=0)

    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(deployed.token_ids)


async def test_streamed_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="fox",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )

    chunks = [chunk async for chunk in stream]

    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == TEXT
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > chunks[-1].usage.completion_tokens > 0


async def test_the_accumulating_stream_of_the_client(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="fox", messages=MESSAGES) as stream:
        answer = await stream.get_final_completion()

    assert answer.choices[0].message.content == TEXT


async def test_completions_with_a_stop_string(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    whole = await client.completions.create(model="fox", prompt="Hello", stop="fox")
    stream = await client.completions.create(
        model="fox", prompt=[5, 6], stop=["brown"], stream=True
    )

    assert whole.choices[0].text == "The quick brown "
    assert whole.choices[0].finish_reason == "stop"
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "The quick "
    assert backend.cancelled.is_set()


async def test_several_answers(client: openai.AsyncOpenAI, deployed: Script) -> None:
    whole = await client.chat.completions.create(model="fox", messages=MESSAGES, n=3)
    stream = await client.completions.create(model="fox", prompt="Hello", n=3, stream=True)

    texts = ["", "", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [TEXT] * 3
    assert [choice.message.content for choice in whole.choices] == [TEXT] * 3
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3 * len(deployed.token_ids)


async def test_the_accumulating_stream_of_several_answers(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="fox", messages=MESSAGES, n=2) as stream:
        answer = await stream.get_final_completion()

    assert [choice.message.content for choice in answer.choices] == [TEXT] * 2


async def test_penalties_and_biases(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    await client.chat.completions.create(
        model="fox",
        messages=MESSAGES,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": -100, "6": 10},
        extra_body={"repetition_penalty": 1.5},
    )

    sampling = backend.inferences[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.logit_bias, sampling.repetition_penalty) == ({5: -100.0, 6: 10.0}, 1.5)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"90000": 1}),
        ("n", 17),
    ],
)
async def test_what_breaks_a_rule_names_its_parameter(
    parameter: str, value: Any, client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    fields: dict[str, Any] = {parameter: value}

    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="fox", messages=MESSAGES, **fields)

    assert caught.value.param == parameter
    assert backend.inferences == []


async def test_log_probabilities(client: openai.AsyncOpenAI, deployed: Script) -> None:
    deployed.logprobs = [
        TokenLogprobs(logprob=-1.0, top_ids=(5,), top_logprobs=(-0.5,)) for _ in deployed.token_ids
    ]

    answer = await client.chat.completions.create(
        model="fox", messages=MESSAGES, logprobs=True, top_logprobs=1
    )

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    spoken = b"".join(bytes(token.bytes or []) for token in logprobs.content)
    assert spoken.decode().startswith(TEXT)


async def test_models(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]

    assert listed == ["fox"]
    assert (await client.models.retrieve("fox")).owned_by == "pilotlight"


async def test_the_synchronous_client(server: HttpServer) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none") as client:
            stream = client.chat.completions.create(model="fox", messages=MESSAGES, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    # In the event loop's own thread it would wait for itself.
    assert await asyncio.to_thread(ask) == TEXT


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI, deployed: Script) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="cat", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="fox", messages=MESSAGES, temperature=3)
    deployed.token_ids = ()
    deployed.error = QueueFull("fox", waiting=9, retry_after_seconds=3.0)
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(model="fox", messages=MESSAGES)

    assert unknown.value.code == "model_not_found"
    assert bad.value.param == "temperature"
    assert full.value.response.headers["retry-after"] == "3"
    assert full.value.request_id is not None


async def test_an_error_in_a_stream_raises(client: openai.AsyncOpenAI, deployed: Script) -> None:
    deployed.error = ModelUnavailable("fox", "its node died")
    stream = await client.chat.completions.create(model="fox", messages=MESSAGES, stream=True)

    with pytest.raises(openai.APIError, match="its node died"):
        [chunk async for chunk in stream]
