from __future__ import annotations

from collections.abc import Sequence

import pytest

from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer
from pilotlight.scheduler.gateway.text.transcript import TextPiece, Transcript, Usage
from pilotlight.store_node.protocol import FinishReason, RequestId, TokenBatch, TokenLogprobs

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
END = 2  # </s>


def batch(
    ids: Sequence[int],
    finish_reason: FinishReason | None = None,
    logprobs: Sequence[TokenLogprobs] = (),
) -> TokenBatch:
    return TokenBatch(
        request_id=RequestId("r"),
        attempt=1,
        seq=0,
        token_ids=tuple(ids),
        finish_reason=finish_reason,
        logprobs=tuple(logprobs),
    )


@pytest.fixture
def tokenizer(text_tokenizers: dict[str, TextTokenizer]) -> TextTokenizer:
    return text_tokenizers["byte-level"]


def ids_of(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def transcript(tokenizer: TextTokenizer | None, *stop: str) -> Transcript:
    return Transcript(tokenizer, prompt_tokens=5, end_ids=[END], stop=stop)


def test_the_last_piece_has_the_reason_and_the_usage(tokenizer: TextTokenizer) -> None:
    ids = ids_of(tokenizer, "The quick fox")
    told = transcript(tokenizer)

    first = told.add(batch(ids[:1]))
    last = told.add(batch(ids[1:], LENGTH))

    assert first == TextPiece(text="The", token_ids=tuple(ids[:1]))
    assert last.text == " quick fox"
    assert last.finish_reason is LENGTH
    assert last.usage == Usage(prompt_tokens=5, completion_tokens=len(ids))


def test_the_end_token_is_counted_and_has_no_text(tokenizer: TextTokenizer) -> None:
    # An end token that is not special would otherwise be read by the client.
    end = ids_of(tokenizer, ".")[0]
    told = Transcript(tokenizer, prompt_tokens=1, end_ids=[end])
    ids = [*ids_of(tokenizer, "dog"), end]

    piece = told.add(batch(ids, STOP))

    assert piece.text == "dog"
    assert piece.token_ids == tuple(ids)
    assert piece.usage == Usage(prompt_tokens=1, completion_tokens=len(ids))


def test_an_end_token_that_did_not_end_the_text_has_text(tokenizer: TextTokenizer) -> None:
    point = ids_of(tokenizer, ".")[0]
    told = Transcript(tokenizer, prompt_tokens=1, end_ids=[point])

    assert told.add(batch([point], LENGTH)).text == "."


def test_half_a_character_is_told_at_the_end(tokenizer: TextTokenizer) -> None:
    half = tokenizer.backend.token_to_id("Ã")
    assert half is not None
    told = transcript(tokenizer)

    assert told.add(batch([half])).text == ""
    assert told.add(batch([END], STOP)).text == "\ufffd"


@pytest.mark.parametrize("batch_tokens", [1, 2, 3, 100])
def test_a_stop_string_ends_the_text_at_the_same_token_however_it_is_batched(
    batch_tokens: int, tokenizer: TextTokenizer
) -> None:
    ids = ids_of(tokenizer, "The quick brown fox jumps")
    needed = len(ids_of(tokenizer, "The quick brown"))
    told = transcript(tokenizer, "ck bro")
    pieces: list[TextPiece] = []

    for start in range(0, len(ids), batch_tokens):
        pieces.append(told.add(batch(ids[start : start + batch_tokens])))
        if pieces[-1].finish_reason is not None:
            break

    assert "".join(piece.text for piece in pieces) == "The qui"
    assert pieces[-1].finish_reason is STOP
    assert pieces[-1].usage == Usage(prompt_tokens=5, completion_tokens=needed)
    assert sum(len(piece.token_ids) for piece in pieces) == needed


def test_what_was_held_back_comes_at_the_end(tokenizer: TextTokenizer) -> None:
    told = transcript(tokenizer, "fox!")

    first = told.add(batch(ids_of(tokenizer, "a fox")))
    last = told.add(batch([END], STOP))

    assert first.text + last.text == "a fox"
    assert "fox" not in first.text


def test_a_stop_string_completed_by_the_end_counts(tokenizer: TextTokenizer) -> None:
    half = tokenizer.backend.token_to_id("Ã")
    assert half is not None
    told = transcript(tokenizer, "\ufffd")

    piece = told.add(batch([*ids_of(tokenizer, "dog"), half], LENGTH))

    assert (piece.text, piece.finish_reason) == ("dog", STOP)


def test_log_probabilities_come_with_their_tokens(tokenizer: TextTokenizer) -> None:
    the, fox = ids_of(tokenizer, "The fox")
    scores = [
        TokenLogprobs(logprob=-0.5, top_ids=(the, fox), top_logprobs=(-0.5, -1.5)),
        TokenLogprobs(logprob=-0.25, top_ids=(fox,), top_logprobs=(-0.25,)),
    ]

    piece = transcript(tokenizer).add(batch([the, fox], LENGTH, scores))

    first, second = piece.details
    assert (first.token.text, first.token.raw, first.token.logprob) == ("The", b"The", -0.5)
    assert [(top.text, top.logprob) for top in first.top] == [("The", -0.5), (" fox", -1.5)]
    assert (first.text_offset, second.text_offset) == (0, 3)


def test_a_model_without_a_tokenizer_tells_tokens_only() -> None:
    scores = [TokenLogprobs(logprob=-1.0)]

    piece = transcript(None).add(batch([40], STOP, scores))

    assert piece.text == ""
    assert piece.token_ids == (40,)
    assert piece.has_text is False
    assert piece.details[0].token.text == "token_id:40"
