"""What the execution files of a model say about its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.scheduler.errors import UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.execution_files import (
    GenerationConfig,
    ModelConfig,
    TokenizerConfig,
    read_json,
    read_text,
)
from pilotlight.scheduler.gateway.text.tokenizer import CONFIG_FILE, TextTokenizer, load_tokenizer

TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """A model's text side: how prompts become ids, ids text, and where text ends."""

    tokenizer: TextTokenizer | None
    """None where there is no tokenizer.json: the model takes and gives token ids only."""
    template: str | None = field(repr=False)
    """The source of its chat template, as it came; None without a tokenizer."""
    end_ids: tuple[int, ...]
    """Tokens that end the text, of generation_config.json, else of config.json."""
    vocabulary_size: int | None
    """Ids that the model has weights for; None where config.json does not say."""


def load_text_model(directory: Path) -> TextModel:
    """Read all that a folder of execution files says about text.

    Raises:
        UnreadableExecutionFile: a file is broken.
    """
    if not directory.is_dir():
        # Its model was deleted, or deployed anew, a moment ago.
        raise UnreadableExecutionFile(str(directory), "it is gone")
    tokenizer = load_tokenizer(directory)
    whole = read_json(directory / "config.json", ModelConfig)
    inner = whole.text_config or whole
    generation = read_json(directory / "generation_config.json", GenerationConfig)
    return TextModel(
        tokenizer=tokenizer,
        template=_load_template(directory, tokenizer),
        end_ids=_ids(generation.eos_token_id)
        or _ids(inner.eos_token_id)
        or _ids(whole.eos_token_id),
        vocabulary_size=inner.vocab_size or whole.vocab_size,
    )


def read_chat_template(directory: Path) -> str | None:
    """Return the default chat template of a folder of execution files, where it has one.

    Raises:
        UnreadableExecutionFile: a file is broken.
    """
    source = read_text(directory / TEMPLATE_FILE)
    if source is not None:
        return source
    listed = read_json(directory / CONFIG_FILE, TokenizerConfig).chat_template
    if isinstance(listed, list):
        listed = {entry.name: entry.template for entry in listed}
    return listed.get("default") if isinstance(listed, dict) else listed


def _load_template(directory: Path, tokenizer: TextTokenizer | None) -> str | None:
    source = read_chat_template(directory)
    return None if tokenizer is None else source


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(sorted({entry for entry in listed if entry is not None and entry >= 0}))
