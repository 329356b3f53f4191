from __future__ import annotations

import numpy as np
import pytest

from pilotlight.scheduler.core.columns import SnapshotBuilder
from pilotlight.scheduler.core.events import KnownReplica
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.core.snapshot import ReplicaCode
from pilotlight.scheduler.testing.reports import copy_of, disk, load_of, model_of, status_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import (
    ChannelId,
    ModelId,
    NodeId,
    PoolAccounts,
    ReplicaId,
    ReplicaState,
    Tier,
)


def _stage() -> Stage:
    stage = Stage()
    stage.deploy("m")
    stage.deploy("n", min_replicas=0, max_replicas=3, priority=2, keep_alive_seconds=None)
    stage.join("a", devices=2, holds=["m", copy_of("n", in_dram=True)])
    stage.join("b", devices=1, holds=["n"], warm_workers={"timed": 3})
    stage.settle()
    return stage


def test_a_snapshot_shows_models_and_nodes_as_they_are() -> None:
    snapshot = _stage().core.snapshot(10.0)

    assert snapshot.model_ids == ("m", "n")
    assert snapshot.model_max_replicas.tolist() == [1, 3]
    assert snapshot.model_priority.tolist() == [0, 2]
    assert snapshot.model_keep_alive_seconds.tolist() == pytest.approx([60.0, np.nan], nan_ok=True)
    assert snapshot.node_ids == ("a", "b")
    assert snapshot.node_devices.tolist() == [2, 1]
    assert snapshot.warm_workers.tolist() == [[2, 3]]
    assert snapshot.channel_ids == ("disk@a", "disk@b")
    assert snapshot.copy_channel.tolist() == [[0, -1], [0, 1]]
    assert snapshot.node_link.tolist() == [-1, -1]
    # SSD is 1, DRAM is 2.
    assert snapshot.residency.tolist() == [[1, 0], [3, 1]]
    assert snapshot.tier(0, 0) is Tier.SSD
    assert snapshot.tier(0, 1) is None
    assert snapshot.tier(1, 0) is Tier.DRAM


def test_a_snapshot_shows_replicas_demand_and_back_offs() -> None:
    stage = _stage()
    replica = stage.bring_up("m")
    stage.traffic(replica, running=1)
    stage.demand("n", 1, waited_seconds=4.0)
    stage.settle()
    stage.refuse(stage.sends[0], reason="broken")

    snapshot = stage.core.snapshot(stage.now)

    assert snapshot.replica_state.tolist() == [ReplicaCode.READY]
    assert snapshot.replica_running.tolist() == [1]
    assert np.isnan(snapshot.replica_idle_since).tolist() == [True]
    assert snapshot.waiting.tolist() == [0, 1]
    assert snapshot.oldest_arrival.tolist() == [np.inf, stage.now - 4.0]
    assert snapshot.node_devices_free.tolist() == [1, 1]
    assert snapshot.back_off_reasons == ("broken",)
    assert snapshot.back_off_model.tolist() == [1]


