from __future__ import annotations

from pilotlight.scheduler.simulation.event_heap import EventHeap


def test_calls_run_in_the_order_of_their_times_and_then_of_their_making() -> None:
    heap, seen = EventHeap(), list[str]()
    heap.call_at(2.0, seen.append, "late")
    heap.call_at(1.0, seen.append, "early")
    heap.call_at(2.0, seen.append, "late, too")

    heap.run_until(3.0)

    assert seen == ["early", "late", "late, too"]
    assert heap.now == 3.0


def test_what_comes_later_waits_for_the_next_run() -> None:
    heap, seen = EventHeap(), list[float]()
    heap.call_at(2.0, lambda _: seen.append(heap.now), None)

    heap.run_until(1.9)
    assert seen == []
    heap.run_until(2.0)

    assert seen == [2.0]


def test_what_has_passed_happens_at_once() -> None:
    heap, seen = EventHeap(), list[float]()
    heap.run_until(5.0)

    heap.call_at(1.0, lambda _: seen.append(heap.now), None)
    heap.run_until(5.0)

    assert seen == [5.0]


def test_a_call_may_make_others() -> None:
    heap, seen = EventHeap(), list[float]()

    def tick(left: int) -> None:
        seen.append(heap.now)
        if left:
            heap.call_at(heap.now + 0.5, tick, left - 1)

    heap.call_at(0.0, tick, 3)
    heap.run_until(10.0)

    assert seen == [0.0, 0.5, 1.0, 1.5]


def test_nobody_is_called_before_his_time() -> None:
    heap, seen = EventHeap(), list[float]()
    # The next float after a whole number of microseconds.
    at = 54.928185000000006
    heap.call_at(at, lambda _: seen.append(heap.now), None)

    heap.run_until(60.0)

    assert seen[0] >= at
