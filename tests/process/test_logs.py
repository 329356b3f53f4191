from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pilotlight.process.logs import configure_logs


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_writes_one_json_object_a_line_where_no_terminal_is() -> None:
    stream = io.StringIO()
    configure_logs("auto", "info", stream=stream)

    structlog.get_logger("pilotlight.test").info("start done", model="opt", ready_seconds=1.5)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "start done",
        "model": "opt",
        "ready_seconds": 1.5,
        "level": "info",
        "logger": "pilotlight.test",
    }


def test_bound_ids_are_in_every_line_of_libraries_too() -> None:
    stream = io.StringIO()
    configure_logs("json", "info", stream=stream)

    with structlog.contextvars.bound_contextvars(request_id="r1", decision_id="d1"):
        structlog.get_logger().info("ours")
        logging.getLogger("library").warning("theirs %d", 7)
    logging.getLogger("library").warning("after")

    assert [(line["event"], line.get("request_id")) for line in lines(stream)] == [
        ("ours", "r1"),
        ("theirs 7", "r1"),
        ("after", None),
    ]


def test_levels_hold_for_libraries_and_chatty_ones_are_quieter() -> None:
    stream = io.StringIO()
    configure_logs("json", "info", stream=stream)

    logging.getLogger("library").debug("hidden")
    logging.getLogger("library").info("shown")
    logging.getLogger("httpx").info("hidden")
    logging.getLogger("httpx").warning("shown too")

    assert [line["event"] for line in lines(stream)] == ["shown", "shown too"]


def test_an_exception_is_one_line_of_json() -> None:
    stream = io.StringIO()
    configure_logs("json", "info", stream=stream)

    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed", path=object)

    (line,) = lines(stream)
    assert line["event"] == "failed"
    assert line["exception"].endswith("ValueError: broken")


def test_console_lines_are_for_people() -> None:
    stream = io.StringIO()
    configure_logs("console", "info", stream=stream)

    structlog.get_logger().info("start done", model="opt")

    assert "start done" in stream.getvalue()
    assert "model=opt" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # colours are for terminals
