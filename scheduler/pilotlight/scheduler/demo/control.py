"""What the demo asks of its controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from pilotlight.scheduler.demo.errors import DemoFailed
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc
from pilotlight.store_node.protocol.channels import open_channel

CALL_SECONDS = 30.0
WAIT_SECONDS = 60.0


class Control:
    """Calls of the control plane, and waiting for what they bring about."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub = control_plane_pb2_grpc.ControlPlaneStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def wait_nodes(self, n_nodes: int, *, workers_each: int) -> None:
        """Wait until so many nodes are up and have their warm workers."""

        async def are_up() -> bool:
            nodes = await self.nodes()
            warm = [node for node in nodes if node.warm_workers >= workers_each]
            return len(warm) >= n_nodes

        await _until(are_up, f"{n_nodes} nodes with warm workers")

    async def deploy(self, name: str, *, keep_alive: str) -> None:
        """Deploy the checkpoint of that name, or change its keep-alive."""
        spec = pb.ModelSpec(name=name, path=name, keep_alive=keep_alive, queue_limit=64)
        await self._stub.DeployModel(pb.DeployModelRequest(spec=spec), timeout=CALL_SECONDS)

    async def evict(self, name: str) -> None:
        """Drop a checkpoint from all DRAM, once no replica uses it, and wait for that."""
        await self.wait_idle()
        await self._stub.EvictModel(pb.EvictModelRequest(name=name), timeout=CALL_SECONDS)

        async def is_out() -> bool:
            models = await self.models()
            return all(not model.dram_nodes for model in models if model.spec.name == name)

        await _until(is_out, f"{name} to leave DRAM")

    async def wait_idle(self) -> None:
        """Wait until no replica holds a device and all workers are warm again."""

        async def is_idle() -> bool:
            if (await self._stub.ListReplicas(pb.ListReplicasRequest())).replicas:
                return False
            return all(node.warm_workers >= node.devices for node in await self.nodes())

        await _until(is_idle, "the cluster to fall idle")

    async def nodes(self) -> list[pb.Node]:
        """Return the nodes that are up."""
        answer = await self._stub.ListNodes(pb.ListNodesRequest(), timeout=CALL_SECONDS)
        return [node for node in answer.nodes if node.state == "up"]

    async def models(self) -> list[pb.Model]:
        """Return the models."""
        answer = await self._stub.ListModels(pb.ListModelsRequest(), timeout=CALL_SECONDS)
        return list(answer.models)

    async def replicas(self) -> list[pb.Replica]:
        """Return the replicas."""
        answer = await self._stub.ListReplicas(pb.ListReplicasRequest(), timeout=CALL_SECONDS)
        return list(answer.replicas)

    async def starts(self) -> list[pb.Start]:
        """Return all finished starts, oldest first."""
        found: list[pb.Start] = []
        token = ""
        while True:
            request = pb.ListStartsRequest(page_size=500, page_token=token)
            answer = await self._stub.ListStarts(request, timeout=CALL_SECONDS)
            found += answer.starts
            token = answer.next_page_token
            if not token:
                return found[::-1]

    async def events(self) -> AsyncIterator[pb.ClusterEvent]:
        """Yield what happens, until the controller stops."""
        try:
            async for event in self._stub.WatchEvents(pb.WatchEventsRequest()):
                yield event
        except grpc.aio.AioRpcError:
            return


async def _until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
    while not await is_so():
        if asyncio.get_running_loop().time() > deadline:
            raise DemoFailed(f"waited {WAIT_SECONDS:g} s for {what} in vain")
        await asyncio.sleep(0.02)
