"""The small files beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotlight.scheduler.errors import UnreadableExecutionFile

T = TypeVar("T")


class TokenEntry(msgspec.Struct):
    """A token with its flags, as files spell it out; None = the library's default."""

    content: str
    single_word: bool | None = None
    lstrip: bool | None = None
    rstrip: bool | None = None
    normalized: bool | None = None
    special: bool | None = None

    def flags(self) -> dict[str, bool]:
        """Return the flags that the file has."""
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if isinstance(value, bool)}


class NamedTemplate(msgspec.Struct):
    """One of several chat templates."""

    name: str
    template: str


class TokenizerConfig(msgspec.Struct):
    """What is of use in tokenizer_config.json, and in special_tokens_map.json."""

    bos_token: str | TokenEntry | None = None
    eos_token: str | TokenEntry | None = None
    unk_token: str | TokenEntry | None = None
    sep_token: str | TokenEntry | None = None
    pad_token: str | TokenEntry | None = None
    cls_token: str | TokenEntry | None = None
    mask_token: str | TokenEntry | None = None
    extra_special_tokens: list[str | TokenEntry] | dict[str, str | TokenEntry] | None = None
    additional_special_tokens: list[str | TokenEntry] | None = None
    added_tokens_decoder: dict[str, TokenEntry] | None = None
    chat_template: str | list[NamedTemplate] | dict[str, str] | None = None


class TextConfig(msgspec.Struct):
    """What is of use of a language model in config.json."""

    vocab_size: int | None = None
    eos_token_id: int | list[int] | None = None


class ModelConfig(TextConfig):
    """What is of use in config.json; a multimodal model has its language model inside."""

    text_config: TextConfig | None = None


class GenerationConfig(msgspec.Struct):
    """What is of use in generation_config.json."""

    eos_token_id: int | list[int] | None = None


def read_json(path: Path, kind: type[T]) -> T:
    """Return what a file says; all defaults where there is no such file.

    Raises:
        UnreadableExecutionFile: it is something else.
    """
    try:
        # Not by msgspec alone: these files may hold NaN and Infinity.
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as exc:
        raise UnreadableExecutionFile(path.name, str(exc)) from exc


def read_text(path: Path) -> str | None:
    """Return a file's text; None where there is no such file.

    Raises:
        UnreadableExecutionFile: it is not UTF-8, or can't be opened.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise UnreadableExecutionFile(path.name, str(exc)) from exc
