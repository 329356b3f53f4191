"""What is wrong gets one clear line, at every door, and the process goes on.

A thin row, end to end; which rules there are is tested beside each parser.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pilotlight.native_loader.testing import RawTensor, safetensors_bytes
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.testing.harness import make_checkpoint

pytestmark = pytest.mark.integration

PROMPT = (1, 2, 3)
GOOD = {"model": "a", "prompt": list(PROMPT), "max_tokens": 2}
CONTEXT_TOKENS = 256
"""Of "spoken"."""

HUNDRED_MB = 100 << 20
SOME_MB = 32 << 20

STALL_SECONDS = 0.5
WORDY = "endless-" + "x" * 120
"""A long name makes long events, which fill the buffers of a client soon."""


def one_tensor(*, dtype: str = "U8", end: int = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [4], "data_offsets": [end - 4, end]}


def with_header(header: str, *, length: int | None = None) -> bytes:
    """Return a file of four bytes of data behind that header."""
    raw = header.encode()
    return (length or len(raw)).to_bytes(8, "little") + raw + b"data"


WHOLE = safetensors_bytes({"w": RawTensor(dtype="U8", shape=(64,), data=b"." * 64)})
FOUR_BYTES = json.dumps(one_tensor())
CORRUPT = {
    "truncated": (WHOLE[:-1], "holds 63 bytes of data, and its tensors need 64"),
    "header-longer-than-file": (with_header("{}", length=1000), "header of 1,000 bytes, longer"),
    "header-of-1-gb": (with_header("{}", length=1 << 30), "header of 1,073,741,824 bytes; the"),
    "overlapping": (
        with_header(json.dumps({"w": one_tensor(), "v": one_tensor(end=6)})),
        "tensor 'v' overlaps the one before it",
    ),
    "out-of-range": (
        with_header(json.dumps({"w": one_tensor(), "v": one_tensor(end=8)})),
        "holds 4 bytes of data, and its tensors need 8",
    ),
    "unknown-dtype": (
        with_header(json.dumps({"w": one_tensor(dtype="Q7")})),
        "tensor 'w' has the unknown dtype 'Q7'",
    ),
    "duplicate-names": (with_header(f'{{"w": {FOUR_BYTES}, "w": {FOUR_BYTES}}}'), "'w' twice"),
    "no-json": (with_header("{w}"), "holds no valid JSON"),
}
"""Weight files, and what is said of them."""

NOTHING_PACKED = {
    "format": "pilotlight-packed",
    "version": 1,
    "content_id": "0" * 64,
    "layout_id": hashlib.sha256(b"pilotlight layout 1 packed\n").hexdigest(),
    "chunk_bytes": 16 << 20,
    "aliases": {},
    "partitions": [],
    "tensors": {},
}
"""A manifest that contradicts nothing beside it."""


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model root with all that can't be deployed, and some that go bad later."""
    root = tmp_path_factory.mktemp("bad") / "models"
    for name, (data, _) in CORRUPT.items():
        make_checkpoint(root / name)
        (root / name / "model.safetensors").write_bytes(data)
    for name in ("never-used", "used", "endless", "boundless", os.fsdecode(b"model\xe9")):
        make_checkpoint(root / name)
    config = json.loads((root / "endless" / "config.json").read_text())
    config["max_position_embeddings"] = 1 << 20
    (root / "endless" / "config.json").write_text(json.dumps(config))
    config["max_position_embeddings"] = 1 << 40
    (root / "boundless" / "config.json").write_text(json.dumps(config))
    (root / "nothing-packed").mkdir()
    (root / "nothing-packed" / "manifest.json").write_text(json.dumps(NOTHING_PACKED))
    (root / "pickle").mkdir()
    (root / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    make_checkpoint(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    return root


@pytest.fixture(scope="module")
def running(
    shared_cluster: LocalCluster, spoken_model: Path, bad_models: Path
) -> Iterator[LocalCluster]:
    """Yield a cluster of one node with both engines."""
    shared_cluster.set_environ(
        PILOTLIGHT_ENGINES="[timed, transformers]",
        PILOTLIGHT_HTTP__STALL_SECONDS=f"{STALL_SECONDS}s",
    )
    roots = (f"--models={spoken_model.parent}", f"--models={bad_models}")
    shared_cluster.start_up(*roots, "--devices=4")
    shared_cluster.wait_node("node-1", workers=4)
    shared_cluster.deploy("a", engine="timed", keep_alive="1h")
    shared_cluster.deploy("spoken")
    yield shared_cluster
    assert shared_cluster.stop("up") == 0


@pytest.fixture
def up(running: LocalCluster) -> Iterator[LocalCluster]:
    """Yield the cluster; whatever a test did to it, it goes on, and no bug has shown."""
    yield running
    good = running.ask("a", PROMPT)
    assert (good.status, good.ids) == (
        200,
        list(expected_ids(PROMPT, 8, salt="a", vocabulary=1000)),
    )
    assert "Traceback" not in running.log("up")


class RawClient:
    """Speaks HTTP as badly as a test wants."""

    def __init__(self, cluster: LocalCluster) -> None:
        where = httpx.URL(cluster.http_url)
        self._socket = socket.socket()
        # Small, so that what is not read stays with the server.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(10.0)
        self._socket.connect((where.host, where.port))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def stream(self, body: dict[str, Any]) -> None:
        """Ask for a stream, and read nothing of it."""
        data = json.dumps({**body, "stream": True, "ignore_eos": True}).encode()
        self._send_headers(f"content-length: {len(data)}")
        self._socket.sendall(data)

    def read_to(self, mark: bytes) -> bytes:
        """Return the answer up to something, or to its end."""
        answer = b""
        while mark not in answer and (data := self._socket.recv(1 << 16)):
            answer += data
        return answer

    def send_until_answered(self, n_bytes: int, *, is_chunked: bool) -> tuple[int, bytes]:
        """Send a body until the server says something; return how much of it, and what."""
        self._send_headers(
            "transfer-encoding: chunked" if is_chunked else f"content-length: {n_bytes}"
        )
        block, n_sent = b" " * (1 << 16), 0
        data = b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block
        while n_sent < n_bytes:
            answered, _, _ = select.select([self._socket], [self._socket], [], 10.0)
            if answered:
                break
            self._socket.sendall(data)
            n_sent += len(block)
        return n_sent, self.read_to(b"}}")

    def _send_headers(self, length: str) -> None:
        lines = [
            "POST /v1/completions HTTP/1.1",
            "host: x",
            "content-type: application/json",
            length,
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())


def peak_memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def wait_requests(cluster: LocalCluster, model: str, n_requests: int, *, seconds: float) -> None:
    """Wait until so many requests run on a model's replica, as its node says each second."""
    cluster.wait_for(
        lambda: (
            [replica.running for replica in cluster.replicas(model, state="ready")] == [n_requests]
        ),
        f"{n_requests} requests of {model}",
        seconds=seconds,
    )


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Return the code that a call is refused with, its reason in a word, and in words."""
    with pytest.raises(grpc.RpcError) as refusal:
        call()
    error: Any = refusal.value
    status: Any = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "scheduler.pilotlight"
    assert "\n" not in error.details()
    return error.code(), info.reason, error.details()


def assert_one_line(done: CompletedProcess[str], said: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# HTTP.


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({**GOOD, "model": "nobody"}, 404, "model_not_found", "model"),
        (b'{"model": "a", "prompt": [1', 400, None, None),
        (b"[" * 100_000, 400, None, None),
        (b'{"model": "a", "prompt": "\xff"}', 400, None, None),
        ({**GOOD, "prompt": [1] * 512}, 400, "context_length_exceeded", "prompt"),
        (
            {**GOOD, "model": "spoken", "prompt": "x" * CONTEXT_TOKENS},
            400,
            "context_length_exceeded",
            "prompt",
        ),
        ({**GOOD, "prompt": {"text": "x"}}, 400, None, "prompt"),
        ({**GOOD, "prompt": [1 << 40]}, 400, None, "prompt"),
        ({**GOOD, "max_tokens": "two"}, 400, None, "max_tokens"),
        ({**GOOD, "temperature": [0]}, 400, None, "temperature"),
        ({**GOOD, "stream": "yes"}, 400, None, "stream"),
        ({**GOOD, "stop": [1]}, 400, None, "stop[0]"),
    ],
)
def test_a_bad_request_is_refused_in_openais_form(
    up: LocalCluster, body: dict[str, Any] | bytes, status: int, code: str | None, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}

    answer = httpx.post(f"{up.http_url}/v1/completions", content=content, headers=headers)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert error["message"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_100_mb_is_refused_before_all_of_it_has_come(
    up: LocalCluster, is_chunked: bool
) -> None:
    before = peak_memory_bytes(up.pid("up"))

    with RawClient(up) as client:
        n_sent, answer = client.send_until_answered(HUNDRED_MB, is_chunked=is_chunked)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"body_too_large"' in answer
    # The limit of 4 MiB, and what the kernel takes of it that nobody has read.
    assert n_sent < SOME_MB
    assert peak_memory_bytes(up.pid("up")) - before < SOME_MB


def test_a_client_that_never_reads_is_cut_and_fills_no_memory(up: LocalCluster) -> None:
    quick = {"decode_seconds": "0"}
    up.deploy(WORDY, "endless", engine="timed", concurrency=1, engine_options=quick)
    before = peak_memory_bytes(up.pid("up"))

    with RawClient(up) as client:
        client.stream({**GOOD, "model": WORDY, "max_tokens": 1 << 20, "logprobs": 1})
        wait_requests(up, WORDY, 1, seconds=10.0)
        # To its end it would take 100 s: 2^20 tokens, 0.1 ms each.
        wait_requests(up, WORDY, 0, seconds=20.0)

    assert up.ask(WORDY, PROMPT).status == 200
    assert '"error":"client_gone"' in up.log("up")
    assert peak_memory_bytes(up.pid("up")) - before < SOME_MB


def test_a_client_that_leaves_in_the_midst_of_a_stream_frees_its_slot(up: LocalCluster) -> None:
    up.deploy("left", "b", engine="timed", concurrency=1, engine_options={"decode_seconds": "0.1"})

    with RawClient(up) as client:
        client.stream({**GOOD, "model": "left", "max_tokens": 400})
        assert client.read_to(b"data: ").startswith(b"HTTP/1.1 200")
        wait_requests(up, "left", 1, seconds=5.0)

    # To its end it would take 40 s.
    wait_requests(up, "left", 0, seconds=5.0)
    assert up.ask("left", PROMPT, max_tokens=1).status == 200


# gRPC.


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "there is no checkpoint of that path"),
        ("/etc/hostname", "there is no checkpoint of that path"),
        ("../outside", "there is no checkpoint of that path"),
        ("{root}/../outside", "there is no checkpoint of that path"),
        ("link", "{root}/link: leads outside "),
        ("pickle", "{root}/pickle/pytorch_model.bin: is a pickle, which is never opened"),
        ("nothing-packed", "{root}/nothing-packed/manifest.json: names no weight files"),
    ],
)
def test_a_path_that_is_no_checkpoint_can_t_be_deployed(
    up: LocalCluster, bad_models: Path, path: str, said: str
) -> None:
    path = path.format(root=bad_models)

    code, reason, message = refused(lambda: up.deploy("m", path))

    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UnknownCheckpoint")
    assert message.startswith(f"no node can load {path!r}: ")
    assert said.format(root=bad_models) in message
    assert "m" not in up.models()


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_checkpoint_is_refused_with_its_file_and_fault(
    up: LocalCluster, bad_models: Path, name: str
) -> None:
    code, reason, message = refused(lambda: up.deploy("m", name))

    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UnknownCheckpoint")
    assert f"{bad_models}/{name}/model.safetensors: " in message
    assert CORRUPT[name][1] in message
    assert "m" not in up.models()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "'' can't name a model"),
        ({"name": "../m"}, "'../m' can't name a model"),
        ({"name": "m\n; rm"}, r"'m\n; rm' can't name a model"),
        ({"name": "m" * 129}, "at most 128"),
        ({"engine": "steam"}, "engine 'steam'; they have timed, transformers"),
        ({"devices": 5}, "is to have 5 devices"),
        ({"keep_alive": "soon"}, "keep_alive: expected a duration"),
        ({"context_tokens": 513}, "context_tokens = 513 is more than the checkpoint's 512"),
        ({"path": "boundless"}, "config.json does not say how long a context may be"),
    ],
)
def test_a_deployment_that_makes_no_sense_is_refused(
    up: LocalCluster, fields: dict[str, Any], said: str
) -> None:
    before = set(up.models())

    code, reason, message = refused(lambda: up.deploy(**{"name": "m", "path": "b", **fields}))

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidModel")
    assert said in message
    assert set(up.models()) == before


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.GenerateRequest(model="nobody", text="x"), "NOT_FOUND", "UnknownModel"),
        (pb.GenerateRequest(model="a"), "INVALID_ARGUMENT", "InvalidRequest"),
        (
            pb.GenerateRequest(model="a", tokens=pb.TokenPrompt(ids=[1] * 512)),
            "INVALID_ARGUMENT",
            "InvalidRequest",
        ),
    ],
    ids=["unknown model", "no prompt", "too long"],
)
def test_a_bad_call_of_generate_has_a_status_with_details(
    up: LocalCluster, request_: pb.GenerateRequest, code: str, reason: str
) -> None:
    told = refused(lambda: list(up.stub.Generate(request_, timeout=10.0)))

    assert told[:2] == (grpc.StatusCode[code], reason)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deploy", "m", "nothing"), "no node can load 'nothing': "),
        (("deploy", "m", "pickle"), "is a pickle, which is never opened"),
        (("deploy", "m", "truncated"), "truncated/model.safetensors: holds 63 bytes"),
        (("deploy", "m", "b", "--engine=steam"), "engine 'steam'; they have timed, transformers"),
        (("deploy", "../m", "b"), "'../m' can't name a model"),
        (("delete", "nobody"), "no model 'nobody' is deployed"),
        (("chat", "nobody", "Hello"), "no model 'nobody' is deployed"),
        (("chat", "spoken", "x" * CONTEXT_TOKENS), "the model's context of 256"),
    ],
)
def test_a_verb_that_is_refused_says_one_line(
    up: LocalCluster, arguments: Sequence[str], said: str
) -> None:
    assert_one_line(up.run(*arguments), said)


def test_wrong_usage_of_a_verb_is_told_from_a_refusal(up: LocalCluster) -> None:
    done = up.run("deploy", "m", "b", "--devices=none")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--devices" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("verb", ["controller", "up"])
@pytest.mark.parametrize("door", ["--listen", "--http"])
def test_a_port_in_use_is_one_line(up: LocalCluster, verb: str, door: str) -> None:
    taken = {"--listen": up.grpc_address, "--http": up.http_url.removeprefix("http://")}[door]
    doors = {"--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", door: taken}

    done = up.run(verb, *(f"{flag}={address}" for flag, address in doors.items()))

    assert_one_line(done, f"can't listen on {taken}: another process listens there")
    assert not (up.home("user") / "controller.json").exists()


# Checkpoints that go bad later; late, as a controller that has just begun to lead waits for nodes.


@pytest.mark.parametrize("name", ["never-used", "used"])
def test_a_checkpoint_that_is_truncated_once_deployed_is_a_clear_error(
    up: LocalCluster, bad_models: Path, name: str
) -> None:
    up.deploy(name, engine="timed", keep_alive="0s")
    if name == "used":
        # It lies in DRAM then; what lies on the disk is what it is checked against.
        assert up.ask(name, PROMPT).status == 200
        up.wait_idle(name)

    os.truncate(bad_models / name / "model.safetensors", 1000)
    answer = up.ask(name, PROMPT)

    assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
    assert answer.message.startswith(f"model {name!r} can't be served: ")
    assert "model.safetensors: holds 912 bytes" in answer.message
    assert up.replicas(name) == []


# Processes of their own.


def test_a_newer_schema_is_one_line_and_stays_as_it_is(cluster: LocalCluster) -> None:
    assert cluster.run("db", "upgrade").returncode == 0
    file = cluster.home("user") / "state.db"
    with sqlite3.connect(file) as state:
        state.execute("update pilotlight_schema set version_num = '9999'")
    state.close()
    before = hashlib.sha256(file.read_bytes()).digest()

    for arguments in (("controller",), ("up",), ("db", "upgrade")):
        doors = () if "db" in arguments else ("--listen=127.0.0.1:0", "--http=127.0.0.1:0")
        done = cluster.run(*arguments, *doors)

        assert_one_line(done, f"the state {file} has schema 9999, newer than this version")
        assert hashlib.sha256(file.read_bytes()).digest() == before
    assert cluster.leftovers() == []


def test_a_node_that_never_reaches_its_controller_can_be_stopped(
    cluster: LocalCluster, models: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        cluster.grpc_address = f"127.0.0.1:{unused.getsockname()[1]}"
    cluster.spawn_node("alone", models=models, engines=["timed"])
    told = "going on without the controller"
    cluster.wait_for(lambda: told in cluster.log("alone"), "it to say so")

    code = cluster.stop("alone", signal.SIGTERM)

    assert code == 0
    assert cluster.log("alone").count(told) == 1
    assert "Traceback" not in cluster.log("alone")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine": "timed", "engine_options": {"foo": "1"}}, "foo"),
        ({"engine": "timed", "engine_options": {"decode_seconds": "nan"}}, "decode_seconds"),
        ({"engine": "transformers", "dtype": "int3"}, "int3"),
    ],
)
def test_a_deployment_that_can_never_start_is_tried_once_and_said(
    up: LocalCluster, fields: dict[str, Any], says: str
) -> None:
    path = "a" if fields["engine"] == "timed" else "spoken"
    name = f"hopeless-{says}"
    up.deploy(name, path, **fields)

    answer = up.ask(name, PROMPT)

    assert answer.status == 503
    assert says in answer.message
    assert len(up.starts(name)) == 1
    assert up.run("delete", name).returncode == 0
    up.wait_for(lambda: name not in up.models(), "it to be deleted")
