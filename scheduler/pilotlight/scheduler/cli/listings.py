"""Verbs that show what the cluster has: nodes, replicas, starts."""

from __future__ import annotations

from itertools import islice

import click

from pilotlight.process import tables
from pilotlight.process.commands import output_option
from pilotlight.process.ports import Address
from pilotlight.scheduler.cli.controller import PAGE_ROWS, connected, controller_option, pages

NODE_COLUMNS = (
    tables.text("node_id", "NODE"),
    tables.text("state"),
    tables.number("devices"),
    tables.number("devices_free", "FREE"),
    tables.text("device_kind", "KIND"),
    tables.size("dram_bytes"),
    tables.size("dram_used_bytes", "DRAM USED"),
    tables.number("checkpoints"),
    tables.number("warm_workers"),
    tables.rate("disk_bytes_per_second", "DISK"),
    tables.seconds("silent_seconds", "SILENT", wide_only=True),
    tables.text("address", wide_only=True),
    tables.text("incarnation", wide_only=True),
    tables.text("version", wide_only=True),
    tables.text("quarantined", wide_only=True),
)
REPLICA_COLUMNS = (
    tables.text("replica_id", "REPLICA"),
    tables.text("model"),
    tables.text("node_id", "NODE"),
    tables.text("state"),
    tables.number("running"),
    tables.seconds("age_seconds"),
    tables.seconds("idle_seconds"),
    tables.share("load_progress", "LOADED"),
    tables.number("devices", wide_only=True),
    tables.number("concurrency", wide_only=True),
    tables.text("error"),
)
START_COLUMNS = (
    tables.moment("started_at"),
    tables.text("model"),
    tables.text("node_id", "NODE"),
    tables.text("tier"),
    tables.size("size_bytes"),
    tables.seconds("estimated_ready_seconds", "ESTIMATED"),
    tables.seconds("ready_seconds"),
    tables.seconds("measured_queue_seconds", "QUEUE"),
    tables.seconds("measured_transfer_seconds", "TRANSFER"),
    tables.seconds("measured_worker_seconds", "WORKER"),
    tables.seconds("measured_bind_seconds", "BIND"),
    tables.seconds("measured_handover_seconds", "HANDOVER"),
    tables.seconds("measured_prefill_seconds", "PREFILL"),
    tables.seconds("first_token_seconds"),
    tables.size("bytes_read", "READ", wide_only=True),
    tables.text("checksum", wide_only=True),
    tables.text("bottleneck", wide_only=True),
    tables.text("replica_id", "REPLICA", wide_only=True),
    tables.text("decision_id", "DECISION", wide_only=True),
    tables.text("error"),
)
_PHASES_UNTIL_READY = ("queue", "transfer", "worker", "bind")


@click.command()
@output_option
@controller_option
def nodes(output: tables.OutputFormat, controller: Address) -> None:
    """List nodes with their devices, DRAM and disks."""
    from pilotlight.scheduler.cli.rows import flat_row
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        rows = [
            flat_row(node)
            for page in pages(stub.ListNodes, pb.ListNodesRequest)
            for node in page.nodes
        ]
    for row in rows:
        # 0 = unknown on the wire.
        row["disk_bytes_per_second"] = row["disk_bytes_per_second"] or None
    tables.write_rows(rows, NODE_COLUMNS, format=output, empty="no node is connected")


@click.command()
@output_option
@controller_option
def replicas(output: tables.OutputFormat, controller: Address) -> None:
    """List replicas with their states."""
    from pilotlight.scheduler.cli.rows import flat_row
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        rows = [
            flat_row(replica)
            for page in pages(stub.ListReplicas, pb.ListReplicasRequest)
            for replica in page.replicas
        ]
    tables.write_rows(rows, REPLICA_COLUMNS, format=output, empty="no replica runs")


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How many, from the newest.",
)
@output_option
@controller_option
def starts(limit: int, output: tables.OutputFormat, controller: Address) -> None:
    """List finished starts, newest first, estimated beside measured."""
    from pilotlight.scheduler.cli.rows import Row, flat_row
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    def complete(row: Row) -> Row:
        phases = [row[f"estimated_{phase}_seconds"] for phase in _PHASES_UNTIL_READY]
        row["estimated_ready_seconds"] = None if None in phases else sum(phases)
        return row

    with connected(controller) as stub:
        found = (
            complete(flat_row(start))
            for page in pages(
                stub.ListStarts, pb.ListStartsRequest, page_rows=min(limit, PAGE_ROWS)
            )
            for start in page.starts
        )
        rows = list(islice(found, limit))
    tables.write_rows(rows, START_COLUMNS, format=output, empty="nothing has been started yet")
