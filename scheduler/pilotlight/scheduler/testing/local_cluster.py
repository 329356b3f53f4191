"""A cluster of real processes on this machine: a controller and store nodes, or `pilotlight up`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import httpx

from pilotlight.process import process_table
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc
from pilotlight.scheduler.testing.http_answers import Answer, ask

CALL_SECONDS = 10.0
WAIT_SECONDS = 20.0
STOP_SECONDS = 20.0

_MARK = "LOCAL_CLUSTER"
"""An environment variable that all processes of one cluster share, to find what is left of it."""

_LIFELINE = (
    "import os, sys; from pilotlight.process.lifeline import die_with_parent;"
    " die_with_parent(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
)


def ends_with_us(*command: str) -> list[str]:
    """Return a command that runs another one, which ends with this process however that ends."""
    return [sys.executable, "-c", _LIFELINE, str(os.getpid()), *command]


class LocalCluster:
    """Starts processes, talks to them, and ends them all when the block is left.

    Each has a folder of its own for its data, and a log. `environ` is added to
    the environment of all.
    """

    def __init__(self, folder: Path, *, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.http_url = ""
        self.grpc_address = ""
        self._mark = uuid.uuid4().hex
        self._environ = dict(environ or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._channel: grpc.Channel | None = None
        # A connection for each request: one that was kept may be closed as it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=60.0, trust_env=False, limits=limits)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, at once."""
        self._client.close()
        if self._channel is not None:
            self._channel.close()
        for process in self._processes.values():
            process.kill()
            process.wait()
        for pid in self.leftovers():
            os.kill(pid, signal.SIGKILL)

    # Processes.

    def start_controller(self, *flags: str, name: str = "controller") -> None:
        """Start a controller and wait until its doors are open."""
        self.spawn_controller(*flags, name=name)
        self.wait_doors(name)

    def spawn_controller(self, *flags: str, name: str = "controller") -> None:
        """Start a controller on free ports, unless the flags say otherwise."""
        doors = ["--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
        self.spawn(name, "controller", *doors, *flags)

    def start_node(self, name: str, *flags: str, models: Path, engines: Sequence[str]) -> None:
        """Start a node of the last controller, and wait until it is up with warm workers."""
        self.spawn_node(name, *flags, models=models, engines=engines)
        self.wait_node(name)

    def spawn_node(self, name: str, *flags: str, models: Path, engines: Sequence[str]) -> None:
        """Start a node of the last controller."""
        own = [f"--name={name}", f"--controller={self.grpc_address}", f"--models={models}"]
        self.spawn(name, "node", *own, *(f"--engine={engine}" for engine in engines), *flags)

    def start_up(self, *flags: str, name: str = "up") -> None:
        """Start `pilotlight up` and wait until its doors are open."""
        self.spawn(name, "up", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", *flags)
        self.wait_doors(name)

    def spawn(self, name: str, *arguments: str) -> None:
        """Start `pilotlight` with these arguments."""
        home = self.home(name)
        home.mkdir(parents=True, exist_ok=True)
        (home / "controller.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "pilotlight.scheduler.cli", *arguments]
        with self._log_file(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ends_with_us(*command),
                env=self.environ(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, against the last controller."""
        environ = self.environ(self.folder / "user")
        if self.grpc_address:
            environ["PILOTLIGHT_CONTROLLER"] = self.grpc_address
        return subprocess.run(
            [sys.executable, "-m", "pilotlight.scheduler.cli", *arguments],
            env=environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
        )

    def environ(self, home: Path) -> dict[str, str]:
        """Return the environment of a process: nothing of ours but what was asked for."""
        outside = {k: v for k, v in os.environ.items() if not k.startswith("PILOTLIGHT_")}
        own = {"PILOTLIGHT_HOME": str(home), _MARK: self._mark, "OMP_NUM_THREADS": "1"}
        return outside | own | self._environ

    def set_environ(self, **variables: str) -> None:
        """Add to the environment of all that is started from now on."""
        self._environ |= variables

    def home(self, name: str) -> Path:
        """Return where a process keeps its data."""
        return self.folder / name

    def log(self, name: str) -> str:
        """Return all that a process has written so far."""
        return self._log_file(name).read_text(errors="replace")

    def pid(self, name: str) -> int:
        """Return a process's id."""
        return self._processes[name].pid

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        self._processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """End a process as a power cut would, and wait for that."""
        self.send_signal(name, signal.SIGKILL)
        self.wait_exit(name)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell a process to end; return its exit code."""
        self.send_signal(name, number)
        return self.wait_exit(name)

    def wait_exit(self, name: str, *, seconds: float = STOP_SECONDS) -> int:
        """Wait until a process has ended; return its exit code."""
        return self._processes[name].wait(seconds)

    def is_running(self, name: str) -> bool:
        """Return whether a process has not ended."""
        return self._processes[name].poll() is None

    def leftovers(self) -> list[int]:
        """Return all processes of this cluster that still run, workers included."""
        return process_table.marked(f"{_MARK}={self._mark}")

    def workers(self, node: str) -> list[int]:
        """Return the worker processes of a node, warm ones and those of replicas."""
        below = process_table.below(self.pid(node), self.leftovers())
        # Forked by a zygote each, which is the node's own child.
        return [pid for pid in below if process_table.parent(pid) != self.pid(node)]

    # What they say.

    @property
    def stub(self) -> rpc.ControlPlaneStub:
        """The last controller, for calls of any kind."""
        assert self._channel is not None, "a controller was started"
        return rpc.ControlPlaneStub(self._channel)

    def deploy(self, name: str, path: str = "", **fields: Any) -> pb.Model:
        """Deploy a model; `fields` are those of `ModelSpec`."""
        spec = pb.ModelSpec(name=name, path=path or name, **fields)
        return self.stub.DeployModel(pb.DeployModelRequest(spec=spec), timeout=CALL_SECONDS)

    def nodes(self) -> dict[str, pb.Node]:
        """Return all nodes by name."""
        answer = self.stub.ListNodes(pb.ListNodesRequest(), timeout=CALL_SECONDS)
        return {node.node_id: node for node in answer.nodes}

    def models(self) -> dict[str, pb.Model]:
        """Return all models by name."""
        answer = self.stub.ListModels(pb.ListModelsRequest(), timeout=CALL_SECONDS)
        return {model.spec.name: model for model in answer.models}

    def replicas(self, model: str = "", *, state: str = "") -> list[pb.Replica]:
        """Return the replicas, of one model and in one state or of all."""
        answer = self.stub.ListReplicas(pb.ListReplicasRequest(), timeout=CALL_SECONDS)
        return [r for r in answer.replicas if model in ("", r.model) and state in ("", r.state)]

    def starts(self, model: str = "") -> list[pb.Start]:
        """Return the finished starts, newest first."""
        answer = self.stub.ListStarts(pb.ListStartsRequest(), timeout=CALL_SECONDS)
        return [start for start in answer.starts if model in ("", start.model)]

    def ask(self, model: str, prompt: Sequence[int] | str, **fields: Any) -> Answer:
        """Send one greedy request over HTTP, and read its stream to the end."""
        return ask(self._client, self.http_url, model, prompt, **fields)

    @contextmanager
    def events(self) -> Generator[Iterator[pb.ClusterEvent]]:
        """Yield what happens from now on."""
        call: Any = self.stub.WatchEvents(pb.WatchEventsRequest())
        try:
            yield call
        finally:
            call.cancel()

    # Waiting.

    def wait_doors(self, name: str) -> None:
        """Wait until a controller says where it can be reached, and talk to that one."""
        file = self.home(name) / "controller.json"

        def are_open() -> bool:
            if not self.is_running(name):
                raise AssertionError(f"{name} has ended:\n{self.log(name)}")
            return file.exists()

        self.wait_for(are_open, f"{name} to open its doors")
        doors = json.loads(file.read_text())
        self.http_url, self.grpc_address = f"http://{doors['http']}", doors["grpc"]
        if self._channel is not None:
            self._channel.close()
        options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
        self._channel = grpc.insecure_channel(self.grpc_address, options=options)

    def wait_node(self, name: str, *, workers: int = 1) -> pb.Node:
        """Wait until a node is up and has so many warm workers."""

        def is_up() -> bool:
            node = self.nodes().get(name)
            return node is not None and node.state == "up" and node.warm_workers >= workers

        self.wait_for(is_up, f"{name} to be up")
        return self.nodes()[name]

    def wait_idle(self, model: str = "") -> None:
        """Wait until no replica is left, of one model or of all."""
        self.wait_for(lambda: not self.replicas(model), f"replicas of {model or 'all'} to end")

    def wait_for(
        self, is_so: Callable[[], bool], what: str, *, seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: it is not, in time.
        """
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s for {what} in vain")
            time.sleep(0.02)

    def _log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"