def test_a_snapshot_can_not_be_written_to() -> None:
    snapshot = _stage().core.snapshot(10.0)

    with pytest.raises(ValueError, match="read-only"):
        snapshot.node_devices_free[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        snapshot.residency[0, 0] = 0


def test_a_snapshot_stays_as_it_was_while_the_cluster_goes_on() -> None:
    stage = _stage()
    before = stage.core.snapshot(stage.now)

    stage.bring_up("m")
    stage.disconnect("b")
    stage.delete("n")

    assert before.model_ids == ("m", "n")
    assert before.node_devices_free.tolist() == [2, 1]
    assert before.node_is_up.tolist() == [True, True]
    assert before.replica_ids == ()


def test_tables_that_nothing_touched_are_shared_with_the_snapshot_before() -> None:
    stage = _stage()
    before = stage.core.snapshot(stage.now)

    stage.demand("m", 1)
    after = stage.core.snapshot(stage.now)

    assert after.residency is before.residency
    assert after.waiting is not before.waiting


def test_ids_keep_their_identity_until_one_comes_or_goes() -> None:
    stage = _stage()
    before = stage.core.snapshot(stage.now)

    stage.bring_up("m")
    stage.join("c")
    after = stage.core.snapshot(stage.now)

    assert after.model_ids is before.model_ids
    assert after.node_ids == ("a", "b", "c")
    assert after.copy_channel is not before.copy_channel


def test_where_bytes_are_read_from_is_not_written_anew_when_only_memory_changes() -> None:
    stage = _stage()
    before = stage.core.snapshot(stage.now)

    stage.update("b", checkpoints=(copy_of("n", in_dram=True),))
    after = stage.core.snapshot(stage.now)

    assert after.residency.tolist() == [[1, 0], [3, 3]]
    assert after.copy_channel is before.copy_channel


def test_a_snapshot_shows_what_models_lack_and_when_replicas_expire() -> None:
    stage = _stage()
    replica = stage.bring_up("m")
    stage.deploy("busy")
    stage.update("b", checkpoints=(copy_of("n"), copy_of("busy")))
    stage.traffic(stage.bring_up("busy"), running=1)
    stage.demand("n", 2)

    snapshot = stage.core.snapshot(stage.now)

    assert snapshot.model_live_replicas.tolist() == [1, 0, 1]
    assert snapshot.model_lacking_replicas.tolist() == [0, 2, 0]
    assert replica.idle_since is not None
    expected = [replica.idle_since + 60.0, np.nan]
    assert snapshot.replica_expires_at.tolist() == pytest.approx(expected, nan_ok=True)


def test_nodes_that_share_a_disk_refer_to_one_channel() -> None:
    stage = Stage()
    stage.deploy("m")
    for node in ("a", "b"):
        stage.join(node, channels=[disk("san")], holds=["m"])

    snapshot = stage.core.snapshot(0.0)

    assert snapshot.channel_ids == ("san",)
    assert snapshot.copy_channel.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("named", "counts"), [("second", "second"), ("", "first"), ("unknown", "first")]
)
def test_of_several_disks_the_copys_counts_for_estimates_and_for_what_is_learned(
    named: str, counts: str
) -> None:
    stage = Stage()
    stage.deploy("m")
    copy = copy_of("m", ssd_channel=ChannelId(named))
    stage.join("a", channels=[disk("first"), disk("second")], holds=[copy])
    stage.settle()

    stage.bring_up("m")

    snapshot = stage.core.snapshot(stage.now)
    assert [snapshot.channel_ids[row] for row in snapshot.copy_channel[0]] == [counts]
    lessons = stage.estimator.lessons()
    assert isinstance(lessons, dict)
    assert list(lessons["channel"]["by_key"]) == [counts]


def test_a_start_is_a_load_to_come_until_its_node_has_reported_one() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()

    snapshot = stage.core.snapshot(stage.now)
    assert snapshot.load_model.tolist() == [0]
    assert snapshot.load_channel.tolist() == [0]
    assert snapshot.load_left_bytes.tolist() == [1_000_000_000]

    stage.update("a", loads=(load_of("m", done_bytes=400_000_000),))
    assert stage.core.snapshot(stage.now).load_left_bytes.tolist() == [600_000_000]


def test_a_start_on_a_node_that_is_down_is_no_load() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()

    stage.disconnect("a", may_return=True)

    assert len(stage.replicas("m")) == 1
    assert stage.core.snapshot(stage.now).load_model.tolist() == []


def test_a_start_from_memory_is_no_load() -> None:
    stage = _stage()
    stage.demand("n", 1)
    stage.settle()
    assert [replica.node for replica in stage.replicas("n")] == ["a"]

    assert stage.core.snapshot(stage.now).load_model.tolist() == []


def test_a_channel_measured_again_is_shown() -> None:
    stage = _stage()

    stage.update("a", channels=(disk("disk@a", bytes_per_second=5e8),))

    speeds = stage.core.snapshot(stage.now).channel_bytes_per_second
    assert speeds.tolist() == [5e8, 1e9]


