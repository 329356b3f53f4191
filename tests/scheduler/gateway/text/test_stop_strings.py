from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.gateway.text.stop_strings import Cut, StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    strings = StopStrings(stops)
    text = ""
    for piece in pieces:
        cut = strings.push(piece)
        text += cut.text
        if cut.is_stopped:
            return text, True
    return text + strings.flush(), False


def cut_by_searching(stops: list[str], text: str) -> tuple[str, bool]:
    """Return the same by trying every end, the nearest first."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


def test_a_stop_string_across_pieces_is_cut_out() -> None:
    assert run(["END"], ["one E", "N", "D two"]) == ("one ", True)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings([]).push("any text") == Cut(text="any text", is_stopped=False)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    strings = StopStrings(["\n\n"])

    pieces = [strings.push(piece).text for piece in ("a", "b\n", "c", "\n")]

    assert pieces == ["a", "b", "\nc", ""]
    assert strings.flush() == "\n"


def test_a_beginning_within_a_beginning_is_found() -> None:
    assert run(["aab"], ["a", "a", "a", "b", "c"]) == ("a", True)


def test_of_two_stop_strings_the_one_that_ends_first_counts() -> None:
    assert run(["abcd", "bc"], ["xabcd"]) == ("xa", True)


def test_of_two_that_end_together_the_longer_counts() -> None:
    assert run(["c", "abc"], ["xab", "c"]) == ("x", True)


def test_nothing_is_given_out_after_the_end() -> None:
    strings = StopStrings(["."])

    strings.push("one. two")

    assert strings.flush() == ""


@pytest.mark.property
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    pieces=st.lists(st.text("abc", max_size=6), max_size=8),
)
def test_the_division_into_pieces_does_not_matter(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == cut_by_searching(stops, "".join(pieces))
