from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.native_loader import Checkpoint
from pilotlight.store_node.storage.model_facts import ModelFacts, read_model_facts

MakeCheckpoint = Callable[..., Path]

LLAMA = ModelFacts(architecture="llama", dtype="bf16")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"model_type": "gpt2", "n_positions": 1024, "dtype": "float32"},
            ModelFacts(architecture="gpt2", context_tokens=1024, dtype="float32"),
        ),
        (
            {"model_type": "opt", "max_position_embeddings": 2048, "torch_dtype": "float16"},
            ModelFacts(architecture="opt", context_tokens=2048, dtype="float16"),
        ),
        (
            {"model_type": "gemma3", "text_config": {"max_position_embeddings": 8192}},
            # What is stored, where the config does not say.
            ModelFacts(architecture="gemma3", context_tokens=8192, dtype="bf16"),
        ),
        (
            {"model_type": 7, "max_position_embeddings": "many", "torch_dtype": None},
            ModelFacts(dtype="bf16"),
        ),
        *(
            ({"model_type": "llama", "max_position_embeddings": nonsense}, LLAMA)
            for nonsense in (2**31, 10**30, -1, 0, True, 512.0)
        ),
        ({"model_type": "llama", "n_ctx": 2**31 - 1}, replace(LLAMA, context_tokens=2**31 - 1)),
        ({"model_type": "x" * 100_000}, ModelFacts(dtype="bf16")),
    ],
)
def test_reads_what_the_config_says(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint, config: object, expected: ModelFacts
) -> None:
    checkpoint = Checkpoint.open(make_small_checkpoint(tmp_path / "m", config=config))

    assert read_model_facts(checkpoint) == expected


def test_weights_without_a_config_are_no_problem(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = Checkpoint.open(make_small_checkpoint(tmp_path / "m"))

    assert read_model_facts(checkpoint) == ModelFacts(dtype="bf16")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_config_that_is_no_object_is_a_problem(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint, text: str
) -> None:
    directory = make_small_checkpoint(tmp_path / "m")
    (directory / "config.json").write_text(text, encoding="latin-1")

    facts = read_model_facts(Checkpoint.open(directory))

    assert "config.json" in facts.problem
    assert len(facts.problem.splitlines()) == 1
