"""A worker as the node sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.native_loader import WeightLayout
from pilotlight.process.log_tail import log_tail
from pilotlight.store_node.engines.engine import (
    Emission,
    EngineSetup,
    Extension,
    Offer,
    Work,
    WorkRefused,
)
from pilotlight.store_node.errors import BrokenFrame, EngineFailed, WorkerDied
from pilotlight.store_node.protocol.values import RequestId
from pilotlight.store_node.workers import messages
from pilotlight.store_node.workers.death import WorkerDeath
from pilotlight.store_node.workers.link import Link

# A zygote tells within milliseconds how a worker ended; one that is stuck never does.
_STATUS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A worker's weights are attached."""

    offer: Offer
    seconds: float


class Worker:
    """One engine process: commands go in, tokens come out by callbacks.

    A worker may be used before its process is there; what it is told waits for
    it. Every call ends when the worker dies, with EngineFailed where the engine
    said why and WorkerDied where it could not. Belongs to the event loop that it
    was made in.
    """

    def __init__(
        self,
        worker_id: str,
        connection: socket.socket,
        *,
        log_path: Path,
        on_withdraw: Callable[[Worker], None],
    ) -> None:
        """Take the node's end of the connection; made by a nursery.

        `on_withdraw` is called when a worker is killed that has no process yet.
        """
        self.worker_id = worker_id
        self.log_path = log_path
        self.pid: int | None = None
        self.is_warm = False
        """True once its process waits for commands."""
        self.on_emissions: Callable[[Sequence[Emission]], None] | None = None
        """Called with new tokens."""
        self.on_warm: Callable[[], None] | None = None
        self.on_death: Callable[[WorkerDeath], None] | None = None
        """Called once, when the process is gone and reaped."""
        self._on_withdraw = on_withdraw
        self._link = Link[messages.FromWorker](
            connection,
            messages.FromWorker,
            on_message=self._receive,
            on_closed=self._link_closed,
        )
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._n_calls = 0
        self._pidfd: int | None = None
        self._status_timer: asyncio.TimerHandle | None = None
        self._has_exited = False
        self._is_killed = False
        self._is_orphan = False
        self._is_link_open = True
        self._failed: messages.Failed | None = None
        self._death: asyncio.Future[WorkerDeath] = self._loop.create_future()

    async def prepare(self, setup: EngineSetup) -> float:
        """Have the engine do all that needs no weights; return the seconds that took."""
        answer: messages.Prepared = await self._call(
            lambda call: messages.Prepare(
                call=call,
                spec=setup.spec,
                directory=str(setup.directory),
                threads=setup.threads,
                adapter=None if setup.adapter is None else str(setup.adapter),
                allow_custom_code=setup.allow_custom_code,
            )
        )
        return answer.seconds

    async def bind(self, pool_fd: int, layout: WeightLayout) -> Bound:
        """Have the engine attach the weights that lie in a pool."""
        answer: messages.Bound = await self._call(
            lambda call: messages.Bind(call=call, layout=layout), descriptors=(pool_fd,)
        )
        return Bound(offer=answer.offer, seconds=answer.seconds)

    async def admit(self, work: Work) -> None:
        """Have the engine take an attempt; its first tokens may be there before this returns.

        Raises:
            WorkRefused: the engine does not take it.
        """
        await self._offer(lambda call: messages.Admit(call=call, work=work))

    async def extend(self, extension: Extension) -> None:
        """Have the engine take more tokens of a held attempt.

        Raises:
            WorkRefused: the engine does not take them.
        """
        await self._offer(lambda call: messages.Extend(call=call, extension=extension))

    def cancel(self, request_id: RequestId) -> None:
        """Have the engine forget a request; tokens that are on their way may still come."""
        self._link.send(messages.Cancel(request_id=request_id))

    def kill(self) -> None:
        """End the process at once; `on_death` follows, never before this returns."""
        self._is_killed = True
        if self._pidfd is not None:
            self._signal(self._pidfd)
        elif not self.is_dead:
            self._on_withdraw(self)

    async def wait_dead(self) -> WorkerDeath:
        """Return when the process is gone; nothing of it maps a pool's chunks any more."""
        return await asyncio.shield(self._death)

    @property
    def is_dead(self) -> bool:
        """True once `on_death` is due."""
        return self._death.done()

    def forked(self, pid: int, pidfd: int) -> None:
        """Take the process that its nursery has got for it."""
        self.pid = pid
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self._process_ended)
        if self._is_killed or not self._is_link_open:
            self._signal(pidfd)

    def exited(self, *, exit_code: int | None = None, signal: int | None = None) -> None:
        """Note that its process was reaped, or that it never had one."""
        if self._has_exited:
            return
        self._has_exited = True
        # Its last words may have come later than the news of its end.
        self._link.drain()
        self._link.close()
        if self._status_timer is not None:
            self._status_timer.cancel()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        failed = self._failed
        death = WorkerDeath(
            worker_id=self.worker_id,
            exit_code=exit_code,
            signal=signal,
            log_tail=log_tail(self.log_path),
            code=failed.code if failed is not None else "",
            message=failed.message if failed is not None else "",
        )
        if self._is_killed or not death.log_tail:
            self.log_path.unlink(missing_ok=True)
        self._death.set_result(death)
        self._fail_calls(WorkerDied(self.worker_id, reason=death.reason, log_tail=death.log_tail))
        # Not from here, which may be within the caller's own `kill`.
        self._loop.call_soon(self._announce, death)

    def never_forked(self, failed: messages.Failed | None) -> None:
        """Note that it will have no process, for a reason if there is one to tell."""
        if failed is not None:
            self._fail(failed)
        self.exited()

    def orphaned(self) -> None:
        """Note that the zygote is gone, which takes its workers along.

        Nobody is left to tell how the process ended, but its pidfd tells that it
        did. Where that had not come yet, the connection does: the kernel closes
        its other end wherever it had got to.
        """
        self._is_orphan = True
        if self._pidfd is None and not self._is_link_open:
            self.exited()

    async def _offer(self, build: Callable[[int], messages.Message]) -> None:
        answer = await self._call(build)
        if isinstance(answer, messages.Refused):
            raise WorkRefused(answer.code, answer.message)

    async def _call(
        self, build: Callable[[int], messages.Message], *, descriptors: Sequence[int] = ()
    ) -> Any:
        self._check_alive()
        self._n_calls += 1
        call = self._n_calls
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls[call] = answer
        try:
            self._send(build(call), descriptors)
            return await answer
        finally:
            self._calls.pop(call, None)

    def _send(self, message: messages.Message, descriptors: Sequence[int]) -> None:
        try:
            self._link.send(message, descriptors=descriptors)
        except BrokenFrame as error:
            # It can't be told what to do, and so is of no use.
            self._fail(messages.Failed(code="too_large", message=str(error)))
            self.kill()

    def _check_alive(self) -> None:
        if self._failed is not None:
            raise self._engine_failed(self._failed)
        if self.is_dead:
            death = self._death.result()
            raise WorkerDied(self.worker_id, reason=death.reason, log_tail=death.log_tail)

    def _receive(self, message: messages.FromWorker) -> None:
        match message:
            case messages.Warm():
                self.is_warm = True
                if self.on_warm is not None:
                    self.on_warm()
            case messages.Emitted():
                if self.on_emissions is not None:
                    self.on_emissions(message.emissions)
            case messages.Failed():
                self._fail(message)
            case _:
                answer = self._calls.get(message.call)
                if answer is not None and not answer.done():
                    answer.set_result(message)

    def _announce(self, death: WorkerDeath) -> None:
        if self.on_death is not None:
            self.on_death(death)

    def _fail(self, failed: messages.Failed) -> None:
        self._failed = failed
        self._fail_calls(self._engine_failed(failed))

    def _engine_failed(self, failed: messages.Failed) -> EngineFailed:
        return EngineFailed(self.worker_id, code=failed.code, message=failed.message)

    def _fail_calls(self, error: EngineFailed | WorkerDied) -> None:
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(error)

    def _process_ended(self) -> None:
        """The process is gone; the zygote reaps it and tells how, if it still can."""
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        if self._is_orphan:
            self.exited()
        else:
            self._status_timer = self._loop.call_later(_STATUS_SECONDS, self.exited)

    def _link_closed(self) -> None:
        """A worker without its connection is of no use, whatever it may be doing."""
        self._is_link_open = False
        if self._pidfd is not None:
            self._signal(self._pidfd)
        elif self._is_orphan:
            self.exited()

    def _signal(self, pidfd: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It has ended by itself, and its reaping is on the way.
