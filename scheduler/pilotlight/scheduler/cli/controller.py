"""How verbs talk to a controller."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from pilotlight.process.commands import ADDRESS, CommandError
from pilotlight.process.ports import Address

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEADLINE_SECONDS = 10.0
PAGE_ROWS = 500

_PROBE_SECONDS = 1.0
_OWN_DEADLINE = "Deadline Exceeded"
"""What a call's own deadline says; a controller says more of a request's."""

F = TypeVar("F", bound=Callable[..., Any])


class Page(Protocol):
    """A listing's answer."""

    @property
    def next_page_token(self) -> str:
        """Empty = it is the last."""
        ...


P = TypeVar("P", bound=Page)


def controller_option(command: F) -> F:
    """Add `--controller HOST:PORT`, passed as `controller`."""
    return click.option(
        "--controller",
        type=ADDRESS,
        envvar="PILOTLIGHT_CONTROLLER",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        help="Where the controller listens for gRPC.",
    )(command)


@contextmanager
def connected(controller: Address) -> Generator[rpc.ControlPlaneStub]:
    """Yield a stub; what its calls fail with is raised as one line for people.

    Raises:
        CommandError: the controller can't be reached, or refuses.
    """
    # gRPC's core would log to stderr what we say in one line; it reads this when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc

    # A proxy is never meant for a controller.
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(str(controller), options=options) as channel:
        try:
            yield rpc.ControlPlaneStub(channel)
        except grpc.RpcError as exc:
            raise CommandError(_explain(exc, controller)) from exc


def pages(
    call: Callable[..., P], make_request: Callable[..., Message], *, page_rows: int = PAGE_ROWS
) -> Iterator[P]:
    """Yield a listing's pages, until the last."""
    token = ""
    while True:
        request = make_request(page_size=page_rows, page_token=token)
        page = call(request, timeout=DEADLINE_SECONDS)
        yield page
        token = page.next_page_token
        if not token:
            return


def _explain(error: Any, controller: Address) -> str:
    """Return one line for a call's error, whose class does not say that it has a code."""
    import grpc

    code: grpc.StatusCode = error.code()
    details: str = error.details() or code.value[1]
    if code is grpc.StatusCode.UNAVAILABLE and not _listens(controller):
        return f"can't reach the controller at {controller}; start one with: pilotlight up"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == _OWN_DEADLINE:
        return f"the controller at {controller} did not answer in time"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"what listens at {controller} is no controller of this version: {details}"
    return " ".join(details.split())


def _listens(controller: Address) -> bool:
    """Tell a controller that refuses from one that is not there."""
    try:
        where = (controller.host, controller.port)
        socket.create_connection(where, timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True
