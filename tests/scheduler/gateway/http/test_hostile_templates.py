"""Templates that would take a process down, through HTTP."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels

pytestmark = pytest.mark.integration

TEXT = "The quick brown fox"
LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
LIMIT_SECONDS = 2.0


@pytest.fixture
async def generator(
    backend: ScriptedBackend, registry: CollectorRegistry
) -> AsyncIterator[TextGenerator]:
    async with TextModels() as models:
        yield TextGenerator(
            backend, models=models, metrics=GatewayMetrics(registry), rng=random.Random(1)
        )


@pytest.fixture
async def client(serve: Any) -> AsyncIterator[httpx.AsyncClient]:
    server = await serve()
    async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60.0) as client:
        yield client


@pytest.fixture
def deploy(
    backend: ScriptedBackend,
    model_directories: dict[str, Path],
    tokenizers: dict[str, Tokenizer],
    tmp_path: Path,
) -> Any:
    ids = tokenizers["byte-level"].encode(TEXT, add_special_tokens=False).ids

    def deploy(name: str, template: str) -> None:
        directory = tmp_path / name
        shutil.copytree(model_directories["byte-level"], directory)
        (directory / "chat_template.jinja").write_text(template)
        backend.deploy(name, directory, Script(token_ids=[*ids, 2]))

    return deploy


async def chat(client: httpx.AsyncClient, model: str) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    return await client.post("/v1/chat/completions", json={"model": model, "messages": messages})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 'x' * 3000000000 }}", "takes more than 1 GiB of memory"),
        ("{{ 'x' * 20000000 }}", "writes more than 8 MiB"),
        # Which limit it meets first depends on how fast the machine gives memory.
        ("{{ 'x' * 400000000 }}", "takes more than 1 GiB of memory|runs for more than 2 s"),
        (LOOPS, "runs for more than 2 s"),
    ],
)
async def test_one_models_template_is_refused_while_others_answer(
    template: str, reason: str, client: httpx.AsyncClient, deploy: Any
) -> None:
    deploy("hostile", template)
    deploy("kind", "{{ messages[0].content }}")

    refused, answered = await asyncio.gather(chat(client, "hostile"), chat(client, "kind"))

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert re.fullmatch(f"the model's chat template ({reason})", error.pop("message"))
    assert error == {
        "type": "invalid_request_error",
        "param": "messages",
        "code": None,
    }
    assert answered.json()["choices"][0]["message"]["content"] == TEXT
    completed = await client.post("/v1/completions", json={"model": "hostile", "prompt": "Hello"})
    assert completed.json()["choices"][0]["text"] == TEXT


async def test_a_template_that_can_not_be_compiled_keeps_its_model_from_chats_only(
    client: httpx.AsyncClient, deploy: Any
) -> None:
    deploy("hostile", "{% for %}")
    deploy("kind", "{{ messages[0].content }}")

    refused = await chat(client, "hostile")
    answered = await chat(client, "kind")

    assert refused.status_code == 503
    message = refused.json()["error"]["message"]
    assert message.startswith("model 'hostile' can't be served: the chat template can't be used: ")
    assert "\n" not in message
    assert answered.status_code == 200
    completed = await client.post("/v1/completions", json={"model": "hostile", "prompt": "Hello"})
    assert completed.json()["choices"][0]["text"] == TEXT


async def test_the_gateway_answers_while_a_template_runs(
    client: httpx.AsyncClient, deploy: Any
) -> None:
    deploy("hostile", LOOPS)
    hostile = asyncio.ensure_future(chat(client, "hostile"))

    # Before the template's time is over, that is.
    async with asyncio.timeout(LIMIT_SECONDS):
        assert (await client.get("/healthz")).status_code == 200
        assert not hostile.done()

    assert (await hostile).status_code == 400
