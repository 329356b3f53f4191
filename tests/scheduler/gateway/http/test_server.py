"""Clients that leave, stall, lie or send too much; starting and stopping."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry

from pilotlight.process.errors import AddressUnavailable
from pilotlight.process.ports import Address, listen
from pilotlight.scheduler.gateway.http.app import HttpApp
from pilotlight.scheduler.gateway.http.limits import HttpLimits
from pilotlight.scheduler.gateway.http.server import HttpServer
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(20)]

COMPLETION = {"model": "timed", "prompt": [1, 2], "max_tokens": 1 << 20}


@pytest.fixture(autouse=True)
def deployed(backend: ScriptedBackend, tmp_path: Path) -> Script:
    """Deploy a model that goes on for a long time."""
    script = Script(token_ids=range(1, 400_000))
    backend.deploy("timed", tmp_path, script, context_tokens=1 << 20)
    return script


class RawClient:
    """Speaks HTTP as badly as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, body: dict[str, Any], *, content_length: int | None = None) -> None:
        data = json.dumps(body).encode()
        length = len(data) if content_length is None else content_length
        self.send(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % length + data
        )

    async def rest(self) -> bytes:
        """Return all until the server closes the connection, in whatever way."""
        received = b""
        try:
            while data := await self.reader.read(1 << 16):
                received += data
        except ConnectionError:
            pass
        return received

    def abort(self) -> None:
        self.writer.transport.abort()


