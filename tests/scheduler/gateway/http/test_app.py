from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from pilotlight.scheduler.errors import (
    DeadlineExceeded,
    ModelUnavailable,
    QueueFull,
    SchedulerError,
)
from pilotlight.scheduler.gateway.http.limits import HttpLimits
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.store_node.protocol import TokenLogprobs

pytestmark = pytest.mark.integration

TEXT = "The quick brown fox"
CHAT = {"model": "fox", "messages": [{"role": "user", "content": "Hello"}]}
COMPLETION = {"model": "fox", "prompt": "Hello"}


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
async def client(serve: Any) -> AsyncIterator[httpx.AsyncClient]:
    server = await serve(HttpLimits(keep_alive_seconds=0.05))
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        yield client


def events(text: str) -> list[str]:
    """Return what a stream says, event by event."""
    assert text.endswith("\n\n")
    return text.removesuffix("\n\n").split("\n\n")


def chunks(text: str) -> list[dict[str, Any]]:
    data = [event.removeprefix("data: ") for event in events(text) if event.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(chunk) for chunk in data[:-1]]


async def test_a_whole_conversation_looks_as_openais(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=CHAT)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-req-")
    assert body.pop("created") > 1_700_000_000
    prompt_tokens = body["usage"]["prompt_tokens"]
    assert body == {
        "object": "chat.completion",
        "model": "fox",
        "choices": [
            {
                "index": 0,
                "message": {"content": TEXT, "role": "assistant", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 5,
            "total_tokens": prompt_tokens + 5,
        },
    }


async def test_a_streamed_conversation_looks_as_openais(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions",
        json={**CHAT, "stream": True, "stream_options": {"include_usage": True}},
    )

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    told = chunks(response.text)
    assert {chunk["object"] for chunk in told} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in told}) == 1
    choices = [chunk["choices"][0] for chunk in told[:-1]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"] for choice in choices[1:]] == [
        {"content": "The"},
        {"content": " quick"},
        {"content": " brown"},
        {"content": " fox"},
        {"content": ""},  # the end token
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]
    assert [chunk["usage"] for chunk in told[:-1]] == [None] * 7
    assert told[-1]["choices"] == []
    assert told[-1]["usage"]["completion_tokens"] == 5


