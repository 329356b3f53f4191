from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from pilotlight.scheduler.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    QueueFull,
    RequestLost,
    UnknownModel,
)
from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.scheduler.gateway.metrics import UNKNOWN_MODEL, GatewayMetrics
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend, inline_renderer
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.gateway.text.text_request import ChatMessage, Conversation, TextRequest
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer
from pilotlight.scheduler.gateway.text.transcript import TextPiece, Usage
from pilotlight.store_node.protocol import FinishReason, Sampling

TEXT = "The quick brown fox jumps over the lazy dog."
REQUEST = TextRequest(model="fox", prompt="Hello", max_tokens=100)
CHAT = replace(REQUEST, prompt=Conversation(messages=(ChatMessage(role="user", content="Hello"),)))


@pytest.fixture(autouse=True)
def deployed(
    backend: ScriptedBackend,
    model_directories: dict[str, Path],
    tokenizers: dict[str, Tokenizer],
) -> Script:
    """Deploy a model that always says the same, and return its script."""
    ids = tokenizers["byte-level"].encode(TEXT, add_special_tokens=False).ids
    script = Script(token_ids=[*ids, 2])
    backend.deploy("fox", model_directories["byte-level"], script)
    return script


async def collect(generator: TextGenerator, request: TextRequest) -> list[TextPiece]:
    return [piece async for piece in generator.generate(request)]


def last_prompt(generator: TextGenerator) -> tuple[int, ...]:
    backend = generator.backend
    assert isinstance(backend, ScriptedBackend)
    return backend.inferences[-1].prompt_ids


def count(registry: CollectorRegistry, model: str, status: str) -> float | None:
    return registry.get_sample_value(
        "pilotlight_requests_total", {"model": model, "status": status}
    )


async def test_yields_the_text_of_the_tokens(generator: TextGenerator, deployed: Script) -> None:
    pieces = await collect(generator, REQUEST)

    assert "".join(piece.text for piece in pieces) == TEXT
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason is FinishReason.STOP
    prompt_tokens = len(last_prompt(generator))
    assert pieces[-1].usage == Usage(
        prompt_tokens=prompt_tokens, completion_tokens=len(deployed.token_ids)
    )


