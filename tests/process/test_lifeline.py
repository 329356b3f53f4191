from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

_CHILD = """
import sys, time
from pilotlight.process.lifeline import die_with_parent
die_with_parent({parent})
print("ready", flush=True)
time.sleep(60)
"""
# Starts the child, passes on its pid, and lives until its stdin closes.
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
print(child.pid, flush=True)
sys.stdin.read()
"""


def wait_until_dead(pidfd: int, *, deadline_seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(deadline_seconds * 1000))


@pytest.mark.integration
def test_a_child_dies_with_its_killed_parent() -> None:
    command = [sys.executable, "-c", _PARENT, _CHILD.format(parent="")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))

        parent.kill()

        assert wait_until_dead(pidfd, deadline_seconds=10)
        os.close(pidfd)


@pytest.mark.integration
def test_a_child_whose_parent_is_already_gone_ends_at_once() -> None:
    gone = subprocess.run(
        [sys.executable, "-c", _CHILD.format(parent="2**22 + 1")],  # no process has that pid
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert gone.returncode == -9
    assert gone.stdout == b""
