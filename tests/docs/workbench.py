"""Runs the blocks of a page as a reader would, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import yaml
from tests.docs.outputs import missing_lines
from tests.docs.pages import Block, Page
from tests.docs.tiny_models import write_tiny_llama

from pilotlight.process.settings import read_settings
from pilotlight.scheduler.driver.settings import ControllerSettings
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc
from pilotlight.scheduler.simulation.scenarios import load_scenario
from pilotlight.scheduler.testing.local_cluster import ends_with_us
from pilotlight.store_node.settings import NodeSettings

CHECKPOINTS = ("llama-25m", "llama-120m")
_KINDS: Mapping[str, type[msgspec.Struct]] = {
    "ControllerConfig": ControllerSettings,
    "NodeConfig": NodeSettings,
}

_BLOCK_SECONDS = 60.0
_READY_SECONDS = 45.0
_STOP_SECONDS = 15.0
_NEWS_SECONDS = 5.0
_POLL_SECONDS = 0.02

# What may be asked again, for it changes nothing.
_LISTING = re.compile(r"pilotlight (models|nodes|replicas|starts)( .*)?")

# Where pages say that a cluster listens, which is where ours does not.
_HTTP, _GRPC = "127.0.0.1:8000", "127.0.0.1:50051"


@dataclass(slots=True)
class Cluster:
    """What a controller and its nodes are found by."""

    home: Path
    http: str = ""
    grpc: str = ""

    def nodes_up(self) -> int:
        """Return how many nodes the controller has."""
        with grpc.insecure_channel(self.grpc, (("grpc.enable_http_proxy", 0),)) as channel:
            answer = rpc.ControlPlaneStub(channel).ListNodes(pb.ListNodesRequest(), timeout=5)
        return sum(node.state == "up" for node in answer.nodes)

    def forget_models(self) -> None:
        """Delete what another page has deployed."""
        with grpc.insecure_channel(self.grpc, (("grpc.enable_http_proxy", 0),)) as channel:
            stub = rpc.ControlPlaneStub(channel)
            for model in stub.ListModels(pb.ListModelsRequest(), timeout=5).models:
                stub.DeleteModel(pb.DeleteModelRequest(name=model.spec.name), timeout=5)


class Workbench:
    """Runs pages. What several pages start alike is started once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clusters: dict[str, Cluster] = {}
        """By the command that has started them."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self, page: Page) -> None:
        """Run a page's blocks, from the first to the last."""
        folder = self._folder / page.name.replace("/", "-").removesuffix(".md")
        _Run(page, folder, self).run()

    def close(self) -> None:
        """Stop what runs, as Ctrl-C does; AssertionError where something does not end well."""
        wrong: list[str] = []
        # The last one first: nodes before their controller.
        for process in reversed(self.processes):
            process.send_signal(signal.SIGINT)
            code = _wait(process)
            # Who serves was asked to stop; who shows events was cut short.
            wanted = 130 if "pilotlight events" in str(process.args) else 0
            if code != wanted:
                wrong.append(f"{process.args!r} ended with {code}")
        assert not wrong


