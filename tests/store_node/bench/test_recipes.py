from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.store_node.bench.recipes import (
    LLAMA_23M,
    SERVED,
    SHORT,
    STARTED,
    TINY,
    find_recipe,
)


def test_a_checkpoint_is_made_once_its_mark_says_so(tmp_path: Path) -> None:
    assert not LLAMA_23M.is_made(tmp_path)

    (tmp_path / LLAMA_23M.name).mkdir()
    assert not LLAMA_23M.is_made(tmp_path)

    LLAMA_23M.mark(tmp_path).write_text(LLAMA_23M.digest)
    assert LLAMA_23M.is_made(tmp_path)


def test_another_recipe_makes_another_checkpoint(tmp_path: Path) -> None:
    (tmp_path / LLAMA_23M.name).mkdir()
    LLAMA_23M.mark(tmp_path).write_text(LLAMA_23M.digest)

    changed = replace(LLAMA_23M, config={**LLAMA_23M.config, "hidden_size": 256})

    assert not changed.is_made(tmp_path)


def test_names_find_recipes() -> None:
    for recipe in (*STARTED, *SERVED, *SHORT):
        assert find_recipe(recipe.name) is recipe


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gpt2", "opt", "gemma", "phi"])
def test_every_family_has_a_tiny_model(family: str) -> None:
    assert [recipe for recipe in TINY if recipe.model_type.startswith(family)]
