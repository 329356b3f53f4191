"""What a worker does from its fork to its end."""

from __future__ import annotations

import os
import re
import socket
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pilotlight.native_loader import AttachedWeights
from pilotlight.store_node.engines.engine import Engine, EngineSetup, WorkRefused
from pilotlight.store_node.errors import EngineFault, NodeGone
from pilotlight.store_node.workers.channel import Channel
from pilotlight.store_node.workers.isolation import exempt_mapping, lift_memory_limit
from pilotlight.store_node.workers.messages import (
    Admit,
    Admitted,
    Bind,
    Bound,
    Cancel,
    Emitted,
    Extend,
    Failed,
    Prepare,
    Prepared,
    Refused,
    ToWorker,
    Warm,
)

T = TypeVar("T")

_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


class Session:
    """Drives one engine by the node's commands.

    Commands are looked for before every step, so that a cancel takes effect
    within one; while the engine has nothing to do the process sleeps.
    """

    def __init__(self, channel: Channel[ToWorker], engine: Engine) -> None:
        self._channel = channel
        self._engine = engine

    def run(self) -> None:
        """Work until the node closes the connection.

        Raises:
            NodeGone: it is, in the midst of something.
            Exception: the engine gave up.
        """
        self._channel.send(Warm())
        while (commands := self._channel.receive(is_patient=not self._engine.is_busy)) is not None:
            for command in commands:
                self._obey(command)
            if not commands and self._engine.is_busy:
                self._step()

    def _step(self) -> None:
        if emissions := self._engine.step():
            self._channel.send(Emitted(emissions=tuple(emissions)))

    def _obey(self, command: ToWorker) -> None:
        match command:
            case Prepare():
                setup = EngineSetup(
                    spec=command.spec,
                    directory=Path(command.directory),
                    threads=command.threads,
                    adapter=None if command.adapter is None else Path(command.adapter),
                    allow_custom_code=command.allow_custom_code,
                )
                _, seconds = _timed(lambda: self._engine.prepare(setup))
                self._channel.send(Prepared(call=command.call, seconds=seconds))
            case Bind():
                self._bind(command)
            case Admit():
                self._offer(command.call, lambda: self._engine.admit(command.work))
            case Extend():
                self._offer(command.call, lambda: self._engine.extend(command.extension))
            case Cancel():
                self._engine.cancel(command.request_id)

    def _bind(self, command: Bind) -> None:
        arena = self._channel.take_descriptor()
        layout = command.layout
        # Mapped, and of this process's own memory nothing.
        exempt_mapping(sum(len(file.chunks) for file in layout.files) * layout.chunk_bytes)
        try:
            offer, seconds = _timed(lambda: self._engine.bind(AttachedWeights(arena, layout)))
        finally:
            os.close(arena)
        self._channel.send(Bound(call=command.call, offer=offer, seconds=seconds))

    def _offer(self, call: int, give: Callable[[], None]) -> None:
        try:
            give()
        except WorkRefused as refusal:
            self._channel.send(Refused(call=call, code=refusal.code, message=str(refusal)))
            return
        self._channel.send(Admitted(call=call))


def run_worker(connection: socket.socket, engine: type[Engine]) -> int:
    """Be a worker; return the exit code."""
    channel = Channel[ToWorker](connection, ToWorker)
    try:
        Session(channel, engine()).run()
    except NodeGone:
        return 0
    except Exception as error:  # The outermost loop: whatever it is ends this worker alone.
        # What is left to do may need a byte, too.
        lift_memory_limit()
        traceback.print_exc()
        try:
            channel.send(failure(error))
        except NodeGone:
            pass
        return 1
    return 0


def failure(error: BaseException) -> Failed:
    """Put an error into a word and a line."""
    match error:
        case EngineFault():
            code = error.code
        case MemoryError():
            code = "out_of_memory"
        # Torch raises no class of its own where the processor's memory is short.
        case RuntimeError() if _NO_MEMORY.search(str(error)):
            code = "out_of_memory"
        case _:
            code = "engine_failed"
    message = str(error) if isinstance(error, EngineFault) else f"{type(error).__name__}: {error}"
    return Failed(code=code, message=textwrap.shorten(message, width=500, placeholder=" ..."))


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    began = time.monotonic()
    result = action()
    return result, time.monotonic() - began
