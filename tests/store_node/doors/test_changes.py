from __future__ import annotations

import asyncio

from pilotlight.store_node.doors.changes import Changes
from pilotlight.store_node.protocol import Channel, ChannelId, Reference, ReplicaId
from pilotlight.store_node.testing import NodeCase


async def test_many_changes_of_one_thing_are_one_as_it_is_now() -> None:
    case, changes = NodeCase(), Changes()
    llama = case.checkpoint("llama")
    case.start(llama)
    changes.note_replica(ReplicaId("r1"))
    changes.note_checkpoint(llama)
    case.finish_load(llama)
    changes.note_checkpoint(llama)

    update = changes.take(case.core.reports)

    assert update is not None
    assert [each.replica_id for each in update.replicas] == ["r1"]
    [status] = update.checkpoints
    assert status.bound_bytes == 2_000
    assert not update.has_summaries
    assert changes.take(case.core.reports) is None


async def test_what_is_gone_is_said_to_be_gone() -> None:
    case, changes = NodeCase(), Changes()
    llama = case.checkpoint("llama")
    case.remove_checkpoint(llama)
    changes.note_checkpoint(llama)

    update = changes.take(case.core.reports)

    assert update is not None
    assert update.removed_checkpoints == (Reference("llama"),)


async def test_every_update_lists_all_loads() -> None:
    case, changes = NodeCase(), Changes()
    case.fetch(case.checkpoint("llama"))
    changes.note_checkpoint(case.checkpoint("qwen"))

    update = changes.take(case.core.reports)

    assert update is not None
    assert [each.reference for each in update.loads] == ["llama"]


async def test_a_full_report_makes_what_was_noted_superfluous() -> None:
    case, changes = NodeCase(), Changes()
    channel = Channel(
        channel_id=ChannelId("d"),
        kind="disk",
        bytes_per_second=1e9,
        latency_seconds=1e-4,
        measured=True,
    )
    changes.note_channel(channel)
    waiting = asyncio.ensure_future(changes.wait_taken())
    await asyncio.sleep(0)

    changes.clear()

    await waiting
    assert changes.take(case.core.reports) is None


async def test_an_idle_replica_is_a_matter_for_the_heartbeat_alone() -> None:
    case, changes = NodeCase(), Changes()

    changes.note_idle()
    await changes.wait()

    assert changes.is_idle_noted
    assert changes.take(case.core.reports) is None
    assert changes.is_idle_noted, "only a heartbeat says who is idle"
    changes.clear_idle()
    assert not changes.is_idle_noted
