from __future__ import annotations

import numpy as np
import pytest

from pilotlight.estimators import Priors, StartEstimator, Timeline
from pilotlight.estimators.testing import ViewCase
from pilotlight.estimators.testing.view_case import GIGABYTE
from pilotlight.estimators.timeline import TEARDOWN_SECONDS

PRIORS = Priors(
    attach_seconds=1e-9, warm_worker_seconds=0.2, bind_seconds=0.05, prefill_seconds=0.1
)
"""A gigabyte from SSD takes 1 s, which hides the worker; then 0.05 s and 0.1 s."""

INFINITY = float("inf")


def _timeline(case: ViewCase) -> Timeline:
    return StartEstimator(PRIORS).timeline(case.view())


def test_a_start_on_an_idle_cluster_is_the_sum_of_its_phases() -> None:
    case = ViewCase()
    model = case.model(size_bytes=2 * GIGABYTE)
    node = case.node(ssd=[model])

    finish = _timeline(case).add_start(model, node)

    assert finish.queue_seconds == 0.0
    assert finish.transfer_seconds == pytest.approx(2.0)
    assert finish.worker_seconds == 0.0
    assert finish.ready_seconds == pytest.approx(2.05)
    assert finish.first_token_seconds == pytest.approx(2.15)


def test_two_equal_loads_on_one_disk_end_one_after_the_other() -> None:
    case = ViewCase()
    one, other = case.model(), case.model()
    node = case.node(devices=2, ssd=[one, other])
    timeline = _timeline(case)

    first, second = timeline.add_start(one, node), timeline.add_start(other, node)

    # The transfers end at T = 1 s and 2T = 2 s.
    assert first.queue_seconds + first.transfer_seconds == pytest.approx(1.0)
    assert second.queue_seconds + second.transfer_seconds == pytest.approx(2.0)
    assert second.queue_seconds == pytest.approx(1.0)


def test_nodes_that_share_a_disk_share_its_queue() -> None:
    case = ViewCase()
    one, other = case.model(), case.model()
    here = case.node(ssd=[one], disk="shared")
    there = case.node(ssd=[other], disk="shared")
    elsewhere = case.node(ssd=[other])
    timeline = _timeline(case)

    timeline.add_start(one, here)

    # Behind 1 s of the first load: 1 + 1 + 0.05 + 0.1.
    seconds = timeline.first_token_seconds(other)
    assert seconds[there] == pytest.approx(2.15)
    assert seconds[elsewhere] == pytest.approx(1.15)


def test_a_second_start_of_a_model_shares_the_load_of_the_first() -> None:
    case = ViewCase()
    model = case.model(size_bytes=4 * GIGABYTE)
    node = case.node(devices=2, ssd=[model])
    timeline = _timeline(case)

    first, second = timeline.add_start(model, node), timeline.add_start(model, node)

    assert second.ready_seconds == pytest.approx(first.ready_seconds)
    assert second.transfer_seconds == pytest.approx(4.0)


def test_a_shared_load_occupies_its_disk_once() -> None:
    case = ViewCase()
    model, other = case.model(size_bytes=4 * GIGABYTE), case.model()
    node = case.node(devices=3, ssd=[model, other])
    timeline = _timeline(case)

    timeline.add_start(model, node)
    timeline.add_start(model, node)

    assert timeline.add_start(other, node).queue_seconds == pytest.approx(4.0)


def test_a_start_shares_a_load_that_is_in_flight() -> None:
    case = ViewCase()
    model = case.model(size_bytes=4 * GIGABYTE)
    node = case.node(ssd=[model])
    case.load(model, node, left_bytes=GIGABYTE)
    timeline = _timeline(case)

    seconds = timeline.first_token_seconds(model)[node]
    finish = timeline.add_start(model, node)

    # 1 GB is left: 1 s, then 0.05 s and 0.1 s.
    assert seconds == pytest.approx(1.15)
    assert finish.first_token_seconds == pytest.approx(1.15)
    assert finish.queue_seconds == 0.0


def test_a_load_in_flight_occupies_its_channel() -> None:
    case = ViewCase()
    loading, wanted = case.model(), case.model()
    node = case.node(ssd=[loading, wanted])
    case.load(loading, node, left_bytes=3 * GIGABYTE)

    finish = _timeline(case).add_start(wanted, node)

    assert finish.queue_seconds == pytest.approx(3.0)
    assert finish.transfer_seconds == pytest.approx(1.0)


