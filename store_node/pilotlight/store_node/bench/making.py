"""Makes checkpoints of random weights.

Run as `python -m pilotlight.store_node.bench.making PARENT_PID DIRECTORY NAME…` it
makes those of these names, in a process that then ends and takes torch along. A
folder that is there is whole: it is renamed into place.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.logging import disable_progress_bar

from pilotlight.process.bench.answers import Answers
from pilotlight.process.page_cache import flush_to_disk
from pilotlight.store_node.bench.messages import Ready
from pilotlight.store_node.bench.recipes import Recipe, find_recipe

_SEED_DIGITS = 8


def make_missing(recipes: Sequence[Recipe], directory: Path) -> None:
    """Make the checkpoints that are not below `directory` yet, each in a folder of its name."""
    for recipe in recipes:
        if recipe.is_made(directory):
            continue
        partial = directory / f".{recipe.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_checkpoint(recipe, partial)
        shutil.rmtree(directory / recipe.name, ignore_errors=True)
        os.rename(partial, directory / recipe.name)
        recipe.mark(directory).write_text(recipe.digest)


def write_checkpoint(recipe: Recipe, folder: Path) -> None:
    """Write one checkpoint in float32, with weights that follow from its recipe.

    They are wide, which keeps the output of a random model from collapsing into a
    loop. Its pages are clean when this returns, and can leave the page cache.
    """
    make_config: Any = CONFIG_MAPPING[recipe.model_type]
    make_model: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(int(recipe.digest[:_SEED_DIGITS], 16))
    config = make_config(bos_token_id=1, eos_token_id=2, pad_token_id=None, **recipe.config)
    make_model(config, dtype=torch.float32).save_pretrained(folder)
    for file in folder.iterdir():
        flush_to_disk(file)


def main() -> None:
    """Make the checkpoints that the command line names."""
    answers = Answers()
    directory, names = Path(sys.argv[2]), sys.argv[3:]
    disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped there
    directory.mkdir(parents=True, exist_ok=True)

    def make() -> None:
        make_missing([find_recipe(name) for name in names], directory)
        answers.say(Ready())

    answers.attempt(make)


if __name__ == "__main__":
    main()