class _Run:
    """One page."""

    def __init__(self, page: Page, folder: Path, bench: Workbench) -> None:
        self._page = page
        self._folder = folder
        self._bench = bench
        self._cluster = Cluster(folder / "home")
        self._printed = ""
        self._last: Block | None = None
        for number, name in enumerate(CHECKPOINTS):
            write_tiny_llama(folder / ".demo" / "checkpoints" / name, seed=number)

    def run(self) -> None:
        for block in self._page.blocks:
            if block.mark in ("not run", "shown") or block.language.startswith("{"):
                continue
            where = f"{self._page.name}:{block.line}"
            try:
                self._run_block(block)
            except AssertionError as exc:
                raise AssertionError(f"{where}: {exc}") from exc

    def _run_block(self, block: Block) -> None:
        match block.mark, block.language:
            case "output", "text":
                self._compare(block)
            case "file", _:
                self._write(block)
            case "until stopped", "sh":
                self._start(block.text.strip())
            case "" | "fails", "sh" | "python":
                self._execute_block(block)
            case _:
                raise AssertionError(f"nobody knows what to do with {block.language!r} here")

    def _execute(self, command: list[str], block: Block) -> None:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_BLOCK_SECONDS,
        )
        self._printed, self._last = done.stdout, block
        expected = done.returncode in (1, 2) if block.mark == "fails" else done.returncode == 0
        assert expected, f"exit code {done.returncode}:\n{done.stdout}"

    def _compare(self, shown: Block) -> None:
        deadline = time.monotonic() + _NEWS_SECONDS
        while missing := missing_lines(shown.text, self._printed):
            what = f"{missing} is shown; printed was:\n{self._printed}"
            assert self._last is not None, what
            assert _LISTING.fullmatch(self._last.text.splitlines()[-1]), what
            assert time.monotonic() < deadline, what
            # A controller hears of a replica's last request a moment after its client.
            self._execute_block(self._last)

    def _execute_block(self, block: Block) -> None:
        text = self._here(block.text)
        shell = ["bash", "-euo", "pipefail", "-c", text]
        self._execute(shell if block.language == "sh" else [sys.executable, "-c", text], block)

    def _write(self, block: Block) -> None:
        (self._folder / block.detail).write_text(block.text)
        if block.language == "yaml" and not block.detail.startswith("wrong"):
            _check_file(self._folder / block.detail)
        elif block.language == "toml":
            self._install(tomllib.loads(block.text)["project"])

    def _install(self, project: Mapping[str, object]) -> None:
        """Make a package's entry points known, as installing it would."""
        info = self._folder / f"{project['name']}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        groups = project["entry-points"]
        assert isinstance(groups, dict)
        lines = [
            line
            for group, points in groups.items()
            for line in (f"[{group}]", *(f"{name} = {where}" for name, where in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def _start(self, command: str) -> None:
        verb = shlex.split(command)[1]
        # What `up` starts depends on nothing that a page has written.
        if verb == "up" and command in self._bench.clusters:
            self._cluster = self._bench.clusters[command]
            self._cluster.forget_models()
            return
        n_nodes = self._cluster.nodes_up() if verb == "node" else 0
        log = self._folder / f"{verb}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ends_with_us("bash", "-c", f"exec {self._here(command)}"),
                cwd=self._folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._bench.processes.append(process)
        if verb in ("up", "controller"):
            self._await_doors(process, log)
        if verb in ("up", "node"):
            self._await_node(process, log, n_nodes + 1)
        if verb == "up":
            self._bench.clusters[command] = self._cluster

    def _await_doors(self, process: subprocess.Popen[bytes], log: Path) -> None:
        file = self._cluster.home / "controller.json"
        deadline = time.monotonic() + _READY_SECONDS
        while not file.exists():
            _require_alive(process, log, deadline)
            time.sleep(_POLL_SECONDS)
        doors = json.loads(file.read_text())
        self._cluster.http, self._cluster.grpc = doors["http"], doors["grpc"]

    def _await_node(self, process: subprocess.Popen[bytes], log: Path, n_nodes: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while self._cluster.nodes_up() < n_nodes:
            _require_alive(process, log, deadline)
            time.sleep(_POLL_SECONDS)

    def _here(self, text: str) -> str:
        """Return commands with our addresses in the place of the usual ones."""
        cluster = self._cluster
        return text.replace(_HTTP, cluster.http or _HTTP).replace(_GRPC, cluster.grpc or _GRPC)

    def _environ(self) -> dict[str, str]:
        own = {
            "HOME": str(self._folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self._folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PILOTLIGHT_HOME": str(self._cluster.home),
            # Any free port, and no more memory and processes than it takes.
            "PILOTLIGHT_LISTEN": "127.0.0.1:0",
            "PILOTLIGHT_HTTP__LISTEN": "127.0.0.1:0",
            "PILOTLIGHT_DEVICE_BYTES": "64MiB",
            "PILOTLIGHT_DRAM_BYTES": "64MiB",
            "PILOTLIGHT_WARM_WORKERS": "1",
        }
        if self._cluster.grpc:
            own["PILOTLIGHT_CONTROLLER"] = self._cluster.grpc
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not re.match("PILOTLIGHT_|PYTEST_|COV_", name)
        }
        return inherited | own


def _check_file(path: Path) -> None:
    """Read a file as the process would for which it is: the settings of one, or a scenario."""
    kind = yaml.safe_load(path.read_text()).get("kind")
    if kind is None:
        load_scenario(path)
    else:
        read_settings(kind, _KINDS[kind], path=path, environ={}, overrides={})


def _require_alive(process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    assert process.poll() is None, f"it has ended:\n{log.read_text()[-2000:]}"
    assert time.monotonic() < deadline, f"it is not ready:\n{log.read_text()[-2000:]}"


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
