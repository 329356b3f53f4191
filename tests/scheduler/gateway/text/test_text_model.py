from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pilotlight.scheduler.errors import ModelUnavailable
from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.scheduler.gateway.testing import inline_renderer
from pilotlight.scheduler.gateway.text.text_model import load_text_model, read_chat_template
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.gateway.text.text_request import ChatMessage
from pilotlight.store_node.protocol import ModelId


@pytest.fixture
async def models() -> AsyncIterator[TextModels]:
    async with TextModels(capacity=2, renderer=inline_renderer()) as models:
        yield models


def write(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(json.dumps(content))


def served(name: str, directory: Path, version: str = "1") -> ServedModel:
    return ServedModel(
        name=ModelId(name),
        context_tokens=64,
        deployed_at=0.0,
        directory=directory,
        version=version,
    )


def test_end_tokens_are_those_of_the_generation_configuration(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 7, "vocab_size": 100})
    write(tmp_path, "generation_config.json", {"eos_token_id": [9, 3]})

    model = load_text_model(tmp_path)

    assert model.end_ids == (3, 9)
    assert model.vocabulary_size == 100


@pytest.mark.parametrize("generation", [None, {"temperature": 0.5}])
def test_end_tokens_are_else_those_of_the_configuration(generation: object, tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 7})
    if generation is not None:
        write(tmp_path, "generation_config.json", generation)

    assert load_text_model(tmp_path).end_ids == (7,)


def test_a_multimodal_model_is_described_inside(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"time_step_limit": [0.0, Infinity], "text_config": {"vocab_size": 50, "eos_token_id": 4}}'
    )

    model = load_text_model(tmp_path)

    assert (model.end_ids, model.vocabulary_size) == ((4,), 50)


def test_an_empty_folder_takes_token_ids_only(tmp_path: Path) -> None:
    model = load_text_model(tmp_path)

    assert model.tokenizer is None
    assert model.template is None
    assert (model.end_ids, model.vocabulary_size) == ((), None)


async def test_callers_at_once_share_one_load(
    models: TextModels, model_directories: dict[str, Path]
) -> None:
    model = served("m", model_directories["wordpiece"])

    first, second = await asyncio.gather(models.get(model), models.get(model))

    assert first is second


async def test_a_caller_that_leaves_does_not_take_the_load_away(
    models: TextModels, model_directories: dict[str, Path]
) -> None:
    model = served("m", model_directories["wordpiece"])
    async with asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(models.get(model))
        staying = tasks.create_task(models.get(model))
        await asyncio.sleep(0)

        leaving.cancel()

    assert (await staying).tokenizer is not None


async def test_a_new_version_is_loaded_anew(models: TextModels, tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 1})
    old = await models.get(served("m", tmp_path, version="1"))
    write(tmp_path, "config.json", {"eos_token_id": 2})

    same = await models.get(served("m", tmp_path, version="1"))
    new = await models.get(served("m", tmp_path, version="2"))

    assert same is old
    assert new.end_ids == (2,)


async def test_the_model_not_used_for_longest_is_dropped(
    models: TextModels, tmp_path: Path
) -> None:
    first = await models.get(served("first", tmp_path))
    second = await models.get(served("second", tmp_path))
    assert await models.get(served("first", tmp_path)) is first

    await models.get(served("third", tmp_path))

    assert await models.get(served("first", tmp_path)) is first
    assert await models.get(served("second", tmp_path)) is not second


async def test_a_broken_file_makes_the_model_unavailable_until_it_is_mended(
    models: TextModels, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(ModelUnavailable, match=r"'m' can't be served: config\.json can't be used"):
        await models.get(served("m", tmp_path))
    write(tmp_path, "config.json", {"eos_token_id": 5})

    assert (await models.get(served("m", tmp_path))).end_ids == (5,)


async def test_a_template_that_is_none_keeps_its_model_from_chats(
    models: TextModels, model_directories: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(model_directories["wordpiece"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{% for %}")

    model = served("m", tmp_path)
    # Without a conversation it does without its template.
    text_model = await models.get(model)

    with pytest.raises(ModelUnavailable, match=r"'m' can't be served: the chat template can't be"):
        await models.render(model, text_model, [ChatMessage(role="user", content="Hello")])


async def test_files_that_are_gone_are_no_model_without_a_tokenizer(
    models: TextModels, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match="it is gone"):
        await models.get(served("m", tmp_path / "removed"))


def test_a_template_file_goes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert read_chat_template(tmp_path) == "old"

    (tmp_path / "chat_template.jinja").write_text("new")

    assert read_chat_template(tmp_path) == "new"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    listed = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "plain"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))

    assert read_chat_template(tmp_path) == "plain"


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
