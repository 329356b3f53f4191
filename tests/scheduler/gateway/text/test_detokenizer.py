from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pilotlight.scheduler.gateway.text.detokenizer import Detokenizer
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer

KINDS = ("byte-level", "byte-fallback", "metaspace", "wordpiece")
TEXT = "The naïve fox 🎉🚀 jumps,\n\n 日本語 and  the lazy dog didn't."


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def join(tokenizer: TextTokenizer, batches: list[list[int]]) -> str:
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(batch) for batch in batches]
    return "".join([*pieces, detokenizer.flush()])


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_one_token_join_to_the_decoded_text(
    kind: str, tokenizers: dict[str, Tokenizer], text_tokenizers: dict[str, TextTokenizer]
) -> None:
    ids = ids_of(tokenizers[kind], TEXT)

    text = join(text_tokenizers[kind], [[token] for token in ids])

    assert text == tokenizers[kind].decode(ids)


@pytest.mark.property
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_pieces_of_any_tokens_join_to_the_decoded_text(
    kind: str,
    data: st.DataObject,
    tokenizers: dict[str, Tokenizer],
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    tokenizer = tokenizers[kind]
    # Ids beyond the vocabulary are those of a padded embedding: they have no text.
    anything = st.integers(0, tokenizer.get_vocab_size() + 3)
    tricky = st.sampled_from([*ids_of(tokenizer, "é 🎉 \n the"), 0, 1, 2])
    batches = data.draw(st.lists(st.lists(anything | tricky, max_size=4), max_size=20))

    text = join(text_tokenizers[kind], batches)

    ids = [token for batch in batches for token in batch]
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.property
@given(data=st.data())
def test_runs_of_byte_tokens_join_to_the_decoded_text(
    data: st.DataObject,
    tokenizers: dict[str, Tokenizer],
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    tokenizer = tokenizers["byte-fallback"]
    # Bytes of "é", "€" and "🎉", in any order: whole, broken, and mixed with other tokens.
    runs = [0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x8E, 0x89, 0x0A]
    tokens = [f"<0x{byte:02X}>" for byte in runs] + ["▁", "a", "▁the", "<s>"]
    vocabulary = tokenizer.get_vocab()
    ids = data.draw(st.lists(st.sampled_from([vocabulary[token] for token in tokens]), max_size=24))

    text = join(text_tokenizers["byte-fallback"], [[token] for token in ids])

    assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_half_a_character_is_held_back(text_tokenizers: dict[str, TextTokenizer]) -> None:
    tokenizer = text_tokenizers["byte-level"]
    # "é" is the bytes C3 A9, written Ã and © in the byte alphabet.
    first, second = (tokenizer.backend.token_to_id(token) for token in ("Ã", "©"))
    assert first is not None
    assert second is not None
    detokenizer = Detokenizer(tokenizer)

    pieces = [detokenizer.push([first]), detokenizer.push([second])]

    assert pieces == ["", "é"]


def test_a_character_that_never_ends_comes_out_at_the_end(
    text_tokenizers: dict[str, TextTokenizer],
) -> None:
    tokenizer = text_tokenizers["byte-level"]
    detokenizer = Detokenizer(tokenizer)

    pushed = detokenizer.push([tokenizer.encode("Ã", add_special_tokens=False)[0]])

    assert pushed == ""
    assert detokenizer.flush() == "\ufffd"


def test_whole_text_is_not_held_back(text_tokenizers: dict[str, TextTokenizer]) -> None:
    tokenizer = text_tokenizers["byte-level"]
    ids = tokenizer.encode("The quick fox", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)

    pieces = [detokenizer.push([token]) for token in ids]

    assert all(pieces)
    assert "".join(pieces) == "The quick fox"
    assert detokenizer.position == len("The quick fox")


@pytest.mark.parametrize("token", ["ÿ", "</s>"])
def test_a_stream_without_whole_characters_takes_linear_time(
    token: str, text_tokenizers: dict[str, TextTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = text_tokenizers["byte-level"]
    token_id = tokenizer.backend.token_to_id(token)
    assert token_id is not None
    decoded_tokens = 0
    decode = TextTokenizer.decode

    def count(self: TextTokenizer, ids: list[int]) -> str:
        nonlocal decoded_tokens
        decoded_tokens += len(ids)
        return decode(self, ids)

    monkeypatch.setattr(TextTokenizer, "decode", count)
    detokenizer = Detokenizer(tokenizer)

    for _ in range(4096):
        detokenizer.push([token_id])

    # 17 windows of 1 to 17 tokens, then 34, 68 … 2176: 153 + 2 * 2176 - 34 = 4471 < 2 * 4096.
    assert decoded_tokens < 2 * 4096
