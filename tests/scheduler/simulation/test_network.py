from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pilotlight.scheduler.simulation import Discipline, EventHeap, Network, VirtualChannel
from pilotlight.scheduler.simulation.network import Transfer

GIGABYTE = 10**9


@dataclass
class World:
    """A network, and when what was sent over it arrived."""

    heap: EventHeap = field(default_factory=EventHeap)
    arrived: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        self.network = Network(self.heap)

    def send(
        self, name: str, *path: VirtualChannel, n_bytes: int = GIGABYTE, priority: int = 0
    ) -> Transfer:
        def note(_: Transfer) -> None:
            self.arrived[name] = round(self.heap.now, 5)

        return self.network.begin(path, n_bytes, note, priority=priority)

    def at(self, seconds: float) -> None:
        self.heap.run_until(seconds)


def _disk(gigabytes_per_second: float = 1.0, name: str = "disk") -> VirtualChannel:
    return VirtualChannel(name=name, bytes_per_second=gigabytes_per_second * GIGABYTE)


def _shared(gigabytes_per_second: float = 1.0, name: str = "nic") -> VirtualChannel:
    return VirtualChannel(
        name=name,
        bytes_per_second=gigabytes_per_second * GIGABYTE,
        discipline=Discipline.SHARED,
    )


def test_a_disk_serves_one_after_the_other() -> None:
    world, disk = World(), _disk()

    transfers = [world.send(name, disk) for name in ("a", "b", "c")]
    world.at(10.0)

    assert world.arrived == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert [each.queue_seconds for each in transfers] == pytest.approx([0.0, 1.0, 2.0])
    assert [each.busy_seconds for each in transfers] == pytest.approx([1.0, 1.0, 1.0])


def test_a_shared_channel_serves_all_at_once() -> None:
    world, nic = World(), _shared()

    world.send("small", nic, n_bytes=GIGABYTE // 2)
    world.send("large", nic, n_bytes=GIGABYTE)
    world.at(10.0)

    # Half each until the small one has gone after 1 s, then all of it for the last 0.5 GB.
    assert world.arrived == {"small": 1.0, "large": 1.5}


def test_the_slowest_channel_of_a_path_decides() -> None:
    world = World()

    world.send("a", _disk(2.0), _shared(0.5))
    world.at(10.0)

    assert world.arrived == {"a": 2.0}


def test_what_one_path_cannot_use_the_others_get() -> None:
    # Three cross a NIC of 3 GB/s, one of them comes from a disk of 0.5 GB/s: max-min fair is
    # 0.5, 1.25 and 1.25.
    world, nic = World(), _shared(3.0)

    world.send("slow", _disk(0.5, "slow"), nic)
    world.send("fast", _disk(5.0, "fast"), nic)
    world.send("also", _disk(5.0, "also"), nic)
    world.at(10.0)

    assert world.arrived == {"fast": 0.8, "also": 0.8, "slow": 2.0}


def test_fairness_reaches_over_two_shared_channels() -> None:
    # a crosses both, b the first, c the second: a and b have 0.5 each of the first, and c what a
    # leaves of the second, 1.5.
    world, first, second = World(), _shared(1.0, "first"), _shared(2.0, "second")

    world.send("a", first, second)
    world.send("b", first)
    world.send("c", second, n_bytes=3 * GIGABYTE)
    world.at(10.0)

    assert world.arrived == {"a": 2.0, "b": 2.0, "c": 2.0}


def test_two_nodes_that_share_a_disk_take_turns() -> None:
    world, disk = World(), _disk()

    world.send("one", disk, _shared(name="nic-1"))
    world.send("other", disk, _shared(name="nic-2"))
    world.at(10.0)

    assert world.arrived == {"one": 1.0, "other": 2.0}


def test_a_higher_priority_goes_first_but_interrupts_nobody() -> None:
    world, disk = World(), _disk()

    world.send("running", disk)
    world.send("prefetch", disk)
    world.send("start", disk, priority=1)
    world.at(10.0)

    assert world.arrived == {"running": 1.0, "start": 2.0, "prefetch": 3.0}


def test_who_is_promoted_overtakes() -> None:
    world, disk = World(), _disk()
    world.send("running", disk)
    world.send("first", disk)
    later = world.send("later", disk)

    world.network.promote(later, 1)
    world.at(10.0)

    assert world.arrived == {"running": 1.0, "later": 2.0, "first": 3.0}


def test_a_cancelled_transfer_gives_its_channel_to_the_next() -> None:
    world, disk = World(), _disk()
    running, waiting = world.send("running", disk), world.send("waiting", disk)
    world.send("last", disk)
    world.at(0.25)

    world.network.cancel(waiting)
    world.network.cancel(running)
    world.at(10.0)

    assert world.arrived == {"last": 1.25}
    assert world.network.done_bytes(running) == GIGABYTE // 4
    assert world.network.done_bytes(waiting) == 0
    assert disk.carried_bytes == pytest.approx(1.25 * GIGABYTE)


def test_a_channel_that_slows_down_slows_what_it_carries() -> None:
    world, disk = World(), _disk()
    transfer = world.send("a", disk)
    world.at(0.5)

    world.network.set_bandwidth(disk, 0.25 * GIGABYTE)
    world.at(1.5)
    assert world.network.done_bytes(transfer) == pytest.approx(0.75 * GIGABYTE)
    world.at(10.0)

    assert world.arrived == {"a": 2.5}


def test_nothing_moves_on_a_channel_that_is_down_until_it_is_back() -> None:
    world, disk = World(), _disk()
    world.send("a", disk)
    world.at(0.5)

    world.network.set_bandwidth(disk, 0.0)
    world.at(100.0)
    assert world.arrived == {}
    world.network.set_bandwidth(disk, GIGABYTE)
    world.at(200.0)

    assert world.arrived == {"a": 100.5}


def test_a_slow_transfer_holds_its_channel_for_longer() -> None:
    world, disk = World(), _disk()

    slow = world.network.begin((disk,), GIGABYTE, lambda _: None, slowness=1.25)
    world.send("next", disk)
    world.at(1.0)
    assert world.network.done_bytes(slow) == pytest.approx(0.8 * GIGABYTE)
    world.at(10.0)

    assert slow.ended_at == pytest.approx(1.25)
    assert world.arrived == {"next": 2.25}
    assert disk.carried_bytes == pytest.approx(2 * GIGABYTE)


def test_nothing_at_all_arrives_at_once() -> None:
    world = World()

    world.send("empty", _disk(), n_bytes=0)
    world.at(1.0)

    assert world.arrived == {"empty": 0.0}


def test_only_the_head_of_a_path_may_serve_in_turn() -> None:
    world = World()

    with pytest.raises(ValueError, match="only channel of it that serves in turn"):
        world.send("a", _shared(), _disk())
    with pytest.raises(ValueError, match="begins with"):
        world.network.begin((), 1, lambda _: None)
