from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.driver import execution_files
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.driver.testing import Call, DriverCase
from pilotlight.scheduler.errors import ModelUnavailable
from pilotlight.scheduler.testing.reports import copy_of
from pilotlight.scheduler.testing.rpc_errors import broken, refused
from pilotlight.store_node.protocol import CheckpointStatus, store_node_pb2
from pilotlight.store_node.protocol.refusals import ErrorCode

FILES = {"config.json": b'{"vocab_size": 7}', "tokenizer.json": b"t" * 1000}


def held(model: str, *names: str) -> CheckpointStatus:
    return copy_of(model, execution_files=names or tuple(FILES))


async def serve(call: Call) -> AsyncGenerator[Message]:
    """Stream a file in blocks of 400 bytes, as a node does."""
    data = FILES[call.message.name]
    for start in range(0, len(data), 400):
        await asyncio.sleep(0.01)
        yield store_node_pb2.FileBlock(data=data[start : start + 400])


def failing(error: Exception) -> Callable[[Call], AsyncGenerator[Message]]:
    async def fail(call: Call) -> AsyncGenerator[Message]:
        yield store_node_pb2.FileBlock(data=b"the beginning")
        raise error

    return fail


@pytest.fixture
def files(case: DriverCase, tmp_path: Path) -> ExecutionFiles:
    case.channels.stream = serve
    return ExecutionFiles(
        tmp_path / "files", channels=case.channels, state=lambda: case.driver.core.state
    )


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def folders(tmp_path: Path) -> list[str]:
    return sorted(folder.name for folder in (tmp_path / "files").iterdir())


async def test_all_files_of_a_checkpoint_are_fetched(
    case: DriverCase, files: ExecutionFiles
) -> None:
    case.join("a", holds=[held("m")])
    model = case.deploy("m")

    folder = await files.fetch(model)

    assert folder == files.directory(model)
    assert content(folder) == FILES
    assert {call.message.reference for call in case.channels.calls} == {"m"}


async def test_files_are_fetched_once(case: DriverCase, files: ExecutionFiles) -> None:
    case.join("a", holds=[held("m")])
    model = case.deploy("m")

    await asyncio.gather(*(files.fetch(model) for _ in range(5)))
    await files.fetch(model)

    assert len(case.channels.calls) == len(FILES)


async def test_files_come_from_another_node_where_one_is_gone(
    case: DriverCase, files: ExecutionFiles
) -> None:
    case.join("a", holds=[held("m")])
    case.join("b", holds=[held("m")])
    fail = failing(broken())
    case.channels.stream = lambda call: fail(call) if call.address == "a:9000" else serve(call)
    model = case.deploy("m")

    folder = await files.fetch(model)

    assert content(folder) == FILES


async def test_a_node_that_can_t_send_them_is_named(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path
) -> None:
    case.join("a", holds=[held("m")])
    case.channels.stream = failing(refused(ErrorCode.READ_FAILED, "/m/config.json: I/O error"))
    model = case.deploy("m")

    with pytest.raises(ModelUnavailable) as raised:
        await files.fetch(model)

    assert str(raised.value) == (
        "model 'm' can't be served: its execution files can't be had: a: /m/config.json: I/O error"
    )
    # Nothing half-written is left.
    assert folders(tmp_path) == []


async def test_where_no_node_is_up_that_holds_it_that_is_said(
    case: DriverCase, files: ExecutionFiles
) -> None:
    case.join("a", holds=[held("other")])
    model = case.deploy("m")

    with pytest.raises(ModelUnavailable, match="no node that holds it is up"):
        await files.fetch(model)


async def test_after_a_failure_it_is_tried_again(case: DriverCase, files: ExecutionFiles) -> None:
    case.join("a", holds=[held("m")])
    case.channels.stream = failing(broken(grpc.StatusCode.DEADLINE_EXCEEDED))
    model = case.deploy("m")
    with pytest.raises(ModelUnavailable):
        await files.fetch(model)

    case.channels.stream = serve

    assert content(await files.fetch(model)) == FILES


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/b", "..", ".", "", "a\0b"])
async def test_a_file_name_that_leads_elsewhere_is_refused(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path, name: str
) -> None:
    case.join("a", holds=[held("m", name)])
    model = case.deploy("m")

    with pytest.raises(ModelUnavailable) as raised:
        await files.fetch(model)

    assert str(raised.value).endswith(f"a: it offers a file called {name!r}")
    assert case.channels.calls == []
    assert folders(tmp_path) == []


async def test_files_that_are_too_large_together_are_refused(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_files, "MOST_BYTES", 1000)
    case.join("a", holds=[held("m")])
    model = case.deploy("m")

    # 17 + 1000 bytes.
    with pytest.raises(ModelUnavailable, match=r"a: its files are larger than 1000 bytes"):
        await files.fetch(model)

    assert folders(tmp_path) == []


async def test_a_full_disk_is_said(
    case: DriverCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").write_text("in the way")
    files = ExecutionFiles(
        tmp_path / "files", channels=case.channels, state=lambda: case.driver.core.state
    )
    case.join("a", holds=[held("m")])
    model = case.deploy("m")

    with pytest.raises(ModelUnavailable, match=r"files: File exists"):
        await files.fetch(model)


async def test_another_deployment_has_another_folder(
    case: DriverCase, files: ExecutionFiles
) -> None:
    case.join("a", holds=[held("m")])
    model = case.deploy("m")
    again = replace(model, deployed_at=model.deployed_at + 1.0)

    first, second = await files.fetch(model), await files.fetch(again)

    assert first != second
    assert files.version(model) != files.version(again)


async def test_what_is_deployed_no_more_is_removed(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path
) -> None:
    case.join("a", holds=[held("m"), held("n")])
    m, n = case.deploy("m"), case.deploy("n")
    await files.fetch(m)
    await files.fetch(n)

    files.keep_only([n])

    assert folders(tmp_path) == [files.version(n)]


async def test_what_a_crash_left_is_removed(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path
) -> None:
    left = tmp_path / "files" / ".fetch-abc"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")

    files.keep_only([])

    assert folders(tmp_path) == []


async def test_removing_one_model_does_not_disturb_another_that_is_on_its_way(
    case: DriverCase, files: ExecutionFiles
) -> None:
    case.join("a", holds=[held("m")])
    model: Model = case.deploy("m")
    fetching = asyncio.ensure_future(files.fetch(model))
    await asyncio.sleep(0.015)

    files.keep_only([model])

    assert content(await fetching) == FILES


async def test_a_fetch_that_is_given_up_leaves_nothing(
    case: DriverCase, files: ExecutionFiles, tmp_path: Path
) -> None:
    case.join("a", holds=[held("m")])
    fetching = asyncio.ensure_future(files.fetch(case.deploy("m")))
    await asyncio.sleep(0.015)

    fetching.cancel()
    await asyncio.wait([fetching])

    assert folders(tmp_path) == []
