"""Who leads: one row, a lease on the database's clock.

Theory of operation. The first migration makes the row, with epoch 0, which
nobody holds. It has the newest epoch, its holder, and when the lease ends.
Whoever finds it ended, or its holder's process gone, takes the next epoch. A
leader renews well before the end; every write of its state is made in a
transaction that has locked the row and seen its own epoch there, so that a
leader which was replaced while it slept can write nothing.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, RowMapping, select, update

from pilotlight.scheduler.errors import LeadershipLost
from pilotlight.scheduler.store.clock import database_now
from pilotlight.scheduler.store.tables import leadership

_ROW = leadership.c.id == 1
_LOCKED_ROW = (
    select(leadership.c.epoch, leadership.c.holder, leadership.c.expires_at)
    .add_columns(database_now().label("now"))
    .where(_ROW)
    .with_for_update()
)
# Readers of the row do not keep each other out, only whoever wants to replace the leader.
_SHARED_EPOCH = select(leadership.c.epoch).where(_ROW).with_for_update(read=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBy:
    """Another controller leads."""

    holder: str
    remaining_seconds: float
    """Until its lease ends, unless it is renewed."""


def this_process() -> str:
    """Return a holder's name: host, pid, the process's start, and the machine's boot.

    The last tells apart hosts of one name, and containers that see other pids.
    """
    pid = os.getpid()
    return ":".join([socket.gethostname(), str(pid), _started_at(pid) or "", _pid_space()])


def acquire(connection: Connection, holder: str, *, lease_seconds: float) -> int | HeldBy:
    """Take the next epoch, or return who has the lease."""
    row = connection.execute(_LOCKED_ROW).mappings().one()
    if held := _held(row, holder):
        return held
    epoch = int(row["epoch"]) + 1
    _set(connection, epoch=epoch, holder=holder, lease_seconds=lease_seconds)
    return epoch


def renew(connection: Connection, epoch: int, holder: str, *, lease_seconds: float) -> None:
    """Make the lease last that long from now.

    Raises:
        LeadershipLost: the epoch is another's.
    """
    _require(connection, epoch, holder)
    _set(connection, epoch=epoch, holder=holder, lease_seconds=lease_seconds)


def raise_epoch(
    connection: Connection, epoch: int, holder: str, *, above: int, lease_seconds: float
) -> int:
    """Go to an epoch above `above` and the present one; return it.

    Raises:
        LeadershipLost: the epoch is another's.
    """
    _require(connection, epoch, holder)
    raised = max(epoch, above) + 1
    _set(connection, epoch=raised, holder=holder, lease_seconds=lease_seconds)
    return raised


def release(connection: Connection, epoch: int, holder: str) -> None:
    """End the lease now; passed over where it is another's."""
    connection.execute(
        update(leadership)
        .where(_ROW, leadership.c.epoch == epoch, leadership.c.holder == holder)
        .values(expires_at=database_now())
    )


def require_epoch(connection: Connection, epoch: int) -> None:
    """Refuse to write for a leader that was replaced, and keep it from being so until commit.

    Raises:
        LeadershipLost: the row has another epoch.
    """
    found = connection.execute(_SHARED_EPOCH).scalar_one()
    if found != epoch:
        raise LeadershipLost(f"epoch {epoch} has ended; epoch {found} leads")


def is_gone(holder: str) -> bool:
    """Return whether a holder was a process of this machine and no longer runs."""
    host, _, rest = holder.rpartition(":")[0].partition(":")
    pid, _, started_at = rest.partition(":")
    if host != socket.gethostname() or holder.rpartition(":")[2] != _pid_space():
        return False
    return pid.isdigit() and _started_at(int(pid)) != started_at


def _held(row: RowMapping, holder: str) -> HeldBy | None:
    remaining = float(row["expires_at"]) - float(row["now"])
    if remaining <= 0 or row["holder"] == holder or is_gone(row["holder"]):
        return None
    return HeldBy(holder=row["holder"], remaining_seconds=remaining)


def _require(connection: Connection, epoch: int, holder: str) -> None:
    row = connection.execute(_LOCKED_ROW).mappings().one()
    if row["epoch"] != epoch or row["holder"] != holder:
        raise LeadershipLost(f"epoch {epoch} has ended; epoch {row['epoch']} leads")


def _set(connection: Connection, *, epoch: int, holder: str, lease_seconds: float) -> None:
    connection.execute(
        update(leadership)
        .where(_ROW)
        .values(epoch=epoch, holder=holder, expires_at=database_now() + lease_seconds)
    )


def _started_at(pid: int) -> str | None:
    """Return when a process began, in ticks since boot, or None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else fields[18]


def _pid_space() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
