"""The next token of the `timed` engine: a keyed hash of all tokens before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

MAX_TOKEN_ID = 2**32 - 1

_ID_BYTES = 4
_DIGEST_BYTES = 8


class TokenHash:
    """A running hash of a token sequence.

    Any lost, repeated or wrong token changes all that follow. Adding a token
    and asking for the next one take constant time, however long the sequence.
    """

    def __init__(self, *, salt: str, seed: int, vocabulary: int) -> None:
        key = hashlib.blake2b(f"{seed}\0{salt}".encode(), digest_size=32).digest()
        self._hash = hashlib.blake2b(key=key, digest_size=_DIGEST_BYTES)
        self._vocabulary = vocabulary

    def extend(self, token_ids: Iterable[int]) -> None:
        """Add tokens to the sequence."""
        self._hash.update(
            b"".join(token_id.to_bytes(_ID_BYTES, "little") for token_id in token_ids)
        )

    def next_id(self) -> int:
        """Return the token that follows the sequence, without adding it."""
        return int.from_bytes(self._hash.copy().digest(), "little") % self._vocabulary


def expected_ids(
    prompt_ids: Iterable[int], n_tokens: int, *, salt: str, seed: int = 0, vocabulary: int
) -> tuple[int, ...]:
    """Return the first tokens that a `timed` replica answers a prompt with.

    `seed` counts only where the temperature is above 0; pass 0 for greedy
    requests. Stop ids are not looked at.
    """
    state = TokenHash(salt=salt, seed=seed, vocabulary=vocabulary)
    state.extend(prompt_ids)
    emitted: list[int] = []
    for _ in range(n_tokens):
        emitted.append(state.next_id())
        state.extend(emitted[-1:])
    return tuple(emitted)
