"""Runs a controller in the foreground until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilotlight.process.home import home_directory

if TYPE_CHECKING:
    from pilotlight.scheduler.driver.controller import Doors
    from pilotlight.scheduler.driver.settings import ControllerSettings

Prepare = Callable[["Doors", AsyncExitStack], Awaitable[None]]


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A YAML file with apiVersion: pilotlight/v1 and kind: ControllerConfig.",
)


def read_controller_settings(
    config: Path | None, overrides: Mapping[str, object]
) -> ControllerSettings:
    """Return a controller's settings: file, environment, flags.

    Raises:
        SettingsError: names the file, variable or flag, the key, and the rule.
    """
    from pilotlight.process.settings import read_settings
    from pilotlight.scheduler.driver.settings import KIND, ControllerSettings

    return read_settings(
        KIND, ControllerSettings, path=config, environ=os.environ, overrides=overrides
    )


def home_of(settings: ControllerSettings) -> Path:
    """Return where a controller keeps its data."""
    return settings.home or home_directory(os.environ)


def serve(settings: ControllerSettings, *, home: Path, prepare: Prepare) -> None:
    """Lead and serve until SIGINT or SIGTERM; a second one ends at once.

    `prepare` is awaited once the doors are open; what it puts on the stack is
    undone before they close.
    """
    from pilotlight.process.logs import configure_logs

    configure_logs(settings.log.format, settings.log.level)
    try:
        asyncio.run(_serve(settings, home, prepare))
    except BaseExceptionGroup as group:
        raise _first(group) from group


def announce_doors(home: Path, doors: Doors, stack: AsyncExitStack) -> None:
    """Say in `home`/controller.json where a controller can be reached, as long as it runs."""
    file = home / "controller.json"
    found = {"pid": os.getpid(), "grpc": str(doors.grpc), "http": str(doors.http)}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found) + "\n")
    partial.rename(file)
    stack.callback(file.unlink, missing_ok=True)


async def _serve(settings: ControllerSettings, home: Path, prepare: Prepare) -> None:
    from pilotlight.process.stopping import StopSignals
    from pilotlight.scheduler.driver.controller import Controller

    stop = StopSignals()
    # Outside of what is cut short: all that was begun ends in order.
    async with AsyncExitStack() as stack, stop.until_told():
        doors = await stack.enter_async_context(Controller(settings, home=home).running())
        await prepare(doors, stack)
        await asyncio.get_running_loop().create_future()


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group: the others follow from it."""
    if isinstance(error, BaseExceptionGroup):
        return _first(error.exceptions[0])  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]
    return error