def test_a_load_on_one_disk_of_a_node_leaves_the_other_free() -> None:
    case = ViewCase()
    loading, beside, behind = case.model(), case.model(), case.model()
    node = case.node(
        ssd=[loading, beside, behind], devices=2, disk="one", other_disks={beside: "other"}
    )
    case.load(loading, node, left_bytes=3 * GIGABYTE)
    timeline = _timeline(case)

    assert timeline.add_start(beside, node).queue_seconds == 0.0
    assert timeline.add_start(behind, node).queue_seconds == pytest.approx(3.0)


def test_a_load_of_no_deployed_model_occupies_its_channel_too() -> None:
    case = ViewCase()
    wanted = case.model()
    node = case.node(ssd=[wanted])
    case.load(-1, node, left_bytes=3 * GIGABYTE)

    assert _timeline(case).first_token_seconds(wanted)[node] == pytest.approx(4.15)


def test_loads_in_flight_queue_behind_each_other() -> None:
    case = ViewCase()
    one, other = case.model(), case.model()
    node = case.node(ssd=[one, other])
    case.load(one, node, left_bytes=2 * GIGABYTE)
    case.load(other, node, left_bytes=GIGABYTE)
    timeline = _timeline(case)

    assert timeline.first_token_seconds(one)[node] == pytest.approx(2.15)
    assert timeline.first_token_seconds(other)[node] == pytest.approx(3.15)


def test_memory_is_faster_than_the_disk_and_needs_no_queue() -> None:
    case = ViewCase()
    model, loading = case.model(), case.model()
    on_ssd = case.node(ssd=[model])
    in_dram = case.node(dram=[model], ssd=[loading])
    case.load(loading, in_dram, left_bytes=9 * GIGABYTE)

    seconds = _timeline(case).first_token_seconds(model)

    assert seconds[on_ssd] == pytest.approx(1.15)
    # Only the worker is waited for: 0.2 + 0.05 + 0.1.
    assert seconds[in_dram] == pytest.approx(0.35)


def test_a_worker_that_is_slower_than_the_transfer_is_waited_for() -> None:
    case = ViewCase()
    model = case.model(size_bytes=GIGABYTE // 20)
    node = case.node(ssd=[model])

    finish = _timeline(case).add_start(model, node)

    # 0.05 s of transfer leave 0.15 of 0.2 s.
    assert finish.transfer_seconds == pytest.approx(0.05)
    assert finish.worker_seconds == pytest.approx(0.15)


def test_a_worker_gets_ready_while_its_load_waits_for_the_disk() -> None:
    case = ViewCase()
    model, loading = case.model(size_bytes=GIGABYTE // 20), case.model()
    node = case.node(ssd=[model, loading])
    case.load(loading, node, left_bytes=GIGABYTE)

    assert _timeline(case).add_start(model, node).worker_seconds == 0.0


def test_a_start_waits_for_devices_that_a_stop_frees() -> None:
    case = ViewCase()
    model = case.model()
    node = case.node(devices=0, ssd=[model])
    replica = case.replica(node)
    timeline = _timeline(case)

    assert timeline.first_token_seconds(model)[node] == INFINITY
    assert timeline.add_stop(replica) == TEARDOWN_SECONDS
    assert timeline.devices_free(node) == 1

    seconds = timeline.first_token_seconds(model)[node]
    finish = timeline.add_start(model, node)

    assert finish.queue_seconds == pytest.approx(TEARDOWN_SECONDS)
    assert finish.first_token_seconds == pytest.approx(TEARDOWN_SECONDS + 1.15)
    assert seconds == pytest.approx(finish.first_token_seconds)
    assert timeline.devices_free(node) == 0


def test_devices_that_a_stop_frees_are_not_free_before() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=0, dram=[model, other])
    replica = case.replica(node, devices=2)
    timeline = _timeline(case)
    timeline.add_stop(replica)

    timeline.add_start(model, node)

    # The second of the two devices comes no earlier than the first.
    assert timeline.add_start(other, node).queue_seconds == pytest.approx(TEARDOWN_SECONDS)


def test_devices_that_are_free_now_are_taken_first() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=1, dram=[model, other])
    replica = case.replica(node)
    timeline = _timeline(case)
    timeline.add_stop(replica)

    assert timeline.add_start(model, node).queue_seconds == 0.0
    assert timeline.add_start(other, node).queue_seconds == pytest.approx(TEARDOWN_SECONDS)


