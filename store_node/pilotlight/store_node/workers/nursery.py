"""The node's side of one zygote: keeps it running, and has it fork."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from pilotlight.process.log_tail import log_tail
from pilotlight.store_node.workers import messages
from pilotlight.store_node.workers.isolation import NO_LIMIT
from pilotlight.store_node.workers.link import Link
from pilotlight.store_node.workers.log_files import LogFiles
from pilotlight.store_node.workers.worker import Worker

# A zygote that can't live is started again this much later, twice that, and so on.
_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 30.0

# A zygote has nothing to do when it is told to end, but for leaving Python.
_END_SECONDS = 2.0

# Checkpoints that a zygote is made ready for before the first fork, which they keep waiting for
# a fraction of a second each; the others follow between forks.
_PRELOADED = 16

# A fork takes milliseconds; one that takes as long as this never ends.
_FORK_SECONDS = 30.0

_log = structlog.get_logger()


class Nursery:
    """Makes the workers of one engine.

    Theory of operation. The zygote imports the engine, which takes seconds, and
    says so; workers asked for before then wait here. From then on a worker is a
    fork away. When the zygote dies, the kernel kills its workers, for each of
    them asked for that; another zygote is started after a delay which doubles
    until one lives. A zygote that leaves a fork unanswered is killed.

    The zygote is tied to the thread that starts it, so the event loop's thread
    must be one that lives as long as the node: its main thread.
    """

    def __init__(
        self,
        engine: str,
        target: str,
        *,
        checkpoints: Sequence[Path],
        environment: Mapping[str, str],
        log_directory: Path,
        memory_bytes: int | None,
        on_ready: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._target = target
        self._checkpoints = list(checkpoints)
        self._to_learn: deque[Path] = deque()
        """What the zygote that runs was not told of yet, while it is at another one."""
        self._is_learning = False
        self._environment = dict(environment)
        self._logs = LogFiles(log_directory, engine)
        self._memory_bytes = memory_bytes
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._link: Link[messages.FromZygote] | None = None
        self._is_ready = False
        self._failed: messages.Failed | None = None
        self._waiting: dict[str, tuple[Worker, socket.socket]] = {}
        self._alive: dict[str, Worker] = {}
        self._forks_due: dict[str, asyncio.TimerHandle] = {}
        self._n_workers = 0
        self._delay_seconds = _FIRST_DELAY_SECONDS
        self._restart: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._is_closing = False

    def start(self) -> None:
        """Start a zygote; it is of use when `on_ready` is called."""
        ours, theirs = socket.socketpair()
        with theirs, self._logs.path("zygote").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "pilotlight.store_node.workers.zygote",
                    str(os.getpid()),
                    str(theirs.fileno()),
                    str(self._memory_bytes or NO_LIMIT),
                    self._engine,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=self._environment,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._zygote_ended)
        self._failed = None
        self._link = Link[messages.FromZygote](
            ours, messages.FromZygote, on_message=self._receive, on_closed=self._kill_zygote
        )
        first, rest = self._checkpoints[:_PRELOADED], self._checkpoints[_PRELOADED:]
        self._to_learn = deque(rest)
        self._is_learning = False
        self._link.send(
            messages.Preload(target=self._target, checkpoints=tuple(str(each) for each in first))
        )

    def learn(self, checkpoints: Sequence[Path]) -> None:
        """Have the zygote, and those that may follow it, make ready for more checkpoints."""
        self._checkpoints += checkpoints
        self._to_learn.extend(checkpoints)
        self._teach()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's pid; None between two of them."""
        return None if self._process is None else self._process.pid

    def spawn(self) -> Worker:
        """Return a new worker, whose process follows."""
        self._logs.remove_old(used=self._alive.keys() | self._waiting.keys())
        self._n_workers += 1
        ours, theirs = socket.socketpair()
        worker = Worker(
            f"{self._engine}-{self._n_workers}",
            ours,
            log_path=self._logs.path(str(self._n_workers)),
            on_withdraw=self._withdraw,
        )
        self._waiting[worker.worker_id] = (worker, theirs)
        if self._is_ready:
            self._fork_waiting()
        return worker

    async def close(self) -> None:
        """End all workers and the zygote; return when nothing is left of them."""
        self._is_closing = True
        if self._restart is not None:
            self._restart.cancel()
        workers = [*self._alive.values(), *(worker for worker, _ in self._waiting.values())]
        for worker in workers:
            worker.kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await _wait_dead(workers)
        except TimeoutError:
            # What it was to fork ends with it.
            self._kill_zygote()
            await _wait_dead(workers)
        if self._process is None:
            return
        if self._is_ready and self._link is not None:
            self._link.close()
        else:
            self._kill_zygote()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self._kill_zygote()
            await self._ended.wait()

    def _teach(self) -> None:
        """Have the zygote learn what is next: one at a time, for forks wait for it."""
        if self._link is None or not self._is_ready or self._is_learning or not self._to_learn:
            return
        self._is_learning = True
        self._link.send(messages.Learn(checkpoint=str(self._to_learn.popleft())))

    def _fork_waiting(self) -> None:
        assert self._link is not None
        for worker, theirs in self._waiting.values():
            self._link.send(
                messages.Fork(worker_id=worker.worker_id, log_path=str(worker.log_path)),
                descriptors=(theirs.fileno(),),
            )
            theirs.close()
            self._alive[worker.worker_id] = worker
            self._forks_due[worker.worker_id] = self._loop.call_later(
                _FORK_SECONDS, self._kill_stuck_zygote
            )
        self._waiting.clear()

    def _withdraw(self, worker: Worker) -> None:
        """Forget a worker that still waits; one that was asked for is killed when it is there."""
        if waiting := self._waiting.pop(worker.worker_id, None):
            waiting[1].close()
            worker.exited()

    def _receive(self, message: messages.FromZygote) -> None:
        match message:
            case messages.Preloaded():
                _log.info(
                    "zygote ready", engine=self._engine, preload_seconds=round(message.seconds, 3)
                )
                self._is_ready = True
                self._delay_seconds = _FIRST_DELAY_SECONDS
                self._fork_waiting()
                self._on_ready()
                self._teach()
            case messages.Learned():
                self._is_learning = False
                self._teach()
            case messages.Forked():
                self._forks_due.pop(message.worker_id).cancel()
                assert self._link is not None
                pidfd = self._link.take_descriptor()
                _log.debug(
                    "worker forked",
                    worker_id=message.worker_id,
                    fork_seconds=round(message.seconds, 4),
                )
                self._alive[message.worker_id].forked(message.pid, pidfd)
            case messages.ForkFailed():
                self._forks_due.pop(message.worker_id).cancel()
                _log.error("fork failed", engine=self._engine, reason=message.reason)
                failed = messages.Failed(code="fork_failed", message=message.reason)
                self._alive.pop(message.worker_id).never_forked(failed)
            case messages.Exited():
                worker = self._alive.pop(message.worker_id)
                worker.exited(exit_code=message.exit_code, signal=message.signal)
            case messages.Failed():
                self._failed = message

    def _kill_stuck_zygote(self) -> None:
        _log.error("zygote does not fork", engine=self._engine, waited_seconds=_FORK_SECONDS)
        self._kill_zygote()

    def _kill_zygote(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _zygote_ended(self) -> None:
        assert self._process is not None
        assert self._pidfd is not None
        exit_code = self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._link is not None:
            # Its last words, and how its workers ended, may not be read yet.
            self._link.drain()
            self._link.close()
        self._process = self._pidfd = self._link = None
        was_ready, self._is_ready = self._is_ready, False
        self._ended.set()
        self._disown()
        if self._is_closing:
            return
        _log.error(
            "zygote ended",
            engine=self._engine,
            exit_code=exit_code,
            was_ready=was_ready,
            reason=self._failed.message if self._failed is not None else "",
            log_tail=log_tail(self._logs.path("zygote")),
            restart_seconds=self._delay_seconds,
        )
        self._start_later()

    def _disown(self) -> None:
        """Let the workers know; those that only waited have nothing to wait for."""
        for worker, theirs in self._waiting.values():
            theirs.close()
            worker.never_forked(self._failed)
        self._waiting.clear()
        for timer in self._forks_due.values():
            timer.cancel()
        self._forks_due.clear()
        alive = list(self._alive.values())
        self._alive.clear()
        for worker in alive:
            worker.orphaned()

    def _start_later(self) -> None:
        self._restart = self._loop.call_later(self._delay_seconds, self._start_again)
        self._delay_seconds = min(2 * self._delay_seconds, _LONGEST_DELAY_SECONDS)

    def _start_again(self) -> None:
        self._restart = None
        self._ended.clear()
        try:
            self.start()
        except OSError as error:
            _log.error("zygote can't be started", engine=self._engine, reason=str(error))
            self._start_later()


async def _wait_dead(workers: Sequence[Worker]) -> None:
    for worker in workers:
        await worker.wait_dead()
