from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.errors import UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer, load_tokenizer

KINDS = ("byte-level", "byte-fallback", "metaspace", "wordpiece")
TEXTS = (
    "The quick brown fox",
    " leading,  double  and trailing ",
    "naïve 🎉 日本語\n\ttabs",
    "special </s> inside <s>",
    "x" * 300,
    "",
)


class Reference(Protocol):
    """What these tests use of transformers' tokenizers."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


def load(directory: Path) -> TextTokenizer:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


def load_reference(directory: Path) -> Reference:
    # Any, because transformers' own signatures are wider than what is used of them.
    reference: Any = transformers.AutoTokenizer.from_pretrained(str(directory))
    return cast(Reference, reference)


@pytest.fixture(scope="module")
def references(model_directories: dict[str, Path]) -> dict[str, Reference]:
    return {kind: load_reference(model_directories[kind]) for kind in KINDS}


@pytest.fixture
def plain(tmp_path: Path, model_directories: dict[str, Path]) -> Path:
    """Return a folder with a byte-level tokenizer.json alone."""
    source = model_directories["byte-level"] / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_encodes_as_transformers_does(
    kind: str,
    add_special_tokens: bool,
    references: dict[str, Reference],
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    for text in TEXTS:
        expected = references[kind].encode(text, add_special_tokens=add_special_tokens)

        ids = text_tokenizers[kind].encode(text, add_special_tokens=add_special_tokens)
        released = text_tokenizers[kind].encode_released(
            text, add_special_tokens=add_special_tokens
        )

        assert ids == expected
        assert released == expected


@pytest.mark.property
@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=60))
def test_encodes_any_text_as_transformers_does(
    kind: str,
    text: str,
    references: dict[str, Reference],
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    assert text_tokenizers[kind].encode(text, add_special_tokens=True) == references[kind].encode(
        text
    )


def test_prompts_get_the_special_tokens_of_the_post_processor(
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    byte_level, metaspace = text_tokenizers["byte-level"], text_tokenizers["metaspace"]

    assert byte_level.encode("fox", add_special_tokens=True)[0] == 1  # <s>
    assert metaspace.encode("fox", add_special_tokens=True)[-1] == 2  # </s>


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<|end|>", "extra_special_tokens": ["<|a|>", "<|b|>"]},
        {"eos_token": {"content": "<|end|>", "__type": "AddedToken", "lstrip": True}},
        {"additional_special_tokens": ["<|a|>"], "pad_token": "<|pad|>"},
        {"add_bos_token": False, "bos_token": "<s>"},
        {
            "added_tokens_decoder": {
                "1": {"content": "<s>", "special": True},
                "700": {"content": "<|tool|>", "special": False, "normalized": False},
                "1000": {"content": "<|end|>", "special": True},
            },
            "eos_token": "<|end|>",
        },
    ],
)
def test_tokens_that_only_the_configuration_names_are_known(
    config: dict[str, object], plain: Path
) -> None:
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (plain / "tokenizer_config.json").write_text(json.dumps(named))
    reference = load_reference(plain)
    text = "<s>one <|end|> two<|a|><|b|>three <|pad|><|tool|> four"

    tokenizer = load(plain)

    ids = tokenizer.encode(text, add_special_tokens=True)
    assert ids == reference.encode(text)
    visible = [token for token in ids if tokenizer.has_text(token)]
    assert tokenizer.decode(visible) == reference.decode(ids, skip_special_tokens=True)


def test_an_older_special_tokens_map_is_read(plain: Path) -> None:
    (plain / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
    )
    (plain / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|end|>", "bos_token": {"content": "<s>"}})
    )

    tokenizer = load(plain)

    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "<|end|>"}
    ids = tokenizer.encode("one<|end|>", add_special_tokens=True)
    assert ids == load_reference(plain).encode("one<|end|>")


def test_truncation_and_padding_of_the_file_are_ignored(plain: Path) -> None:
    tokenizer = load(plain)
    tokenizer.backend.enable_truncation(4)
    tokenizer.backend.enable_padding(length=64)
    tokenizer.backend.save(str(plain / "tokenizer.json"))

    ids = load(plain).encode("The quick brown fox jumps over", add_special_tokens=False)

    assert load(plain).decode(ids) == "The quick brown fox jumps over"


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_the_bytes_of_tokens_join_to_those_of_the_text(
    kind: str, text_tokenizers: dict[str, TextTokenizer]
) -> None:
    tokenizer = text_tokenizers[kind]
    ids = tokenizer.encode("naïve fox 🎉", add_special_tokens=False)

    raw = b"".join(tokenizer.token_bytes(token) for token in ids)

    assert raw.decode().strip() == "naïve fox 🎉"


def test_a_token_within_a_sentence_keeps_its_space(
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    tokenizer = text_tokenizers["byte-fallback"]
    token_id = tokenizer.backend.token_to_id("▁the")
    assert token_id is not None

    assert tokenizer.token_text(token_id) == " the"
    assert tokenizer.token_text(2) == "</s>"


def test_without_a_tokenizer_file_there_is_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("special_tokens_map.json", "\xff"),
    ],
)
def test_a_broken_file_is_named(name: str, content: str, plain: Path) -> None:
    (plain / name).write_text(content, encoding="latin-1")

    with pytest.raises(UnreadableExecutionFile, match=name) as caught:
        load_tokenizer(plain)

    assert "\n" not in str(caught.value)