async def test_usage_is_streamed_only_where_it_is_asked_for(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert all("usage" not in chunk for chunk in chunks(response.text))


async def test_completions_look_as_openais(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/v1/completions", json=COMPLETION)).json()
    streamed = await client.post("/v1/completions", json={**COMPLETION, "stream": True})

    assert whole["object"] == "text_completion"
    assert whole["id"].startswith("cmpl-req-")
    assert whole["choices"] == [
        {"text": TEXT, "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    told = chunks(streamed.text)
    assert "".join(chunk["choices"][0]["text"] for chunk in told) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in told] == [None] * 4 + ["stop"]


@pytest.mark.parametrize(
    ("path", "body"), [("chat/completions", CHAT), ("completions", COMPLETION)]
)
async def test_several_answers_come_in_one_body(
    path: str, body: dict[str, Any], client: httpx.AsyncClient
) -> None:
    alone = (await client.post(f"/v1/{path}", json=body)).json()
    three = (await client.post(f"/v1/{path}", json={**body, "n": 3})).json()

    assert three["choices"] == [{**alone["choices"][0], "index": index} for index in range(3)]
    prompt_tokens = alone["usage"]["prompt_tokens"]
    assert three["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 15,  # three times five
        "total_tokens": prompt_tokens + 15,
    }


async def test_several_answers_are_streamed_in_turns(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions",
        json={**CHAT, "n": 2, "stream": True, "stream_options": {"include_usage": True}},
    )

    told = chunks(response.text)
    assert len({chunk["id"] for chunk in told}) == 1
    choices = [chunk["choices"][0] for chunk in told[:-1]]
    for index in range(2):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in own) == TEXT
        assert [choice["finish_reason"] for choice in own] == [None] * 6 + ["stop"]
    indices = [choice["index"] for choice in choices]
    assert indices != sorted(indices)
    assert told[-1]["choices"] == []
    assert told[-1]["usage"]["completion_tokens"] == 10
    assert "choices" in told[-2]
    assert told[-2]["usage"] is None


async def test_several_texts_are_streamed_in_turns(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={**COMPLETION, "n": 2, "stream": True})

    choices = [chunk["choices"][0] for chunk in chunks(response.text)]
    for index in range(2):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == TEXT
        assert own[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_of_several_answers_that_leaves_cancels_all(
    is_stream: bool, client: httpx.AsyncClient, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.may_go_on = asyncio.Event()
    body = {**CHAT, "n": 3, "stream": is_stream}
    asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
    await asyncio.wait_for(backend.has_started.wait(), 10.0)

    asking.cancel()
    await asyncio.wait([asking])

    await asyncio.wait_for(backend.is_idle.wait(), 10.0)
    assert len(backend.inferences) == 3
    assert backend.cancelled.is_set()


async def test_log_probabilities_of_both_forms(
    client: httpx.AsyncClient, deployed: Script, tokenizers: dict[str, Tokenizer]
) -> None:
    the, quick = tokenizers["byte-level"].encode("The quick", add_special_tokens=False).ids
    deployed.token_ids = [the, quick]
    deployed.logprobs = [
        TokenLogprobs(logprob=-0.5, top_ids=(the, quick), top_logprobs=(-0.5, float("-inf"))),
        TokenLogprobs(logprob=-2.0, top_ids=(the, quick), top_logprobs=(-0.25, -2.0)),
    ]

    chat = await client.post(
        "/v1/chat/completions", json={**CHAT, "logprobs": True, "top_logprobs": 2}
    )
    text = await client.post("/v1/completions", json={**COMPLETION, "logprobs": 1})

    first = chat.json()["choices"][0]["logprobs"]["content"][0]
    assert first == {
        "token": "The",
        "logprob": -0.5,
        "bytes": [84, 104, 101],
        "top_logprobs": [
            {"token": "The", "logprob": -0.5, "bytes": [84, 104, 101]},
            {"token": " quick", "logprob": -9999.0, "bytes": [32, 113, 117, 105, 99, 107]},
        ],
    }
    assert text.json()["choices"][0]["logprobs"] == {
        "tokens": ["The", " quick"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"The": -0.5, " quick": -9999.0}, {"The": -0.25, " quick": -2.0}],
        "text_offset": [0, 3],
    }


async def test_token_ids_come_where_asked_for_and_where_there_is_no_text(
    client: httpx.AsyncClient, backend: ScriptedBackend, deployed: Script, tmp_path: Path
) -> None:
    backend.deploy("timed", tmp_path, Script(token_ids=[70000, 8]))

    asked = await client.post("/v1/completions", json={**COMPLETION, "return_token_ids": True})
    bare = await client.post(
        "/v1/completions", json={"model": "timed", "prompt": [[1, 2]], "stream": True}
    )

    assert asked.json()["choices"][0]["token_ids"] == list(deployed.token_ids)
    told = [chunk["choices"][0] for chunk in chunks(bare.text)]
    assert [(choice["text"], choice["token_ids"]) for choice in told] == [
        ("", [70000]),
        ("", [8]),
    ]


async def test_models_are_listed_and_shown(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    shown = await client.get("/v1/models/fox")
    unknown = await client.get("/v1/models/a/b")

    model = {
        "id": "fox",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "pilotlight",
        "max_model_len": 1024,
    }
    assert listed == {"object": "list", "data": [model]}
    assert shown.json() == model
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QueueFull("fox", waiting=3, retry_after_seconds=7.2), 429, "8"),
        (ModelUnavailable("fox", "no node has it"), 503, "5"),
        (DeadlineExceeded("r", deadline_seconds=1.0, state="waiting"), 504, None),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
async def test_an_error_before_the_first_token_has_its_status(
    n: int,
    error: SchedulerError,
    status: int,
    retry_after: str | None,
    is_stream: bool,
    client: httpx.AsyncClient,
    deployed: Script,
) -> None:
    deployed.token_ids, deployed.error = (), error

    body = {**CHAT, "stream": is_stream, "n": n}
    response = await client.post("/v1/chat/completions", json=body)

    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert response.json()["error"]["message"] == str(error)


@pytest.mark.parametrize("n", [1, 3])
async def test_an_error_in_a_stream_is_its_last_event(
    n: int, client: httpx.AsyncClient, deployed: Script
) -> None:
    deployed.error = ModelUnavailable("fox", "its node died")

    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": n})

    assert response.status_code == 200
    last = events(response.text)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_unavailable"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unexpected_error_tells_nothing_and_the_server_goes_on(
    is_stream: bool, client: httpx.AsyncClient, deployed: Script
) -> None:
    deployed.error = ZeroDivisionError("secret")

    with structlog.testing.capture_logs() as logs:
        response = await client.post("/v1/completions", json={**COMPLETION, "stream": is_stream})

    assert response.status_code == (200 if is_stream else 500)
    assert "internal_error" in response.text
    assert "secret" not in response.text
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["http request failed"]
    assert (await client.get("/healthz")).status_code == 200


async def test_a_cold_start_is_bridged_by_comments(
    client: httpx.AsyncClient, deployed: Script
) -> None:
    deployed.may_start = asyncio.Event()
    comments = 0

    async with client.stream(
        "POST", "/v1/chat/completions", json={**CHAT, "stream": True}
    ) as response:
        lines = [line async for line in _until_started(response, deployed.may_start)]

    assert response.status_code == 200
    comments = lines.count(": keep-alive")
    assert comments >= 2
    assert lines[-2] == "data: [DONE]"


async def _until_started(response: httpx.Response, may_start: asyncio.Event) -> AsyncIterator[str]:
    seen = 0
    async for line in response.aiter_lines():
        yield line
        seen += line == ": keep-alive"
        if seen == 2:
            may_start.set()


async def test_a_start_that_fails_after_comments_ends_in_an_error_event(
    client: httpx.AsyncClient, deployed: Script
) -> None:
    deployed.may_start = asyncio.Event()
    deployed.token_ids, deployed.error = (), ModelUnavailable("fox", "its disk is broken")

    async with client.stream(
        "POST", "/v1/chat/completions", json={**CHAT, "stream": True}
    ) as response:
        lines = [line async for line in _until_started(response, deployed.may_start)]

    assert lines[0] == ": keep-alive"
    assert "its disk is broken" in lines[-2]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_urls_and_methods_that_are_none_are_refused_in_openais_form(
    method: str, path: str, status: int, code: str, client: httpx.AsyncClient
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b'{"model": "fox", ', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'{"model": "cat", "prompt": "x"}', "application/json", 404),
        (b'{"model": "fox", "prompt": "' + b"x" * (5 << 20) + b'"}', "application/json", 413),
    ],
)
async def test_bad_bodies_are_refused_in_openais_form(
    content: bytes, media_type: str, status: int, client: httpx.AsyncClient
) -> None:
    response = await client.post(
        "/v1/completions", content=content, headers={"content-type": media_type}
    )

    assert response.status_code == status
    assert list(response.json()) == ["error"]