def test_a_node_without_any_channel_is_shown() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", channels=[], holds=["m"])

    snapshot = stage.core.snapshot(0.0)

    assert snapshot.copy_channel.tolist() == [[-1]]
    assert snapshot.channel_ids == ()


def test_loads_in_flight_show_what_is_left_of_them() -> None:
    stage = _stage()

    stage.update("a", loads=(load_of("m", done_bytes=400_000_000), load_of("unknown")))

    snapshot = stage.core.snapshot(stage.now)
    assert snapshot.load_model.tolist() == [0, -1]
    assert snapshot.load_node.tolist() == [0, 0]
    assert snapshot.load_left_bytes.tolist() == [600_000_000, 1_000_000_000]


def test_a_load_that_is_further_than_its_end_has_nothing_left() -> None:
    stage = _stage()

    stage.update("a", loads=(load_of("m", done_bytes=2, total_bytes=1),))

    assert stage.core.snapshot(stage.now).load_left_bytes.tolist() == [0]


def test_a_load_of_a_copy_elsewhere_on_its_node_is_its_models() -> None:
    stage = Stage()
    stage.deploy("m", content_id="c")
    stage.join("a", holds=[copy_of("m", reference="moved", content_id="c")])

    stage.update("a", loads=(load_of("moved"),))

    assert stage.core.snapshot(stage.now).load_model.tolist() == [0]


def test_memory_that_is_taken_and_workers_that_are_warm_follow_summaries() -> None:
    stage = _stage()
    accounts = PoolAccounts(free_bytes=1, cached_bytes=3 << 30, bound_bytes=0, total_bytes=1 << 40)

    stage.update("a", has_summaries=True, warm_workers={"timed": 1, "other": 4}, accounts=accounts)

    snapshot = stage.core.snapshot(stage.now)
    assert snapshot.node_dram_free_bytes.tolist() == [(1 << 40) - (3 << 30), 1 << 40]
    assert snapshot.warm_workers.tolist() == [[1, 3]]


def test_where_a_start_is_possible() -> None:
    stage = _stage()
    stage.join("c", holds=["n"], engines=["other"])
    stage.join("d", holds=["n"])
    stage.disconnect("d")

    # "a" and "b" hold "n"; "c" lacks the engine, "d" is down.
    assert stage.core.snapshot(stage.now).can_start(1).tolist() == [True, True, False, False]


def test_rows_are_found_by_name() -> None:
    snapshot = _stage().core.snapshot(0.0)

    assert snapshot.node_row(snapshot.node_ids[1]) == 1
    assert snapshot.model_row(ModelId("n")) == 1
    with pytest.raises(ValueError, match="not in tuple"):
        snapshot.model_row(ModelId("unknown"))


def test_a_replica_of_a_deleted_model_has_no_model_row() -> None:
    stage = _stage()
    stage.bring_up("m")

    stage.delete("m")

    assert stage.core.snapshot(stage.now).replica_model.tolist() == [-1]


def test_a_replica_that_its_node_has_not_reported_has_no_node_row() -> None:
    known = KnownReplica(
        replica=ReplicaId("r"),
        model=ModelId("m"),
        node=NodeId("a"),
        devices=1,
        decision=DecisionId("d"),
    )
    stage = Stage(models=[model_of("m")], replicas=[known], is_settled=False)

    assert stage.core.snapshot(0.0).replica_node.tolist() == [-1]


def test_a_table_kept_current_equals_one_built_anew() -> None:
    stage = _stage()
    stage.core.snapshot(stage.now)
    replica = stage.bring_up("m")
    stage.core.snapshot(stage.now)
    stage.report(replica, ReplicaState.STOPPED)
    stage.update("b", loads=(load_of("n"),), replicas=(status_of("stray", "n"),))

    kept, anew = stage.core.snapshot(stage.now), SnapshotBuilder(stage.core.state).build(stage.now)

    assert kept.node_devices_free.tolist() == anew.node_devices_free.tolist()
    assert kept.residency.tolist() == anew.residency.tolist()
    assert kept.replica_ids == anew.replica_ids
    assert ChannelId("disk@b") in kept.channel_ids