Connect = Callable[[HttpServer], Awaitable[RawClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return what connects to a server until the end of the test."""
    clients: list[RawClient] = []

    async def open_one(server: HttpServer) -> RawClient:
        assert server.address is not None
        where = server.address.host, server.address.port
        clients.append(RawClient(*await asyncio.open_connection(*where)))
        return clients[-1]

    yield open_one
    for client in clients:
        client.writer.close()


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come true within 5 s")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_while_it_waits_cancels_its_request(
    is_stream: bool, serve: Any, connect: Connect, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.may_start = asyncio.Event()
    client = await connect(await serve())
    client.post({**COMPLETION, "stream": is_stream})
    await backend.has_started.wait()

    client.abort()

    await backend.cancelled.wait()
    assert backend.running == 0


async def test_a_client_that_leaves_a_stream_cancels_its_request(
    serve: Any, connect: Connect, backend: ScriptedBackend, registry: CollectorRegistry
) -> None:
    client = await connect(await serve())
    client.post({**COMPLETION, "stream": True})
    await client.reader.readuntil(b"data: ")

    with structlog.testing.capture_logs() as logs:
        client.abort()
        await backend.cancelled.wait()
        await eventually(lambda: bool(logs))

    assert logs[-1]["status"] == 499
    labels = {"model": "timed", "status": "cancelled"}
    assert registry.get_sample_value("pilotlight_requests_total", labels) == 1


async def test_a_client_that_only_stops_to_send_has_left_too(
    serve: Any, connect: Connect, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.may_start = asyncio.Event()
    client = await connect(await serve())
    client.post(COMPLETION)
    await backend.has_started.wait()

    client.writer.write_eof()

    await backend.cancelled.wait()
    assert await client.rest() == b""


async def test_a_client_that_never_reads_is_cut_and_fills_no_buffers(
    serve: Any, connect: Connect, backend: ScriptedBackend
) -> None:
    client = await connect(await serve(HttpLimits(stall_seconds=0.2)))
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.post({**COMPLETION, "stream": True})

    await backend.cancelled.wait()

    # What the kernel's buffers and ours took, at some 150 bytes each: far from all of them.
    assert 0 < backend.batches_given < 200_000
    client.abort()


async def test_a_body_that_trickles_is_given_up(serve: Any, connect: Connect) -> None:
    client = await connect(await serve(HttpLimits(body_seconds=0.2)))
    client.post(COMPLETION, content_length=1000)

    answer = await client.rest()

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body_timeout" in answer


@pytest.mark.parametrize("opening", [b"", b"POST /v1/completions HTT"])
async def test_headers_that_never_end_are_given_up(
    opening: bytes, serve: Any, connect: Connect
) -> None:
    client = await connect(await serve(HttpLimits(header_seconds=0.5)))
    client.send(opening)

    assert await client.rest() == b""


async def test_the_headers_of_a_later_request_must_end_too(serve: Any, connect: Connect) -> None:
    client = await connect(await serve(HttpLimits(header_seconds=0.5)))
    client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.reader.readuntil(b"ok\n")

    client.send(b"GET /hea")

    assert await client.rest() == b""


async def test_a_slow_answer_is_no_slow_header(
    serve: Any, connect: Connect, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.token_ids, deployed.may_start = (5,), asyncio.Event()
    client = await connect(await serve(HttpLimits(header_seconds=0.3)))
    client.post(COMPLETION)
    await backend.has_started.wait()
    await asyncio.sleep(0.4)

    deployed.may_start.set()

    assert b"HTTP/1.1 200" in await client.reader.readuntil(b"\r\n\r\n")
    client.abort()


async def test_headers_that_are_too_large_are_refused(serve: Any, connect: Connect) -> None:
    client = await connect(await serve(HttpLimits(header_bytes=1000)))
    client.send(b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 2000)

    assert (await client.rest()).startswith(b"HTTP/1.1 4")


async def test_a_hundred_megabytes_are_refused(serve: Any) -> None:
    server = await serve()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * (1 << 20)

    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        declared = await client.post(
            "/v1/completions",
            content=b"x" * (100 << 20),
            headers={"content-type": "application/json"},
        )
        chunked = await client.post(
            "/v1/completions", content=body(), headers={"content-type": "application/json"}
        )
        assert (await client.get("/healthz")).status_code == 200

    for response in (declared, chunked):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert response.headers["connection"] == "close"


async def test_a_length_that_is_too_short_is_no_way_around_the_limit(
    serve: Any, connect: Connect
) -> None:
    client = await connect(await serve())
    client.post(COMPLETION, content_length=2)
    client.send(b"\r\n\r\n")

    answer = await client.rest()

    # What follows the declared body is read as another request, and is none.
    assert answer.count(b"HTTP/1.1 400") == 2


async def test_what_is_no_http_is_refused(serve: Any, connect: Connect) -> None:
    client = await connect(await serve())
    client.send(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")

    assert (await client.rest()).startswith(b"HTTP/1.1 400")


async def test_an_error_in_a_stream_closes_its_connection(
    serve: Any, connect: Connect, deployed: Script
) -> None:
    deployed.token_ids, deployed.error = (5,), RuntimeError()
    client = await connect(await serve())
    client.post({**COMPLETION, "stream": True})

    answer = await client.rest()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"internal_error" in answer
    assert answer.endswith(b"0\r\n\r\n")


async def test_a_port_in_use_is_one_clear_error(serve: Any, generator: TextGenerator) -> None:
    taken = (await serve()).address
    second = HttpServer(HttpApp(generator, readiness=lambda: None), taken)

    with pytest.raises(AddressUnavailable, match="another process listens there"):
        await second.start()

    await second.stop()


async def test_a_socket_that_is_already_open_is_served(generator: TextGenerator) -> None:
    opened = listen(Address(host="127.0.0.1", port=0))
    server = HttpServer(HttpApp(generator, readiness=lambda: None), opened)
    await server.start()

    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        assert (await client.get("/healthz")).text == "ok\n"

    await server.stop(grace_seconds=0.0)


async def test_signals_stay_with_the_process(serve: Any) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    await serve()

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_stopping_lets_requests_end_in_time(
    serve: Any, connect: Connect, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.token_ids, deployed.may_start = (5,), asyncio.Event()
    server = await serve()
    client = await connect(server)
    client.post(COMPLETION)
    await backend.has_started.wait()

    stopping = asyncio.create_task(server.stop(grace_seconds=5.0))
    await asyncio.sleep(0.2)
    deployed.may_start.set()

    answer = await client.rest()
    await stopping
    assert answer.startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionError):
        await connect(server)


async def test_stopping_cuts_what_does_not_end_in_time(
    serve: Any, connect: Connect, backend: ScriptedBackend, deployed: Script
) -> None:
    deployed.may_go_on = asyncio.Event()
    server = await serve()
    streaming = await connect(server)
    streaming.post({**COMPLETION, "stream": True})
    await streaming.reader.readuntil(b"data: ")
    deployed.may_start = asyncio.Event()
    waiting = await connect(server)
    waiting.post(COMPLETION)
    await eventually(lambda: backend.running == 2)
    began_at = time.monotonic()

    await server.stop(grace_seconds=0.1)

    assert time.monotonic() - began_at < 5.0
    assert backend.running == 0
    cut = await streaming.rest()
    assert b"server_stopping" in cut
    assert b"[DONE]" not in cut
    assert (await waiting.rest()).startswith(b"HTTP/1.1 503")


async def test_stopping_does_not_wait_for_a_client_that_never_reads(
    serve: Any, connect: Connect, backend: ScriptedBackend
) -> None:
    server = await serve(HttpLimits(stall_seconds=60.0))
    client = await connect(server)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.post({**COMPLETION, "stream": True})
    await backend.has_started.wait()
    # By now all buffers between the two are full.
    await asyncio.sleep(0.5)

    await server.stop(grace_seconds=0.1)

    assert backend.running == 0
    client.abort()


async def test_a_server_that_was_never_started_stops(generator: TextGenerator) -> None:
    where = Address(host="127.0.0.1", port=0)
    server = HttpServer(HttpApp(generator, readiness=lambda: None), where)

    await server.stop()

    assert server.address is None
