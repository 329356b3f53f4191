from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.simulation.scenarios import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.documents import (
    change_value,
    laid_over,
    parse_document,
    read_document,
)


def value_of(text: str) -> object:
    return parse_document(f"key: {text}\n", source="s.yaml")["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("5.9e9", 5.9e9),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-0.25", -0.25),
        ("1_000_000", 1_000_000),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("", None),
    ],
)
def test_numbers_are_numbers(text: str, value: object) -> None:
    found = value_of(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "NO"),  # Countries and switches.
        *("12:30:45", "1:30"),  # Not so many seconds in base 60.
        *("010", "0x10", "1e", "e9", ".", "+", "1__0", "--1", ".inf", ".nan", "1.2.3"),
        "2023-11-16",
    ],
)
def test_all_else_is_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\n", "s.yaml: line 3, column 1: expected ',' or ']'"),
        ("a: 1\n  b: 2\n", "s.yaml: line 2, column 4: mapping values are not allowed here"),
        ("a: 1\nb: 2\na: 3\n", "s.yaml: line 3, column 1: the key 'a' is given twice"),
        ("a: {b: 1, b: 2}\n", "s.yaml: line 1, column 11: the key 'b' is given twice"),
        ("1: 2\n", "s.yaml: line 1, column 1: a key is not text"),
        ("a: &x 1\nb: *x\n", "s.yaml: line 2, column 4: a reference to another place is not read"),
        ("a: " + "[" * 60 + "]" * 60, "column 53: it is nested deeper than any scenario"),
        ("a: !!python/name:os.system\n", "s.yaml: line 1, column 4: could not determine"),
        ("- a\n", "s.yaml: it holds no names and values"),
        ("", "s.yaml: it holds no names and values"),
        ("a: 1\n---\nb: 2\n", "s.yaml: line 2, column 1: but found another document"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(InvalidScenario) as caught:
        parse_document(text, source="s.yaml")

    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidScenario, match=r"none\.yaml: it can't be read: No such file"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(InvalidScenario, match=r"binary\.yaml"):
        read_document(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidScenario, match=r"large\.yaml: it is larger than 1 MiB"):
        read_document(tmp_path / "large.yaml")


@pytest.mark.parametrize(
    ("base", "change", "result"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}}, {"a": 1, "b": {"c": 4, "d": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        (
            {"a": [{"name": "x", "n": 1}, {"name": "y", "n": 2}]},
            {"a": [{"name": "y", "m": 3}, {"name": "z"}]},
            {"a": [{"name": "x", "n": 1}, {"name": "y", "n": 2, "m": 3}, {"name": "z"}]},
        ),
        # Nothing of another kind of section is left.
        (
            {"a": {"kind": "k", "n": 1}},
            {"a": {"kind": "l", "m": 2}},
            {"a": {"kind": "l", "m": 2}},
        ),
        ({"a": {"kind": "k", "n": 1}}, {"a": {"n": 2}}, {"a": {"kind": "k", "n": 2}}),
    ],
)
def test_a_file_is_laid_over_another_one(base: Any, change: Any, result: Any) -> None:
    assert laid_over(base, change) == result


def test_a_value_is_changed_in_its_place() -> None:
    document = {"a": [{"b": 1}, {"b": 2}], "c": [5, 6]}

    change_value(document, "a[1].b", 3, source="s")
    change_value(document, "c[0]", 7, source="s")
    change_value(document, "d.e", 8, source="s")

    assert document == {"a": [{"b": 1}, {"b": 3}], "c": [7, 6], "d": {"e": 8}}


@pytest.mark.parametrize("key", ["a[2].b", "a.b", "a[0]b", "a..b", "", "c[9]", "a[0].b.x"])
def test_a_place_that_is_not_there_is_refused(key: str) -> None:
    document = {"a": [{"b": 1}], "c": [5]}

    with pytest.raises(InvalidScenario, match=r"^s: "):
        change_value(document, key, 3, source="s")


@pytest.mark.property
@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!#'\"\n |>?,1.e", max_size=60))
def test_any_text_is_a_scenarios_or_refused(text: str) -> None:
    try:
        found = parse_document(text, source="s.yaml")
    except InvalidScenario as exc:
        found, source = {}, exc.source
    else:
        source = "s.yaml"

    assert source == "s.yaml"
    assert all(isinstance(key, str) for key in found)


@pytest.mark.property
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300))
def test_every_number_is_read_as_it_was_written(number: float) -> None:
    assert value_of(repr(number)) == number
