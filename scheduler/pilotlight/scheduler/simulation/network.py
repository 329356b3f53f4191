"""Bytes on their way: channels that serve transfers in turn, or share their bandwidth fairly.

Theory of operation. A transfer crosses a path of channels. Where the first of
them serves in turn it waits there until it is the next one, by priority and then
by age; from then on it flows, and holds that channel until its last byte. All
that flows shares what it crosses max-min fair: the channel with the least for
each of its transfers decides for those, what they leave over goes to the others,
and so on. Rates change only when a transfer begins or ends or a bandwidth
changes, and then only among transfers that are connected by shared channels.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pilotlight.scheduler.simulation.event_heap import EventHeap


class Discipline(enum.StrEnum):
    """How a channel serves several transfers."""

    IN_TURN = "in_turn"
    SHARED = "shared"


@dataclass(slots=True, eq=False, kw_only=True)
class VirtualChannel:
    """Something that carries bytes and can be busy."""

    name: str
    bytes_per_second: float
    """0 = it carries nothing for the time being."""
    discipline: Discipline = Discipline.IN_TURN
    carried_bytes: float = 0.0
    """Of transfers that have ended, or were cancelled on their way."""
    flowing: dict[Transfer, None] = field(default_factory=dict["Transfer", None])
    """What it carries."""
    waiting: list[tuple[int, int, Transfer]] = field(
        default_factory=list[tuple[int, int, "Transfer"]]
    )
    """By priority and age: what waits for its turn."""
    holder: Transfer | None = None
    """Whose turn it is."""


@dataclass(slots=True, eq=False, kw_only=True)
class Transfer:
    """Bytes that cross a path of channels."""

    path: tuple[VirtualChannel, ...]
    n_bytes: int
    slowness: float
    """How many bytes' time each of its bytes takes."""
    priority: int
    on_done: Callable[[Transfer], None]
    submitted_at: float
    began_at: float | None = None
    """When its first byte moved; None while it waits for its turn."""
    ended_at: float | None = None
    """When its last byte had moved, or it was cancelled."""
    number: int
    """Its age: the older, the less."""
    left_bytes: float
    """As of `settled_at`, times its slowness."""
    settled_at: float
    rate: float = 0.0
    """Bytes per second from then on."""
    change: int = 0
    """Grows whenever its end moves."""

    @property
    def queue_seconds(self) -> float:
        """How long it waited for its turn; 0 while it still does."""
        return 0.0 if self.began_at is None else self.began_at - self.submitted_at

    @property
    def busy_seconds(self) -> float:
        """From its first byte to its last; 0 before that."""
        if self.began_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.began_at


