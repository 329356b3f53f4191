"""What is said of a node that does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from pilotlight.process.bench.errors import BenchFailed
from pilotlight.scheduler.testing.rpc_errors import broken, refused
from pilotlight.store_node.bench.nodes import BenchNode
from pilotlight.store_node.bench.registry import Registry
from pilotlight.store_node.protocol import ReplicaId
from pilotlight.store_node.protocol.refusals import ErrorCode


class Stub:
    """Fails every call."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    async def StopReplica(self, message: object, *, timeout: float) -> None:
        raise self._error


def node(registry: Registry, error: grpc.aio.AioRpcError) -> BenchNode:
    stub: Any = Stub(error)
    return BenchNode(registry, stub)


async def test_a_node_that_has_ended_is_said_to_have_rather_than_to_be_out_of_reach() -> None:
    registry = Registry()
    # It is noticed a moment after the connection broke.
    asyncio.get_running_loop().call_soon(registry.lose, "a node has ended with exit code 1: why")

    with pytest.raises(BenchFailed, match=r"^a node has ended with exit code 1: why$"):
        await node(registry, broken()).stop(ReplicaId("r1"))


async def test_what_a_node_refuses_is_told_in_its_words() -> None:
    error = refused(ErrorCode.UNKNOWN_REPLICA, "no replica 'r1'")

    with pytest.raises(BenchFailed, match=r"^the node refused: no replica 'r1'$"):
        await node(Registry(), error).stop(ReplicaId("r1"))
