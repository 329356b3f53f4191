"""The users' gRPC service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from pilotlight.scheduler.driver import listings
from pilotlight.scheduler.driver.deployments import Deployments
from pilotlight.scheduler.driver.driver import Driver
from pilotlight.scheduler.errors import InvalidRequest, SchedulerError
from pilotlight.scheduler.gateway.text.generate_rpc import generate_responses
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc
from pilotlight.scheduler.protocol.statuses import status_of
from pilotlight.scheduler.store import StartPosition, StateStore

DEFAULT_PAGE_ROWS = 100
MOST_PAGE_ROWS = 1000

T = TypeVar("T")
_Context = grpc.aio.ServicerContext[Any, Any]


class ControlPlane(control_plane_pb2_grpc.ControlPlaneServicer):
    """Answers users; every expected error becomes a status with details."""

    def __init__(
        self,
        driver: Driver,
        *,
        deployments: Deployments,
        store: StateStore,
        generator: TextGenerator,
        clock: Callable[[], float],
    ) -> None:
        self._driver = driver
        self._deployments = deployments
        self._store = store
        self._generator = generator
        self._clock = clock

    async def DeployModel(self, request: pb.DeployModelRequest, context: _Context) -> pb.Model:
        """Make a model known and servable, or change its limits."""
        model = await _answer(self._deployments.deploy(request.spec), context)
        return listings.model_message(self._driver.core.state, model)

    async def DeleteModel(
        self, request: pb.DeleteModelRequest, context: _Context
    ) -> pb.DeleteModelResponse:
        """Forget a model."""
        await _answer(self._deployments.delete(request.name), context)
        return pb.DeleteModelResponse()

    async def FetchModel(
        self, request: pb.FetchModelRequest, context: _Context
    ) -> pb.FetchModelResponse:
        """Bring a model's checkpoint into DRAM."""
        nodes = await _answer(self._deployments.fetch(request.name, request.node_id), context)
        return pb.FetchModelResponse(node_ids=nodes)

    async def EvictModel(
        self, request: pb.EvictModelRequest, context: _Context
    ) -> pb.EvictModelResponse:
        """Drop what no replica uses of a model's checkpoint from DRAM."""
        nodes = await _answer(self._deployments.evict(request.name, request.node_id), context)
        return pb.EvictModelResponse(node_ids=nodes)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """List models by name."""
        state = self._driver.core.state
        names, token = _page(sorted(state.models), request.page_token, request.page_size)
        models = [listings.model_message(state, state.models[name]) for name in names]
        return pb.ListModelsResponse(models=models, next_page_token=token)

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: _Context
    ) -> pb.ListNodesResponse:
        """List nodes by name."""
        state, now = self._driver.core.state, self._clock()
        names, token = _page(sorted(state.nodes), request.page_token, request.page_size)
        nodes = [listings.node_message(state, state.nodes[name], now=now) for name in names]
        return pb.ListNodesResponse(nodes=nodes, next_page_token=token, epoch=state.epoch)

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: _Context
    ) -> pb.ListReplicasResponse:
        """List replicas by id."""
        state, now = self._driver.core.state, self._clock()
        ids, token = _page(sorted(state.replicas), request.page_token, request.page_size)
        replicas = [listings.replica_message(state, state.replicas[id_], now=now) for id_ in ids]
        return pb.ListReplicasResponse(replicas=replicas, next_page_token=token)

    async def ListStarts(
        self, request: pb.ListStartsRequest, context: _Context
    ) -> pb.ListStartsResponse:
        """List finished starts, newest first."""
        return await _answer(self._list_starts(request), context)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[pb.ClusterEvent]:
        """Stream what happens from now on."""
        async with aclosing(self._driver.watchers.watch()) as occurrences:
            async for occurrence in occurrences:
                what = occurrence.what
                yield pb.ClusterEvent(
                    at=occurrence.at,
                    kind=what.kind,
                    node_id=what.node or "",
                    model=what.model or "",
                    replica_id=what.replica or "",
                    decision_id=what.decision or "",
                    text=what.text,
                    log_tail=what.log_tail,
                )

    async def Generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Run one request and stream its text."""
        try:
            async with aclosing(generate_responses(self._generator, request)) as responses:
                async for response in responses:
                    yield response
        except SchedulerError as exc:
            await context.abort_with_status(status_of(exc))

    async def _list_starts(self, request: pb.ListStartsRequest) -> pb.ListStartsResponse:
        limit = _page_rows(request.page_size)
        starts = await self._store.list_starts(limit, before=_position(request.page_token))
        token = ""
        if len(starts) == limit:
            last = starts[-1].position
            token = f"{last.started_at!r}/{last.replica_id}"
        return pb.ListStartsResponse(
            starts=map(listings.start_message, starts), next_page_token=token
        )


async def _answer(work: Awaitable[T], context: _Context) -> T:
    try:
        return await work
    except SchedulerError as exc:
        await context.abort_with_status(status_of(exc))
        raise


def _page_rows(asked: int) -> int:
    return min(asked or DEFAULT_PAGE_ROWS, MOST_PAGE_ROWS)


def _page(names: Sequence[str], token: str, size: int) -> tuple[list[Any], str]:
    """Return the names after `token`, and the next token: the last name, or empty at the end."""
    limit = _page_rows(size)
    after = [name for name in names if name > token]
    page = after[:limit]
    return page, page[-1] if len(after) > limit else ""


def _position(token: str) -> StartPosition | None:
    if not token:
        return None
    at, separator, replica = token.partition("/")
    try:
        if not separator:
            raise ValueError
        return StartPosition(float(at), replica)
    except ValueError as exc:
        raise InvalidRequest(f"no such page: {token!r}", param="page_token") from exc
