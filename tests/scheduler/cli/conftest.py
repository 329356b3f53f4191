from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import pytest

from pilotlight.scheduler.cli.program import run
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc

Run = Callable[..., tuple[int, str, str]]


class FakeController(rpc.ControlPlaneServicer):
    """Answers from lists, two rows a page at most, and remembers what it was asked."""

    def __init__(self) -> None:
        self.models: list[pb.Model] = []
        self.nodes: list[pb.Node] = []
        self.replicas: list[pb.Replica] = []
        self.starts: list[pb.Start] = []
        self.events: list[pb.ClusterEvent] = []
        self.watches_last = False
        self.requests: list[Any] = []
        self.was_asked = Event()
        self.refusal: tuple[grpc.StatusCode, str] | None = None

    def DeployModel(self, request: pb.DeployModelRequest, context: Any) -> pb.Model:
        self._receive(request, context)
        return pb.Model(
            spec=request.spec, size_bytes=3 << 20, architecture="opt", ssd_nodes=["n0", "n1"]
        )

    def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> pb.DeleteModelResponse:
        self._receive(request, context)
        return pb.DeleteModelResponse()

    def FetchModel(self, request: pb.FetchModelRequest, context: Any) -> Any:
        self._receive(request, context)
        return pb.FetchModelResponse()

    def EvictModel(self, request: pb.EvictModelRequest, context: Any) -> Any:
        self._receive(request, context)
        return pb.EvictModelResponse()

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        rows, token = self._page(self.models, request, context)
        return pb.ListModelsResponse(models=rows, next_page_token=token)

    def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        rows, token = self._page(self.nodes, request, context)
        return pb.ListNodesResponse(nodes=rows, next_page_token=token)

    def ListReplicas(
        self, request: pb.ListReplicasRequest, context: Any
    ) -> pb.ListReplicasResponse:
        rows, token = self._page(self.replicas, request, context)
        return pb.ListReplicasResponse(replicas=rows, next_page_token=token)

    def ListStarts(self, request: pb.ListStartsRequest, context: Any) -> pb.ListStartsResponse:
        rows, token = self._page(self.starts, request, context)
        return pb.ListStartsResponse(starts=rows, next_page_token=token)

    def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> Iterator[pb.ClusterEvent]:
        self._receive(request, context)
        yield from self.events
        if self.watches_last:
            ended = Event()
            context.add_callback(ended.set)
            ended.wait(60)

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Any:
        self._receive(request, context)
        return iter(())

    def _receive(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.was_asked.set()
        if self.refusal is not None:
            context.abort(*self.refusal)

    def _page(self, rows: list[Any], request: Any, context: Any) -> tuple[list[Any], str]:
        self._receive(request, context)
        first = int(request.page_token or 0)
        end = first + min(request.page_size, 2)
        return rows[first:end], str(end) if end < len(rows) else ""


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeController]:
    """Yield a controller; the command line finds it by the environment."""
    fake = FakeController()
    with ThreadPoolExecutor(max_workers=4) as threads:
        server = grpc.server(threads)
        rpc.add_ControlPlaneServicer_to_server(fake, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        monkeypatch.setenv("PILOTLIGHT_CONTROLLER", f"127.0.0.1:{port}")
        yield fake
        server.stop(None).wait()


@pytest.fixture
def pilotlight(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command line: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