class Network:
    """All channels' transfers, on one virtual clock."""

    def __init__(self, heap: EventHeap) -> None:
        self._heap = heap
        self._next_number = 0

    def begin(
        self,
        path: Sequence[VirtualChannel],
        n_bytes: int,
        on_done: Callable[[Transfer], None],
        *,
        priority: int = 0,
        slowness: float = 1.0,
    ) -> Transfer:
        """Send bytes over a path; `on_done` is called when the last one has arrived.

        Each byte takes the channels' time of `slowness` bytes: no two transfers of the
        same bytes take quite as long.

        Raises:
            ValueError: the path has no channel, or one that serves in turn is not its first.
        """
        if not path or any(each.discipline is Discipline.IN_TURN for each in path[1:]):
            raise ValueError("a path begins with the only channel of it that serves in turn")
        now = self._heap.now
        transfer = Transfer(
            path=tuple(path),
            n_bytes=n_bytes,
            slowness=slowness,
            priority=priority,
            on_done=on_done,
            submitted_at=now,
            number=self._next_number,
            left_bytes=n_bytes * slowness,
            settled_at=now,
        )
        self._next_number += 1
        gate = path[0]
        if gate.discipline is Discipline.SHARED:
            self._flow(transfer)
        else:
            heapq.heappush(gate.waiting, (-priority, transfer.number, transfer))
            self._admit_next(gate)
        return transfer

    def promote(self, transfer: Transfer, priority: int) -> None:
        """Let a transfer that waits go before those of lower priority."""
        transfer.priority = priority
        gate = transfer.path[0]
        if transfer.began_at is None and transfer.ended_at is None:
            others = [entry for entry in gate.waiting if entry[2] is not transfer]
            gate.waiting = [*others, (-priority, transfer.number, transfer)]
            heapq.heapify(gate.waiting)

    def cancel(self, transfer: Transfer) -> None:
        """End a transfer where it is; `on_done` is not called. One that has ended stays so."""
        if transfer.ended_at is not None:
            return
        if transfer.began_at is None:
            transfer.ended_at = self._heap.now
            gate = transfer.path[0]
            gate.waiting = [entry for entry in gate.waiting if entry[2] is not transfer]
            heapq.heapify(gate.waiting)
        else:
            self._settle(transfer)
            self._end(transfer)

    def done_bytes(self, transfer: Transfer) -> int:
        """Return how many bytes have arrived."""
        passed = self._heap.now - transfer.settled_at if transfer.ended_at is None else 0.0
        left = (transfer.left_bytes - transfer.rate * passed) / transfer.slowness
        return min(max(int(transfer.n_bytes - left), 0), transfer.n_bytes)

    def set_bandwidth(self, channel: VirtualChannel, bytes_per_second: float) -> None:
        """Let a channel be faster or slower from now on, also for what it carries."""
        channel.bytes_per_second = bytes_per_second
        self._share((channel,))

    def _admit_next(self, gate: VirtualChannel) -> None:
        if gate.holder is None and gate.waiting:
            gate.holder = heapq.heappop(gate.waiting)[2]
            self._flow(gate.holder)

    def _flow(self, transfer: Transfer) -> None:
        transfer.began_at = transfer.settled_at = self._heap.now
        for channel in transfer.path:
            channel.flowing[transfer] = None
        self._share(transfer.path)

    def _end(self, transfer: Transfer) -> None:
        transfer.ended_at = self._heap.now
        transfer.change += 1
        gate = transfer.path[0]
        for channel in transfer.path:
            del channel.flowing[transfer]
            channel.carried_bytes += transfer.n_bytes - transfer.left_bytes / transfer.slowness
        if gate.holder is transfer:
            gate.holder = None
        others = [channel for channel in transfer.path if channel.flowing]
        if others:
            self._share(others)
        self._admit_next(gate)

    def _arrive(self, expected: tuple[Transfer, int]) -> None:
        transfer, change = expected
        if transfer.change == change:
            transfer.left_bytes = 0.0
            self._end(transfer)
            transfer.on_done(transfer)

    def _share(self, channels: Iterable[VirtualChannel]) -> None:
        """Give all that is connected with these channels its fair rate."""
        flows = _connected(channels)
        rates = _alone(*flows) if len(flows) == 1 else _max_min_rates(flows)
        for transfer, rate in rates.items():
            if rate != transfer.rate:
                self._settle(transfer)
                transfer.rate = rate
                transfer.change += 1
                if rate > 0.0:
                    at = self._heap.now + transfer.left_bytes / rate
                    self._heap.call_at(at, self._arrive, (transfer, transfer.change))

    def _settle(self, transfer: Transfer) -> None:
        now = self._heap.now
        moved = transfer.rate * (now - transfer.settled_at)
        transfer.left_bytes = max(transfer.left_bytes - moved, 0.0)
        transfer.settled_at = now


def _connected(channels: Iterable[VirtualChannel]) -> dict[Transfer, None]:
    """Return the transfers that these channels carry, and those that share one with them."""
    found: dict[Transfer, None] = {}
    seen = dict.fromkeys(channels)
    to_do = list(seen)
    while to_do:
        for transfer in to_do.pop().flowing:
            if transfer in found:
                continue
            found[transfer] = None
            for channel in transfer.path:
                if channel not in seen:
                    seen[channel] = None
                    to_do.append(channel)
    return found


def _alone(transfer: Transfer) -> dict[Transfer, float]:
    return {transfer: min(channel.bytes_per_second for channel in transfer.path)}


def _max_min_rates(flows: Iterable[Transfer]) -> dict[Transfer, float]:
    """Return each transfer's rate: fill the tightest channel first, then the next."""
    rates: dict[Transfer, float] = {}
    open_flows = dict.fromkeys(flows)
    left = {channel: channel.bytes_per_second for each in open_flows for channel in each.path}
    users = dict.fromkeys(left, 0)
    for transfer in open_flows:
        for channel in transfer.path:
            users[channel] += 1
    while open_flows:
        tightest = min(users, key=lambda channel: left[channel] / users[channel])
        rate = left[tightest] / users[tightest]
        for transfer in [each for each in tightest.flowing if each in open_flows]:
            del open_flows[transfer]
            rates[transfer] = rate
            for channel in transfer.path:
                left[channel] = max(left[channel] - rate, 0.0)
                users[channel] -= 1
        users = {channel: n for channel, n in users.items() if n}
    return rates
