"""Text from tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer

_REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character, or not one yet."""

_EAGER_TOKENS = 16
"""A window up to this long is decoded again with every token, a longer one when it has doubled."""


class Detokenizer:
    """Turns one request's tokens into text; the pieces join to the decode of all tokens.

    Theory of operation. Tokens wait in a *window* until their text can't change
    any more; then it is given out, and they become the *context*: what the next
    window is decoded behind, because decoders treat a first token differently
    (they drop its leading space) and some look at neighbours. A window's text
    can still change while it ends in U+FFFD, which may be the first bytes of a
    character, and while its last token is a byte token: an invalid byte later in
    such a run turns the whole run into U+FFFD. All but the last of several
    U+FFFD are final. Every token is decoded a bounded number of times, in a
    stream of nothing but broken bytes a logarithmic one.

    `tokenizers.decoders.DecodeStream` is not used: it never gives out a tail that
    stays incomplete, raises on runs of byte tokens, and takes quadratic time over
    special tokens and broken bytes.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._context_characters = 0
        self._window: list[int] = []
        self._emitted_characters = 0
        self._decode_at_tokens = 0
        self._position = 0

    @property
    def position(self) -> int:
        """Characters given out so far."""
        return self._position

    def push(self, token_ids: Sequence[int]) -> str:
        """Take the next tokens; return the text that is certain by now."""
        self._window += (token for token in token_ids if self._tokenizer.has_text(token))
        n_tokens = len(self._window)
        if n_tokens < max(1, self._decode_at_tokens):
            return ""
        if self._window[-1] in self._tokenizer.byte_ids:
            return ""
        return self._take(is_end=False)

    def flush(self) -> str:
        """Return the rest of the text, after the last token."""
        return self._take(is_end=True) if self._window else ""

    def _take(self, *, is_end: bool) -> str:
        text = self._tokenizer.decode(self._context + self._window)[self._context_characters :]
        if is_end or (text and not text.endswith(_REPLACEMENT)):
            piece = text[self._emitted_characters :]
            self._settle()
        else:
            piece = text[self._emitted_characters : -1]
            self._emitted_characters += len(piece)
            n_tokens = len(self._window)
            self._decode_at_tokens = 2 * n_tokens if n_tokens > _EAGER_TOKENS else 0
        self._position += len(piece)
        return piece

    def _settle(self) -> None:
        self._context = self._window
        self._context_characters = len(self._tokenizer.decode(self._context))
        self._window = []
        self._emitted_characters = 0
        self._decode_at_tokens = 0
