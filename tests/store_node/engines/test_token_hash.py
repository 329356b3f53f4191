"""The keyed hash that the timed engine emits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.store_node.engines.token_hash import TokenHash, expected_ids

_IDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20)


def _next_id(token_ids: list[int], *, salt: str = "m", seed: int = 0) -> int:
    state = TokenHash(salt=salt, seed=seed, vocabulary=2**32 - 1)
    state.extend(token_ids)
    return state.next_id()


@pytest.mark.property
@given(ids=_IDS, data=st.data())
def test_a_lost_repeated_or_wrong_token_changes_what_follows(
    ids: list[int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(ids) - 1))
    damaged = [
        ids[:at] + ids[at + 1 :],
        ids[: at + 1] + ids[at:],
        [*ids[:at], ids[at] ^ 1, *ids[at + 1 :]],
    ]

    assert _next_id(ids) not in [_next_id(other) for other in damaged]


@pytest.mark.property
@given(ids=_IDS, cut=st.integers(0, 20))
def test_a_sequence_given_in_parts_is_the_same_sequence(ids: list[int], cut: int) -> None:
    state = TokenHash(salt="m", seed=0, vocabulary=2**32 - 1)
    state.extend(ids[:cut])
    state.next_id()

    state.extend(ids[cut:])

    assert state.next_id() == _next_id(ids)


def test_salt_and_seed_key_the_tokens() -> None:
    plain = _next_id([1, 2, 3])

    assert plain != _next_id([1, 2, 3], salt="other")
    assert plain != _next_id([1, 2, 3], seed=1)


def test_expected_ids_lie_in_the_vocabulary_and_continue_each_other() -> None:
    whole = expected_ids((1, 2), 50, salt="m", vocabulary=7)

    assert set(whole) <= set(range(7))
    assert whole[20:] == expected_ids((1, 2, *whole[:20]), 30, salt="m", vocabulary=7)
