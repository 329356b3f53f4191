from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pilotlight.scheduler.protocol import control_plane_pb2 as pb

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def start(i: int, **fields: Any) -> pb.Start:
    return pb.Start(replica_id=f"r{i}", model="opt", node_id="n0", tier="ssd", **fields)


def test_lists_nodes(controller: Any, pilotlight: Run) -> None:
    controller.nodes = [
        pb.Node(
            node_id="n0",
            state="up",
            devices=2,
            devices_free=1,
            device_kind="cpu",
            dram_bytes=2 << 30,
            dram_used_bytes=1 << 30,
            checkpoints=6,
            disk_bytes_per_second=2.21e9,
        ),
        pb.Node(node_id="n1", state="down"),
    ]

    _, out, _ = pilotlight("nodes")

    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1] == [
        *("n0", "up", "2", "1", "cpu", "2.00 GiB", "1.00 GiB", "6", "0", "2.21 GB/s")
    ]
    assert cells[2][-1] == "-"  # a disk that was never measured


def test_lists_replicas(controller: Any, pilotlight: Run) -> None:
    controller.replicas = [
        pb.Replica(replica_id="r1", model="opt", state="starting", load_progress=0.42)
    ]

    _, out, _ = pilotlight("replicas")

    assert "42%" in out.splitlines()[1]


def test_lists_starts_with_what_was_expected_of_them(controller: Any, pilotlight: Run) -> None:
    phases = pb.StartPhases(
        queue_seconds=0.5, transfer_seconds=1.0, worker_seconds=0.25, bind_seconds=0.25
    )
    controller.starts = [
        start(1, estimated=phases, measured=phases, ready_seconds=2.5, started_at=1.0),
        start(2, error="the disk failed"),
    ]

    _, out, _ = pilotlight("starts", "-o", "json")

    succeeded, failed = json.loads(out)
    assert succeeded["estimated_ready_seconds"] == 2.0  # 0.5 + 1 + 0.25 + 0.25
    assert succeeded["measured_transfer_seconds"] == 1.0
    assert succeeded["measured_prefill_seconds"] is None  # nobody waited for it
    assert succeeded["first_token_seconds"] is None
    assert failed["estimated_ready_seconds"] is None
    assert failed["measured_queue_seconds"] is None
    assert failed["error"] == "the disk failed"


def test_starts_are_limited_over_pages(controller: Any, pilotlight: Run) -> None:
    controller.starts = [start(i) for i in range(9)]

    _, out, _ = pilotlight("starts", "--limit", "3", "-o", "json")

    assert [row["replica_id"] for row in json.loads(out)] == ["r0", "r1", "r2"]
    assert len(controller.requests) == 2  # two rows a page, and no page more than needed


def test_events_are_lines(controller: Any, pilotlight: Run) -> None:
    controller.events = [
        pb.ClusterEvent(at=1.0, kind="start_done", model="opt", text="opt is ready on n0"),
        pb.ClusterEvent(at=2.0, kind="node_down", node_id="n0", text="n0 is down"),
    ]

    _, table, _ = pilotlight("events")
    _, lines, _ = pilotlight("events", "-o", "json")

    assert table.splitlines()[0].endswith("  start_done       opt is ready on n0")
    assert [json.loads(line)["kind"] for line in lines.splitlines()] == ["start_done", "node_down"]


def test_events_show_the_last_lines_of_a_worker_that_died(controller: Any, pilotlight: Run) -> None:
    said = "".join(f"line {number}\n" for number in range(20))
    controller.events = [pb.ClusterEvent(at=2.0, kind="start_failed", text="no", log_tail=said)]

    _, table, _ = pilotlight("events")
    _, line, _ = pilotlight("events", "-o", "json")

    assert table.splitlines()[1:] == [f"    | line {number}" for number in range(15, 20)]
    assert json.loads(line)["log_tail"] == said
