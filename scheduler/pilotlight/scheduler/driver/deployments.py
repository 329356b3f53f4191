"""Deploys and deletes models: checks what was asked, finds the checkpoint, writes it down."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator

import grpc

from pilotlight.process.quantities import parse_seconds
from pilotlight.scheduler.core.copies import copy_on
from pilotlight.scheduler.core.events import (
    AnyEvent,
    EvictAsked,
    FetchAsked,
    ModelDeleted,
    ModelDeployed,
    NodeUpdated,
)
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import Node
from pilotlight.scheduler.driver.driver import Driver
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.errors import (
    InvalidModel,
    ModelUnavailable,
    NoNodes,
    UnknownCheckpoint,
    UnknownModel,
)
from pilotlight.scheduler.protocol import control_plane_pb2
from pilotlight.scheduler.store import Change, PutModel, RemoveModel, StateStore
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    ModelId,
    NodeId,
    NodeReport,
    NodeUpdate,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels

RESCAN_SECONDS = 5.0
"""Well within the time that a user gives a deployment."""
MOST_REPLICAS = 1000
"""Of one model. Each plan counts them one by one."""

_MOST = (1 << 31) - 1
"""What every database's integer holds."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_Spec = control_plane_pb2.ModelSpec


class Deployments:
    """What users may do to models."""

    def __init__(
        self,
        driver: Driver,
        *,
        store: StateStore,
        channels: Channels,
        files: ExecutionFiles,
        keep_alive: str,
        queue_limit: int,
        wall: Callable[[], float],
    ) -> None:
        self._driver = driver
        self._store = store
        self._channels = channels
        self._files = files
        self._keep_alive = keep_alive
        self._queue_limit = queue_limit
        self._wall = wall
        self._changing = asyncio.Lock()

    async def deploy(self, spec: _Spec) -> Model:
        """Make a model servable, or change the one of that name.

        Raises:
            InvalidModel: a field makes no sense, or the checkpoint can't be run that way.
            UnknownCheckpoint: no node has it, with the reason.
            NoNodes: no node is connected.
        """
        _check(spec)
        async with self._changing:
            model = self._model(spec, await self._find(spec.path))
            self._check_fit(model)
            # Files of the deployment before stay: requests may be reading them.
            self._files.keep_only(self._driver.core.state.models.values())
            await self._change(PutModel(model), ModelDeployed(model=model))
        try:
            await self._files.fetch(model)
        except ModelUnavailable:
            # It is tried again with the first request.
            pass
        return model

    async def delete(self, name: str) -> None:
        """Forget a model.

        Raises:
            UnknownModel: it is not deployed.
        """
        async with self._changing:
            models = self._driver.core.state.models
            if name not in models:
                raise UnknownModel(name, known=list(models))
            await self._change(RemoveModel(name), ModelDeleted(model=ModelId(name)))
            self._files.keep_only(self._driver.core.state.models.values())

    async def fetch(self, name: str, node: str) -> list[NodeId]:
        """Bring a model's checkpoint into the DRAM of a node, or of all that hold it.

        Raises:
            UnknownModel: it is not deployed.
            ModelUnavailable: no such node is up and holds a copy.
        """
        model, nodes = self._holders(name, node)
        self._driver.post(FetchAsked(model=model, nodes=tuple(nodes)))
        return nodes

    async def evict(self, name: str, node: str) -> list[NodeId]:
        """Drop what no replica uses of a model's checkpoint from DRAM; raises as `fetch` does."""
        model, nodes = self._holders(name, node)
        self._driver.post(EvictAsked(model=model, nodes=tuple(nodes)))
        return nodes

    async def _change(self, change: Change, event: AnyEvent) -> None:
        """Write a change and tell the core, also where who asked for it has gone meanwhile."""

        async def write_and_tell() -> None:
            await self._store.apply([change])
            self._driver.post(event)

        await asyncio.shield(asyncio.ensure_future(write_and_tell()))

    def _holders(self, name: str, node: str) -> tuple[ModelId, list[NodeId]]:
        state = self._driver.core.state
        model = state.models.get(ModelId(name))
        if model is None:
            raise UnknownModel(name, known=list(state.models))
        nodes = [n.id for n in self._nodes() if copy_on(state, model, n) and node in ("", n.id)]
        if not nodes:
            raise ModelUnavailable(name, f"no node {node} holds a copy".replace("  ", " "))
        return model.name, nodes

    async def _find(self, path: str) -> CheckpointStatus:
        # What nodes last saw of their disks may be seconds old.
        silent = await self._rescan()
        found = self._usable(path)
        if found is not None:
            return found
        if not self._nodes():
            raise NoNodes
        unasked = f"; {', '.join(silent)} did not answer" if silent else ""
        raise UnknownCheckpoint(path, self._why_not(path) + unasked)

    def _usable(self, path: str) -> CheckpointStatus | None:
        return next((copy for _, copy in self._copies(path) if not copy.quarantine), None)

    def _copies(self, path: str) -> Iterator[tuple[Node, CheckpointStatus]]:
        wanted = os.path.normpath(path)
        for node in self._nodes():
            for copy in node.checkpoints.values():
                if wanted in (copy.reference, os.path.normpath(copy.path)):
                    yield node, copy

    def _nodes(self) -> list[Node]:
        return [node for node in self._driver.core.state.nodes.values() if node.is_up]

    def _why_not(self, path: str) -> str:
        for node, copy in self._copies(path):
            return f"{node.id} says: {copy.quarantine}"
        nodes = self._nodes()
        held = sorted({copy.reference for node in nodes for copy in node.checkpoints.values()})
        some = ", ".join(held[:8]) + (", …" if len(held) > 8 else "")
        hint = f"they hold {some}" if held else "they hold no checkpoint"
        names = ", ".join(node.id for node in nodes)
        return f"there is no checkpoint of that path below the model roots of {names}; {hint}"

    async def _rescan(self) -> list[NodeId]:
        """Let all nodes look at their disks again; return those that did not answer."""
        nodes = self._nodes()
        answered = await asyncio.gather(*map(self._rescan_node, nodes))
        return [node.id for node, has in zip(nodes, answered, strict=True) if not has]

    async def _rescan_node(self, node: Node) -> bool:
        stub = store_node_pb2_grpc.StoreNodeStub(self._channels.get(node.address))
        try:
            answer = await stub.Describe(
                store_node_pb2.DescribeRequest(rescan=True), timeout=RESCAN_SECONDS
            )
        except grpc.aio.AioRpcError:
            # A node that can't answer has nothing new; its session says whether it is up.
            return False
        report = wire.from_message(answer, NodeReport)
        update = NodeUpdate(checkpoints=report.checkpoints, loads=report.loads)
        self._driver.post(NodeUpdated(node=node.id, incarnation=report.incarnation, update=update))
        return True

    def _model(self, spec: _Spec, copy: CheckpointStatus) -> Model:
        context = spec.context_tokens or copy.context_tokens
        if not context:
            raise InvalidModel(
                "the checkpoint's config.json does not say how long a context may be;"
                " give --context-tokens"
            )
        if copy.context_tokens and context > copy.context_tokens:
            raise InvalidModel(
                f"context_tokens = {context} is more than the checkpoint's {copy.context_tokens}"
            )
        return Model(
            name=ModelId(spec.name),
            path=spec.path,
            reference=copy.reference,
            layout_id=copy.layout_id,
            content_id=copy.content_id,
            size_bytes=copy.size_bytes,
            architecture=copy.architecture,
            devices=spec.devices or 1,
            engine=spec.engine or "transformers",
            engine_options=dict(spec.engine_options),
            dtype=spec.dtype or "auto",
            min_replicas=spec.min_replicas,
            max_replicas=spec.max_replicas or max(spec.min_replicas, 1),
            concurrency=spec.concurrency,
            keep_alive_seconds=read_keep_alive(spec.keep_alive or self._keep_alive),
            priority=spec.priority,
            queue_limit=spec.queue_limit or self._queue_limit,
            context_tokens=context,
            deployed_at=self._wall(),
        )

    def _check_fit(self, model: Model) -> None:
        holders = [node for node, copy in self._copies(model.reference) if not copy.quarantine]
        engines = {engine.name for node in holders for engine in node.engines}
        if model.engine not in engines:
            known = ", ".join(sorted(engines)) or "none"
            raise InvalidModel(
                f"no node that holds {model.reference} has the engine {model.engine!r};"
                f" they have {known}"
            )
        most = max(node.resources.devices for node in holders)
        if model.devices > most:
            raise InvalidModel(
                f"a replica is to have {model.devices} devices, and no node that holds"
                f" {model.reference} has more than {most}"
            )


def read_keep_alive(text: str) -> float | None:
    """Return seconds, or None for "load".

    Raises:
        InvalidModel: it is neither.
    """
    if text == "load":
        return None
    try:
        return float(parse_seconds(text))
    except ValueError as exc:
        raise InvalidModel(f"keep_alive: {exc}, or load") from exc


def _check(spec: _Spec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise InvalidModel(
            f"{spec.name!r} can't name a model: at most 128 letters, digits and . _ : / -,"
            " a letter or digit first"
        )
    if not spec.path:
        raise InvalidModel("path is missing: where the checkpoint lies")
    for field in ("min_replicas", "max_replicas"):
        if getattr(spec, field) > MOST_REPLICAS:
            raise InvalidModel(f"{field} = {getattr(spec, field)} is more than {MOST_REPLICAS}")
    for field in ("devices", "concurrency", "queue_limit", "context_tokens"):
        if getattr(spec, field) > _MOST:
            raise InvalidModel(f"{field} = {getattr(spec, field)} is more than {_MOST}")
    if spec.max_replicas and spec.max_replicas < spec.min_replicas:
        raise InvalidModel(
            f"max_replicas = {spec.max_replicas} is less than min_replicas = {spec.min_replicas}"
        )
