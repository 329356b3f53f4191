"""The process that imports an engine once and forks workers from then on.

Run as `python -m pilotlight.store_node.workers.zygote PARENT_PID DESCRIPTOR MEMORY ENGINE`
by a node, which speaks to it over the descriptor; its workers may allocate so
many bytes (0: any), and the name is for `ps`.

It has one thread, since a fork takes only the calling one along and leaves the
locks of the others as they are. It reaps its workers and tells how they ended.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from pilotlight.process.lifeline import die_with_parent
from pilotlight.store_node.engines.engine import Engine
from pilotlight.store_node.engines.registry import load_engine
from pilotlight.store_node.errors import NodeGone
from pilotlight.store_node.workers.channel import Channel
from pilotlight.store_node.workers.isolation import isolate, n_threads
from pilotlight.store_node.workers.messages import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    Learn,
    Learned,
    Preload,
    Preloaded,
    ToZygote,
)
from pilotlight.store_node.workers.session import failure, run_worker

# What a shell reports for a program that broke, as nothing of ours exits so.
_BROKEN_EXIT_CODE = 70


class Zygote:
    """Obeys the node over one connection until that closes."""

    def __init__(self, connection: socket.socket, *, worker_memory_bytes: int) -> None:
        self._channel = Channel[ToZygote](connection, ToZygote)
        self._worker_memory_bytes = worker_memory_bytes
        self._engine: type[Engine] | None = None
        self._workers: dict[int, str] = {}
        """Worker ids by the pidfds of those alive."""
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def serve(self) -> None:
        """Work until the node closes the connection."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._workers:
                    self._reap(descriptor)
                elif not self._obey():
                    return

    def report(self, error: BaseException) -> None:
        """Tell the node why this zygote ends."""
        self._channel.send(failure(error))

    def _obey(self) -> bool:
        commands = self._channel.receive(is_patient=False)
        for command in commands or ():
            match command:
                case Preload():
                    self._preload(command)
                case Learn():
                    self._learn((command.checkpoint,))
                    self._channel.send(Learned())
                case Fork():
                    self._fork(command)
        return commands is not None

    def _preload(self, command: Preload) -> None:
        began = time.monotonic()
        self._engine = load_engine(command.target)
        self._learn(command.checkpoints)
        self._channel.send(Preloaded(seconds=time.monotonic() - began))

    def _learn(self, checkpoints: Sequence[str]) -> None:
        if self._engine is None:
            raise RuntimeError("no engine is preloaded")
        self._engine.preload([Path(name) for name in checkpoints])
        gc.collect()
        # Objects that are never collected are never written to, and so stay shared.
        gc.freeze()

    def _fork(self, command: Fork) -> None:
        connection = self._channel.take_descriptor()
        began = time.monotonic()
        try:
            pid = self._try_to_fork(command, connection)
        except (OSError, RuntimeError) as error:
            self._channel.send(ForkFailed(worker_id=command.worker_id, reason=str(error)))
            return
        finally:
            os.close(connection)
        descriptor = os.pidfd_open(pid)
        self._workers[descriptor] = command.worker_id
        self._poll.register(descriptor, select.POLLIN)
        self._channel.send(
            Forked(worker_id=command.worker_id, pid=pid, seconds=time.monotonic() - began),
            descriptors=(descriptor,),
        )

    def _try_to_fork(self, command: Fork, connection: int) -> int:
        if self._engine is None:
            raise RuntimeError("no engine is preloaded")
        if (threads := n_threads()) > 1:
            raise RuntimeError(f"the engine's preload left {threads} threads, which is not safe")
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(self._engine, command, connection, zygote_pid=zygote_pid)
        return pid

    def _become_worker(
        self, engine: type[Engine], command: Fork, connection: int, *, zygote_pid: int
    ) -> None:
        """Never return: this is the child, in the middle of its parent's stack."""
        exit_code = _BROKEN_EXIT_CODE
        try:
            self._channel.detach()
            isolate(
                zygote_pid=zygote_pid,
                log_path=command.log_path,
                keep=connection,
                memory_bytes=self._worker_memory_bytes,
            )
            # Held by this frame, so that it closes with the process and not before:
            # a node kills workers that close their connection.
            ours = socket.socket(fileno=connection)
            exit_code = run_worker(ours, engine)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(exit_code)

    def _reap(self, descriptor: int) -> None:
        result = os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
        assert result is not None, "a readable pidfd has a process to reap"
        worker_id = self._workers.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        is_exit = result.si_code == os.CLD_EXITED
        self._channel.send(
            Exited(
                worker_id=worker_id,
                exit_code=result.si_status if is_exit else None,
                signal=None if is_exit else result.si_status,
            )
        )


def main() -> int:
    """Be a zygote; return the exit code."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[2]))
    zygote = Zygote(connection, worker_memory_bytes=int(sys.argv[3]))
    try:
        zygote.serve()
    except NodeGone:
        return 0
    except Exception as error:  # The outermost loop: the node starts another one.
        traceback.print_exc()
        with contextlib.suppress(OSError):
            zygote.report(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
