"""A whole node in the test's own process."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pilotlight.native_loader import CHUNK_BYTES
from pilotlight.native_loader.testing import random_tensor, write_checkpoint
from pilotlight.process.quantities import ByteCount
from pilotlight.store_node.protocol import NodeUpdate, ReplicaId, ReplicaState
from pilotlight.store_node.settings import NodeSettings
from pilotlight.store_node.shell.assembly import running_node
from pilotlight.store_node.shell.node import StoreNode
from pilotlight.store_node.testing.client import NodeClient
from pilotlight.store_node.testing.controller import FakeController

CONFIG = {
    "model_type": "llama",
    "max_position_embeddings": 512,
    "vocab_size": 1000,
    "torch_dtype": "float32",
}


def make_checkpoint(directory: Path, *, chunks: int = 1, seed: int = 0) -> Path:
    """Write a checkpoint of random weights that takes so many chunks; return its directory."""
    rng = random.Random(seed)
    n_items = (chunks * CHUNK_BYTES - CHUNK_BYTES // 2) // 4
    write_checkpoint(directory, {"weight": random_tensor(rng, "F32", n_items)})
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHarness:
    """A node with the `timed` engine, the controller it reports to, and a client of it."""

    node: StoreNode
    controller: FakeController
    client: NodeClient
    models: Path

    @classmethod
    @asynccontextmanager
    async def running(
        cls, directory: Path, *, heartbeat_seconds: float = 1.0, **settings: Any
    ) -> AsyncGenerator[NodeHarness]:
        """Run a node below a directory until the block is left; `settings` override."""
        models = directory / "models"
        models.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            controller = FakeController(heartbeat_seconds=heartbeat_seconds)
            await controller.start()
            stack.push_async_callback(controller.stop)
            told = msgspec.structs.replace(
                NodeSettings(
                    name="node",
                    home=directory / "home",
                    controller=controller.address,
                    models=(models,),
                    device_bytes=ByteCount(4 * CHUNK_BYTES),
                    dram_bytes=ByteCount(4 * CHUNK_BYTES),
                    engines=("timed",),
                    probe=False,
                ),
                **settings,
            )
            node = await stack.enter_async_context(running_node(told, {}))
            client = NodeClient(node.address, node.incarnation)
            await stack.enter_async_context(client)
            await controller.wait_for(lambda: bool(controller.reports))
            yield cls(node=node, controller=controller, client=client, models=models)
            if node.failed.done():
                node.failed.result()
            node.check_integrity()

    async def run(self, reference: str, replica: str = "r1", **options: Any) -> None:
        """Bring a replica up to READY; `options` are those of `NodeClient.start`."""
        refusal = await self.client.start(reference, replica, **options)
        assert refusal is None, refusal
        await self.controller.wait_state(replica, ReplicaState.READY)

    async def end(self, replica: str = "r1", *, grace_seconds: float = 0.0) -> None:
        """Stop a replica and wait for its end."""
        assert await self.client.stop(replica, grace_seconds=grace_seconds) is None
        await self.controller.wait_state(replica, ReplicaState.STOPPED)

    def worker_pid(self, replica: str) -> int:
        """Return the process that a replica runs in."""
        pid = self.node.worker_pid(ReplicaId(replica))
        assert pid is not None
        return pid

    async def wait_running(self, n_requests: int, *, seconds: float = 10.0) -> None:
        """Wait until so many requests run on the node, as its heartbeats say.

        Raises:
            TimeoutError: there are others.
        """

        def is_so() -> bool:
            update = self.controller.updates[-1]
            return (
                update.has_summaries
                and sum(each.running for each in update.summaries) == n_requests
            )

        self.controller.updates.append(NodeUpdate())
        await self.controller.wait_for(is_so, seconds=seconds)

    async def wait_warm(self, n_workers: int, *, engine: str = "timed") -> None:
        """Wait until so many workers are ready for a start.

        Raises:
            TimeoutError: there are others.
        """

        def is_so() -> bool:
            update = self.controller.updates[-1]
            return update.warm_workers.get(engine) == n_workers

        self.controller.updates.append(NodeUpdate())
        await self.controller.wait_for(is_so, seconds=30.0)

    def accounts(self) -> tuple[int, int, int]:
        """Return the chunks that are free, DRAM's and the devices'."""
        accounts = self.node.report().accounts
        assert accounts is not None
        return (
            accounts.free_bytes // CHUNK_BYTES,
            accounts.cached_bytes // CHUNK_BYTES,
            accounts.bound_bytes // CHUNK_BYTES,
        )