async def test_text_is_encoded_with_special_tokens_and_chat_without(
    generator: TextGenerator, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers["byte-level"]

    await collect(generator, REQUEST)
    text_ids = last_prompt(generator)
    await collect(generator, CHAT)
    chat_ids = last_prompt(generator)

    assert list(text_ids) == tokenizer.encode("Hello").ids
    rendered = "<s><|user|>\nHello\n<|assistant|>\n"
    assert list(chat_ids) == tokenizer.encode(rendered, add_special_tokens=False).ids
    assert chat_ids.count(1) == 1  # one <s>, of the template


async def test_a_large_prompt_is_encoded_like_a_small_one(
    generator: TextGenerator, backend: ScriptedBackend, tokenizers: dict[str, Tokenizer]
) -> None:
    text = "The lazy dog. " * 300
    backend.served["fox"] = replace(backend.served["fox"], context_tokens=100_000)

    await collect(generator, replace(REQUEST, prompt=text))

    assert list(last_prompt(generator)) == tokenizers["byte-level"].encode(text).ids


async def test_a_short_conversation_whose_text_is_long_is_encoded_like_a_large_prompt(
    generator: TextGenerator,
    backend: ScriptedBackend,
    model_directories: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(model_directories["byte-level"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ 'The lazy dog. ' * 300 }}")
    backend.deploy("wordy", tmp_path, Script(token_ids=[2]), context_tokens=100_000)
    monkeypatch.delattr(TextTokenizer, "encode")  # which is for the event loop's thread

    await collect(generator, replace(CHAT, model="wordy"))

    assert len(last_prompt(generator)) > 900  # three for each repetition at least


async def test_parameters_become_the_sampling(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    request = replace(
        REQUEST,
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={5: -100.0, 7: 2.5},
        seed=11,
        max_tokens=9,
        stop_token_ids=(44, 2),
        logprobs=3,
        deadline_seconds=20.0,
        request_id="mine",
    )

    await collect(generator, request)

    inference = backend.inferences[0]
    assert inference.request_id == "mine"
    assert 19.0 < inference.deadline_seconds <= 20.0
    assert inference.sampling == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={5: -100.0, 7: 2.5},
        seed=11,
        max_tokens=9,
        stop_token_ids=(2, 44),
        logprobs=3,
    )


async def test_the_gateway_fills_in_what_is_left_to_it(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    bare = TextRequest(model="fox", prompt="Hello")

    await collect(generator, bare)
    await collect(generator, bare)

    first, second = backend.inferences
    assert first.request_id.startswith("req-")
    assert first.request_id != second.request_id
    assert first.sampling.seed != second.sampling.seed
    assert first.sampling.max_tokens == 16
    assert (first.sampling.presence_penalty, first.sampling.frequency_penalty) == (0.0, 0.0)
    assert (first.sampling.repetition_penalty, first.sampling.logit_bias) == (1.0, {})
    assert first.sampling.stop_token_ids == (2,)  # of generation_config.json
    assert first.deadline_seconds == pytest.approx(300.0, abs=5.0)


async def test_the_same_randomness_gives_the_same_seeds(
    backend: ScriptedBackend, registry: CollectorRegistry
) -> None:
    seeds: list[int] = []
    for registry_ in (CollectorRegistry(), registry):
        async with TextModels(renderer=inline_renderer()) as models:
            generator = TextGenerator(
                backend, models=models, metrics=GatewayMetrics(registry_), rng=random.Random(3)
            )
            await collect(generator, REQUEST)
        seeds.append(backend.inferences[-1].sampling.seed)

    assert seeds[0] == seeds[1]


async def test_benchmarks_may_ignore_the_models_end_tokens(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    await collect(generator, replace(REQUEST, ignore_eos=True, stop_token_ids=(5,)))

    assert backend.inferences[0].sampling.stop_token_ids == (5,)


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    # The context has room for 16 tokens behind the prompt.
    [(None, 16), (5, 5), (4000, 16)],
)
async def test_a_conversation_may_fill_the_context(
    max_tokens: int | None,
    expected: int,
    generator: TextGenerator,
    backend: ScriptedBackend,
) -> None:
    await collect(generator, CHAT)
    prompt_tokens = len(last_prompt(generator))
    backend.served["fox"] = replace(backend.served["fox"], context_tokens=prompt_tokens + 16)

    await collect(generator, replace(CHAT, max_tokens=max_tokens))

    assert backend.inferences[-1].sampling.max_tokens == expected


async def test_a_prompt_that_leaves_no_room_is_refused(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    backend.served["fox"] = replace(backend.served["fox"], context_tokens=8)

    with pytest.raises(InvalidRequest, match=r"prompt has 8 tokens.* context of 8") as caught:
        await collect(generator, replace(REQUEST, prompt=(5,) * 8))

    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    assert backend.inferences == []


@pytest.mark.parametrize(
    ("param", "value"), [("prompt", (5, 90000)), ("logit_bias", {5: 1.0, 90000: 1.0})]
)
async def test_token_ids_outside_of_the_vocabulary_are_refused(
    param: str, value: Any, generator: TextGenerator
) -> None:
    with pytest.raises(InvalidRequest, match=r"token id 90000 is outside of .* vocab") as caught:
        await collect(generator, replace(REQUEST, **{param: value}))

    assert caught.value.param == param


async def test_a_prompt_without_tokens_is_refused(
    generator: TextGenerator, backend: ScriptedBackend, model_directories: dict[str, Path]
) -> None:
    backend.deploy("bert", model_directories["wordpiece"], Script())

    with pytest.raises(InvalidRequest, match="the prompt has no tokens"):
        await collect(generator, replace(REQUEST, model="bert", prompt=" "))


async def test_a_stop_string_cancels_before_the_last_piece(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    pieces = generator.generate(replace(REQUEST, stop=("brown",)))

    seen = [(backend.running, piece.finish_reason) async for piece in pieces]

    # "The" and " quick" come while it runs, and with " brown" it is over.
    assert seen == [(1, None), (1, None), (0, FinishReason.STOP)]
    assert backend.cancelled.is_set()


async def test_closing_cancels_the_request(
    generator: TextGenerator, backend: ScriptedBackend, registry: CollectorRegistry
) -> None:
    pieces = generator.generate(REQUEST)
    await anext(pieces)

    await pieces.aclose()

    assert backend.cancelled.is_set()
    assert count(registry, "fox", "cancelled") == 1


async def test_several_answers_come_side_by_side(
    generator: TextGenerator, backend: ScriptedBackend, deployed: Script
) -> None:
    pieces = await collect(generator, replace(REQUEST, n=3, seed=7, request_id="mine"))

    for index in range(3):
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == TEXT
        assert [piece.finish_reason for piece in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason is FinishReason.STOP
    assert [piece.index for piece in pieces[:6]] == [0, 1, 2, 0, 1, 2]
    assert [inference.request_id for inference in backend.inferences] == [
        "mine",
        "mine.1",
        "mine.2",
    ]
    assert [inference.sampling.seed for inference in backend.inferences] == [7, 8, 9]


async def test_usage_of_several_answers_counts_the_prompt_once(
    generator: TextGenerator, deployed: Script, registry: CollectorRegistry
) -> None:
    pieces = await collect(generator, replace(REQUEST, n=3))

    assert [piece.usage for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    n_prompt, n_tokens = len(last_prompt(generator)), 3 * len(deployed.token_ids)
    assert pieces[-1].usage == Usage(prompt_tokens=n_prompt, completion_tokens=n_tokens)
    labels = {"model": "fox"}
    assert count(registry, "fox", "ok") == 1
    for name, expected in (
        ("pilotlight_generation_tokens_total", n_tokens),
        ("pilotlight_prompt_tokens_total", n_prompt),
        ("pilotlight_time_to_first_token_seconds_count", 1),
        ("pilotlight_inter_token_latency_seconds_count", n_tokens - 3),
    ):
        assert registry.get_sample_value(name, labels) == expected, name


async def test_the_first_of_several_answers_is_the_only_one_of_another_request(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    await collect(generator, replace(REQUEST, seed=7))
    await collect(generator, replace(REQUEST, seed=7, n=2))

    alone, first, second = (inference.sampling for inference in backend.inferences)
    assert first == alone
    assert replace(second, seed=7) == alone


async def test_a_stop_string_cancels_its_answer_only(
    generator: TextGenerator, backend: ScriptedBackend
) -> None:
    pieces = generator.generate(replace(REQUEST, n=2, stop=("brown",)))

    seen = [(backend.running, piece.index, piece.finish_reason) async for piece in pieces]

    assert [(index, reason) for _, index, reason in seen] == [
        *((index, None) for _ in range(2) for index in range(2)),
        (0, FinishReason.STOP),
        (1, FinishReason.STOP),
    ]
    assert seen[-1][0] == 0


async def test_what_fails_answers_fails_the_request(
    generator: TextGenerator,
    backend: ScriptedBackend,
    registry: CollectorRegistry,
    deployed: Script,
) -> None:
    deployed.may_go_on = asyncio.Event()
    pieces = generator.generate(replace(REQUEST, n=3))
    await anext(pieces)
    deployed.error = RequestLost("r", attempts=3, reason="its node died")
    deployed.may_go_on.set()

    with pytest.raises(RequestLost, match="its node died"):
        [piece async for piece in pieces]

    assert backend.running == 0
    assert count(registry, "fox", "lost") == 1


async def test_closing_cancels_all_answers(
    generator: TextGenerator, backend: ScriptedBackend, registry: CollectorRegistry
) -> None:
    pieces = generator.generate(replace(REQUEST, n=3))
    await anext(pieces)
    running = backend.running

    await pieces.aclose()

    assert (running, backend.running) == (3, 0)
    assert count(registry, "fox", "cancelled") == 1


async def test_a_request_that_others_cancelled_is_an_error(
    generator: TextGenerator, deployed: Script
) -> None:
    deployed.finish_reason = FinishReason.CANCELLED

    with pytest.raises(RequestLost, match="it was cancelled"):
        await collect(generator, REQUEST)


async def test_the_deadline_covers_what_comes_before_the_backend(
    generator: TextGenerator, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_never(name: str) -> ServedModel:
        await asyncio.Event().wait()
        raise AssertionError(name)

    monkeypatch.setattr(type(backend), "find", lambda self, name: find_never(name))

    with pytest.raises(DeadlineExceeded, match=r"passed its 0\.01 s while being prepared"):
        await collect(generator, replace(REQUEST, deadline_seconds=0.01))


async def test_without_a_chat_template_the_refusal_says_what_to_do(
    generator: TextGenerator,
    backend: ScriptedBackend,
    tmp_path: Path,
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizers["byte-level"].save(str(tmp_path / "tokenizer.json"))
    backend.deploy("base", tmp_path, Script())

    with pytest.raises(InvalidRequest, match=r"no chat template: use /v1/completions, or add"):
        await collect(generator, replace(CHAT, model="base"))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "text"},
        {"prompt": CHAT.prompt},
        {"prompt": (1, 2), "stop": ("x",)},
    ],
)
async def test_without_a_tokenizer_text_is_refused(
    change: dict[str, object], generator: TextGenerator, backend: ScriptedBackend, tmp_path: Path
) -> None:
    backend.deploy("timed", tmp_path, Script(token_ids=[7]))

    with pytest.raises(InvalidRequest, match=r"has no tokenizer\.json: send token ids"):
        await collect(generator, replace(REQUEST, model="timed", **change))  # type: ignore[arg-type]


async def test_without_a_tokenizer_token_ids_work(
    generator: TextGenerator, backend: ScriptedBackend, tmp_path: Path
) -> None:
    backend.deploy("timed", tmp_path, Script(token_ids=[70000, 8]))

    pieces = await collect(generator, replace(REQUEST, model="timed", prompt=(1, 2)))

    assert [piece.token_ids for piece in pieces] == [(70000,), (8,)]
    assert [piece.text for piece in pieces] == ["", ""]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull("fox", waiting=3, retry_after_seconds=2.0), "queue_full"),
        (ModelUnavailable("fox", "no node"), "unavailable"),
        (DeadlineExceeded("r", deadline_seconds=1.0, state="waiting"), "deadline_exceeded"),
        (RequestLost("r", attempts=3, reason="node died"), "lost"),
        (ZeroDivisionError(), "error"),
    ],
)
async def test_requests_are_counted_by_how_they_end(
    error: Exception,
    status: str,
    generator: TextGenerator,
    registry: CollectorRegistry,
    deployed: Script,
) -> None:
    deployed.error = error

    with pytest.raises(type(error)):
        await collect(generator, REQUEST)

    assert count(registry, "fox", status) == 1


async def test_times_and_tokens_are_measured(
    generator: TextGenerator, registry: CollectorRegistry, deployed: Script
) -> None:
    await collect(generator, REQUEST)

    n_tokens = len(deployed.token_ids)
    labels = {"model": "fox"}
    assert count(registry, "fox", "ok") == 1
    for name, expected in (
        ("pilotlight_generation_tokens_total", n_tokens),
        ("pilotlight_prompt_tokens_total", len(last_prompt(generator))),
        ("pilotlight_time_to_first_token_seconds_count", 1),
        ("pilotlight_inter_token_latency_seconds_count", n_tokens - 1),
        ("pilotlight_e2e_request_latency_seconds_count", 1),
    ):
        assert registry.get_sample_value(name, labels) == expected, name


async def test_names_that_clients_make_up_are_no_labels(
    generator: TextGenerator, registry: CollectorRegistry
) -> None:
    for name in ("nope", "nada"):
        with pytest.raises(UnknownModel):
            await collect(generator, replace(REQUEST, model=name))

    models = {
        sample.labels["model"]
        for metric in registry.collect()
        for sample in metric.samples
        if "model" in sample.labels
    }
    assert models == {UNKNOWN_MODEL}
    assert count(registry, UNKNOWN_MODEL, "unknown_model") == 2
