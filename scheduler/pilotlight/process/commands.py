"""The click pieces that verbs share.

A verb's module is imported by `pilotlight --help`: it imports what is heavy
(torch, grpc, sqlalchemy, numpy …) inside its functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pilotlight.process.errors import InvalidAddress, InvalidQuantity
from pilotlight.process.ports import Address, parse_address
from pilotlight.process.progress import Progress, show_progress
from pilotlight.process.quantities import ByteCount, Seconds, parse_bytes, parse_seconds
from pilotlight.process.tables import OUTPUT_FORMATS

__all__ = [
    "ADDRESS",
    "BYTES",
    "SECONDS",
    "CommandError",
    "Progress",
    "exit_with_parent_option",
    "output_option",
    "show_progress",
]

F = TypeVar("F", bound=Callable[..., Any])


class CommandError(click.ClickException):
    """A verb failed for a reason that people can act on: one line, exit code 1."""

    exit_code = 1


class _Bytes(click.ParamType[ByteCount]):
    """A size: "8GiB", "500MB"."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ByteCount:
        """Return the number of bytes."""
        if isinstance(value, int):
            return ByteCount(value)
        try:
            return parse_bytes(value)
        except InvalidQuantity as exc:
            self.fail(str(exc), param, ctx)


class _Seconds(click.ParamType[Seconds]):
    """A duration: "60s", "5m"."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Seconds:
        """Return the number of seconds."""
        if isinstance(value, int | float):
            return Seconds(value)
        try:
            return parse_seconds(value)
        except InvalidQuantity as exc:
            self.fail(str(exc), param, ctx)


class _Address(click.ParamType[Address]):
    """HOST:PORT."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        """Return the host and the port."""
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value)
        except InvalidAddress as exc:
            self.fail(str(exc), param, ctx)


BYTES = _Bytes()
SECONDS = _Seconds()
ADDRESS = _Address()


def exit_with_parent_option(command: F) -> F:
    """Add the hidden `--exit-with-parent[=PID]`, passed as `parent_pid`; None = not given.

    It is for whoever starts the process and wants it gone when it dies itself; see
    `lifeline.die_with_parent`, to which 0 (no PID was given) goes as None.
    """
    return click.option(
        "--exit-with-parent",
        "parent_pid",
        type=int,
        is_flag=False,
        flag_value=0,
        default=None,
        hidden=True,
    )(command)


def output_option(command: F) -> F:
    """Add `-o table|wide|json|yaml`, passed as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(OUTPUT_FORMATS),
        default="table",
        show_default=True,
        help="How to print: for people (wide has more columns) or for programs.",
    )(command)
