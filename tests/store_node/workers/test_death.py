"""Saying how a worker ended."""

from __future__ import annotations

import pytest

from pilotlight.store_node.workers.death import WorkerDeath


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (
            WorkerDeath(worker_id="w", exit_code=None, signal=11, log_tail=""),
            "worker w was killed by SIGSEGV",
        ),
        (
            WorkerDeath(worker_id="w", exit_code=None, signal=9, log_tail=""),
            "worker w was killed by SIGKILL, perhaps by the kernel for want of memory",
        ),
        (
            WorkerDeath(worker_id="w", exit_code=None, signal=40, log_tail=""),
            "worker w was killed by signal 40",
        ),
        (
            WorkerDeath(worker_id="w", exit_code=3, signal=None, log_tail="one\n two \n"),
            "worker w ended with exit code 3; its last line: two",
        ),
        (
            WorkerDeath(worker_id="w", exit_code=None, signal=None, log_tail=""),
            "worker w ended together with the process that made it",
        ),
        (
            WorkerDeath(
                worker_id="w", exit_code=1, signal=None, log_tail="x", code="c", message="why"
            ),
            "why",
        ),
    ],
    ids=["signal", "kill", "nameless", "exit", "unseen", "told"],
)
def test_the_reason_is_one_line(death: WorkerDeath, reason: str) -> None:
    assert death.reason == reason