async def test_the_clients_request_id_comes_back_and_ours_is_made(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    given = await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": "abc"})
    strange = await client.get("/healthz", headers={"x-request-id": "x" * 500})

    assert given.headers["x-request-id"] == "abc"
    assert strange.headers["x-request-id"].startswith("req-")
    # Clients' ids may repeat, so that requests run under ours.
    assert given.json()["id"] == f"cmpl-{backend.inferences[0].request_id}"


async def test_readiness_comes_with_its_reason(serve: Any) -> None:
    reason: str | None = "the database is not there"
    server = await serve(readiness=lambda: reason)

    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        before = await client.get("/readyz")
        reason = None
        after = await client.get("/readyz")

    assert (before.status_code, before.text) == (503, "not ready: the database is not there\n")
    assert (after.status_code, after.text) == (200, "ready\n")


async def test_metrics_have_responses_by_route(
    client: httpx.AsyncClient, registry: CollectorRegistry
) -> None:
    await client.post("/v1/completions", json=COMPLETION)
    await client.get("/made/up")
    await client.get("/v1/models/fox")

    text = (await client.get("/metrics")).text

    for labels in (
        'code="200",route="/v1/completions"',
        'code="404",route="_unknown"',
        'code="200",route="/v1/models/{id}"',
    ):
        assert f"pilotlight_http_responses_total{{{labels}}} 1.0" in text
    assert 'pilotlight_requests_total{model="fox",status="ok"} 1.0' in text
    assert "made/up" not in text


async def test_each_request_leaves_one_line(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as logs:
        await client.post("/v1/completions", json=COMPLETION, headers={"x-request-id": "abc"})
        await client.post("/v1/completions", json={**COMPLETION, "max_tokens": 0})
        await client.get("/healthz")

    first, second, third = (log for log in logs if log["event"] == "http request")
    assert (first["model"], first["status"], first["client_request_id"]) == ("fox", 200, "abc")
    assert first["request_id"].startswith("req-")
    assert first["seconds"] > 0
    assert (second["status"], second["error"]) == (400, "invalid_request")
    assert (third["path"], third["log_level"]) == ("/healthz", "debug")


async def test_a_prompt_longer_than_the_context_has_openais_code(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    backend.served["fox"] = replace(backend.served["fox"], context_tokens=10)

    response = await client.post("/v1/chat/completions", json=CHAT)

    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
