from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

import grpc
import pytest

from pilotlight.process.ports import Address, listen
from pilotlight.scheduler.cli import controller as client

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def test_a_controller_that_is_not_there_says_how_to_start_one(pilotlight: Run) -> None:
    with listen(Address(host="127.0.0.1", port=0)) as taken:
        port = taken.getsockname()[1]

    assert pilotlight("nodes", "--controller", f"127.0.0.1:{port}") == (
        1,
        "",
        f"Error: can't reach the controller at 127.0.0.1:{port}; start one with: pilotlight up\n",
    )


def test_a_controller_that_refuses_says_why(controller: Any, pilotlight: Run) -> None:
    controller.refusal = (grpc.StatusCode.UNAVAILABLE, "no node is connected")

    assert pilotlight("nodes") == (1, "", "Error: no node is connected\n")


def test_another_server_is_told_apart(controller: Any, pilotlight: Run) -> None:
    controller.refusal = (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    assert "is no controller of this version" in pilotlight("nodes")[2]


def test_a_controller_that_does_not_answer_is_given_up(
    pilotlight: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEADLINE_SECONDS", 0.2)
    with listen(Address(host="127.0.0.1", port=0)) as silent:
        host, port = silent.getsockname()

        code, _, err = pilotlight("nodes", "--controller", f"{host}:{port}")

    assert code == 1
    assert err == f"Error: the controller at {host}:{port} did not answer in time\n"


def test_something_else_that_listens_is_one_line(pilotlight: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        code, out, err = pilotlight("nodes", "--controller", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()

    assert (code, out, err.count("\n")) == (1, "", 1)


def test_an_address_that_is_none_is_wrong_usage(pilotlight: Run) -> None:
    code, _, err = pilotlight("nodes", "--controller", "here")

    assert code == 2
    assert "expected HOST:PORT, got 'here'" in err
