from __future__ import annotations

import pytest

from pilotlight.scheduler.core.plan import Plan, Start, Stop
from pilotlight.scheduler.policies import Policy, ServerlessLLM
from pilotlight.scheduler.testing import Case, PolicyContract
from pilotlight.scheduler.testing.reports import GIGABYTE
from pilotlight.store_node.protocol import Tier


class TestServerlessLLM(PolicyContract):
    def make_policy(self) -> Policy:
        return ServerlessLLM()


POLICY = ServerlessLLM()


def _starts(plan: Plan) -> list[Start]:
    return [step for step in plan.steps if isinstance(step, Start)]


def test_prefers_the_node_that_holds_the_model_in_memory() -> None:
    case = Case()
    case.node(devices=1, holds=["m"])
    case.node(devices=1, dram=["m"]).expect("m")
    case.requests("m")

    plan = case.check(POLICY)

    assert _starts(plan)[0].tier is Tier.DRAM


def test_prefers_the_faster_disk() -> None:
    case = Case()
    case.node(holds=["m"], bytes_per_second=1.0e9)
    case.node(holds=["m"], bytes_per_second=2.0e9).expect("m")
    case.requests("m")

    case.check(POLICY)


def test_prefers_a_warm_worker_where_the_bytes_come_alike() -> None:
    case = Case()
    case.node(dram=["m"], warm_workers={})
    case.node(dram=["m"]).expect("m")
    case.requests("m")

    case.check(POLICY)


def test_prefers_a_slower_disk_to_a_queue() -> None:
    case = Case()
    case.model("m", size_bytes=2 * GIGABYTE)
    # Behind 3 GB the load takes 3 + 2 s, at half the speed 4 s.
    busy = case.node(holds=["m", "loading"], bytes_per_second=1.0e9)
    case.node(holds=["m"], bytes_per_second=0.5e9).expect("m")
    case.model("loading", size_bytes=4 * GIGABYTE)
    case.load("loading", busy, left_bytes=3 * GIGABYTE)
    case.requests("m")

    case.check(POLICY)


def test_two_starts_of_one_plan_use_two_disks() -> None:
    case = Case()
    case.node(devices=2, holds=["m", "n"]).expect("m")
    case.node(devices=2, holds=["m", "n"]).expect("n")
    case.requests("m", waited_seconds=2.0)
    case.requests("n", waited_seconds=1.0)

    plan = case.check(POLICY)

    assert [start.estimated.queue_seconds for start in _starts(plan) if start.estimated] == [0, 0]


def test_nodes_that_share_a_disk_do_not_make_it_faster() -> None:
    case = Case()
    case.node(holds=["m", "n"], channel="shared").expect("m")
    case.node(holds=["m", "n"], channel="shared")
    case.node(holds=["n"], bytes_per_second=0.6e9).expect("n")
    case.requests("m", waited_seconds=2.0)
    case.requests("n", waited_seconds=1.0)

    # Second on the shared disk "n" is there after 2 s, on the slower one after 1.7 s.
    case.check(POLICY)


def test_joins_the_load_that_is_under_way() -> None:
    case = Case()
    case.model("m", size_bytes=4 * GIGABYTE)
    loading = case.node(holds=["m"]).expect("m")
    case.node(holds=["m"], bytes_per_second=2.0e9)
    case.load("m", loading, left_bytes=GIGABYTE)
    case.requests("m")

    # 1 s of what is under way is less than 4 GB at 2 GB/s.
    case.check(POLICY)


def test_replaces_an_idle_replica_rather_than_reading_from_disk() -> None:
    case = Case()
    case.model("m", size_bytes=2 * GIGABYTE)
    full = case.node(devices=1, dram=["m"]).expect("m")
    case.node(devices=1, holds=["m"])
    idle = case.replica("other", full, idle_seconds=5.0)
    case.requests("m")

    plan = case.check(POLICY)

    stop, start = plan.steps
    assert isinstance(stop, Stop)
    assert isinstance(start, Start)
    assert (stop.replica, stop.if_idle) == (idle, True)
    assert start.after == (stop.id,)


def test_the_estimate_counts_the_teardown_of_what_is_replaced() -> None:
    case = Case()
    full = case.node(devices=1, dram=["m"])
    case.replica("other", full, idle_seconds=5.0)
    case.requests("m")

    (start,) = _starts(case.plan(POLICY))

    # 0.1 s of teardown, then the warm worker's 0.1 s hide 0.002 s of attaching.
    assert start.estimated is not None
    assert start.estimated.queue_seconds == pytest.approx(0.1)
    assert start.estimated.ready_seconds == pytest.approx(0.1 + 0.1 + 0.05)


def test_reads_from_disk_rather_than_disturb_where_that_is_as_fast() -> None:
    case = Case()
    case.model("m", size_bytes=GIGABYTE // 100)
    full = case.node(devices=1, dram=["m"])
    case.node(devices=1, holds=["m"]).expect("m")
    case.replica("other", full, idle_seconds=5.0)
    case.requests("m")

    # 0.01 s from disk, hidden by the worker, against 0.1 s of teardown.
    case.check(POLICY)


def test_what_waits_longest_chooses_first() -> None:
    case = Case()
    case.node(devices=1, holds=["early", "late"]).expect("early")
    case.requests("late", waited_seconds=1.0)
    case.requests("early", waited_seconds=2.0)

    case.check(POLICY)


def test_priority_goes_before_waiting() -> None:
    case = Case()
    case.model("urgent", priority=1)
    case.node(devices=1, holds=["early", "urgent"]).expect("urgent")
    case.requests("early", waited_seconds=9.0)
    case.requests("urgent", waited_seconds=0.1)

    case.check(POLICY)


def test_who_can_not_start_lets_others_go_ahead() -> None:
    case = Case()
    case.model("wide", devices=2)
    full = case.node(devices=2, holds=["wide", "narrow"]).expect("narrow")
    case.replica("busy", full)
    case.requests("wide", waited_seconds=9.0)
    case.requests("narrow", waited_seconds=1.0)

    case.check(POLICY)


def test_waits_where_all_devices_are_busy() -> None:
    case = Case()
    full = case.node(devices=1, holds=["m"])
    case.replica("busy", full)
    case.requests("m")

    assert case.check(POLICY) == Plan()


def test_starts_as_many_replicas_as_requests_fill_and_nodes_take() -> None:
    case = Case()
    case.model("m", max_replicas=4, concurrency=2)
    case.node(devices=1, holds=["m"]).expect("m")
    case.node(devices=1, holds=["m"]).expect("m")
    case.requests("m", 7)

    case.check(POLICY)


def test_says_why_in_one_line() -> None:
    case = Case()
    case.node(holds=["m"])
    case.requests("m")

    (start,) = _starts(case.plan(POLICY))

    # 1.002 + 0.05 + 0.1 s.
    assert start.reason == "first token in 1.152 s"