def test_a_load_that_waits_for_devices_may_find_the_disk_free() -> None:
    case = ViewCase()
    model, loading = case.model(), case.model()
    node = case.node(devices=0, ssd=[model, loading])
    replica = case.replica(node)
    case.load(loading, node, left_bytes=GIGABYTE // 20)
    timeline = _timeline(case)
    timeline.add_stop(replica)

    # The disk is free after 0.05 s, the devices after 0.1 s.
    assert timeline.add_start(model, node).queue_seconds == pytest.approx(TEARDOWN_SECONDS)


def test_a_start_is_never_where_it_can_not_be() -> None:
    case = ViewCase()
    model = case.model(devices=2)
    without_devices = case.node(devices=1, ssd=[model])
    without_copy = case.node(devices=2)
    without_disk = case.node(devices=2, ssd=[model], disk="")
    timeline = _timeline(case)

    assert timeline.first_token_seconds(model).tolist() == [INFINITY] * 3
    for node in (without_devices, without_copy, without_disk):
        assert timeline.add_start(model, node).first_token_seconds == INFINITY


def test_a_start_that_can_not_be_takes_nothing() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=1, ssd=[other])
    timeline = _timeline(case)

    timeline.add_start(model, node)
    timeline.add_fetch(model, node)

    assert timeline.devices_free(node) == 1
    assert timeline.add_start(other, node).queue_seconds == 0.0


def test_a_cluster_without_any_channel_starts_from_memory() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    case.node(dram=[model], ssd=[other], disk="")
    timeline = _timeline(case)

    assert timeline.first_token_seconds(model).tolist() == pytest.approx([0.35])
    assert timeline.first_token_seconds(other).tolist() == [INFINITY]


def test_a_fetch_takes_the_disk_but_no_device() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=1, ssd=[model, other])
    timeline = _timeline(case)

    assert timeline.add_fetch(model, node) == pytest.approx(1.0)

    assert timeline.devices_free(node) == 1
    assert timeline.first_token_seconds(other)[node] == pytest.approx(2.15)
    assert timeline.first_token_seconds(model)[node] == pytest.approx(1.15)


def test_a_fetch_of_what_is_nowhere_never_ends() -> None:
    case = ViewCase()
    model = case.model()
    node = case.node()

    assert _timeline(case).add_fetch(model, node) == INFINITY


@pytest.mark.parametrize("who_writes", ["fork", "original"])
def test_a_fork_goes_its_own_way(who_writes: str) -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=1, ssd=[model, other])
    replica = case.replica(node)
    original = _timeline(case)
    fork = original.fork()
    writer, reader = (fork, original) if who_writes == "fork" else (original, fork)
    before = reader.first_token_seconds(other)

    writer.add_start(model, node)
    writer.add_stop(replica)

    assert np.array_equal(reader.first_token_seconds(other), before)
    assert reader.devices_free(node) == 1
    assert writer.devices_free(node) == 1
    assert writer.first_token_seconds(other)[node] == pytest.approx(2.15)


def test_a_fork_begins_with_what_was_added_before() -> None:
    case = ViewCase()
    model, other = case.model(), case.model()
    node = case.node(devices=2, ssd=[model, other])
    original = _timeline(case)
    original.add_start(model, node)

    fork = original.fork().fork()

    assert fork.first_token_seconds(other)[node] == pytest.approx(2.15)


def test_a_start_after_stops_is_told_without_being_added() -> None:
    case = ViewCase()
    model = case.model(devices=2)
    node = case.node(devices=0, ssd=[model])
    victims = [case.replica(node), case.replica(node)]
    timeline = _timeline(case)
    trial = timeline.fork()
    for victim in victims:
        trial.add_stop(victim)

    told = timeline.start_after_stops(model, node, victims)

    assert told == trial.add_start(model, node)
    assert told.queue_seconds == TEARDOWN_SECONDS
    assert timeline.devices_free(node) == 0
    assert timeline.start_after_stops(model, node, victims) == told


def test_a_start_after_too_few_stops_never_comes() -> None:
    case = ViewCase()
    model = case.model(devices=2)
    node = case.node(devices=0, ssd=[model])
    victim = case.replica(node)

    assert _timeline(case).start_after_stops(model, node, [victim]).queue_seconds == INFINITY


def test_a_fetch_to_a_node_without_a_copy_never_ends() -> None:
    case = ViewCase()
    model = case.model()
    node = case.node()

    assert _timeline(case).add_fetch(model, node) == INFINITY
