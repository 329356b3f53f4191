from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from pilotlight.scheduler.core.events import DemandChanged
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.driver.local_link import LocalLink
from pilotlight.scheduler.driver.testing import Call, DriverCase
from pilotlight.scheduler.errors import ModelUnavailable, UnknownModel
from pilotlight.scheduler.store import PutStart
from pilotlight.scheduler.testing.reports import copy_of
from pilotlight.store_node.protocol import ModelId, ReplicaState, store_node_pb2


async def serve(call: Call) -> AsyncGenerator[Message]:
    yield store_node_pb2.FileBlock(data=b"{}")


@pytest.fixture
def link(case: DriverCase, tmp_path: Path) -> LocalLink:
    case.channels.stream = serve
    files = ExecutionFiles(
        tmp_path / "files", channels=case.channels, state=lambda: case.driver.core.state
    )
    return LocalLink(case.driver, files)


async def test_all_deployed_models_are_served_by_name(case: DriverCase, link: LocalLink) -> None:
    for name in ("b", "a"):
        case.deploy(name, context_tokens=512, queue_limit=7, deployed_at=1.7e9)

    first, second = link.models()

    assert (first.name, second.name) == ("a", "b")
    assert (first.context_tokens, first.queue_limit, first.deployed_at) == (512, 7, 1.7e9)


async def test_a_model_is_found_with_its_files(case: DriverCase, link: LocalLink) -> None:
    case.join("a", holds=[copy_of("m", execution_files=("config.json",))])
    case.deploy("m")

    served = await link.find("m")
    await link.find("m")

    assert (served.directory / "config.json").read_text() == "{}"
    assert len(case.channels.calls) == 1


async def test_a_model_whose_files_can_t_be_had_is_unavailable(
    case: DriverCase, link: LocalLink
) -> None:
    case.deploy("m")

    with pytest.raises(ModelUnavailable):
        await link.find("m")


async def test_a_model_that_is_not_deployed_is_unknown(case: DriverCase, link: LocalLink) -> None:
    case.deploy("opt")

    with pytest.raises(UnknownModel, match="deployed: opt"):
        await link.find("m")


async def test_a_model_that_is_deployed_again_has_another_version(
    case: DriverCase, link: LocalLink
) -> None:
    case.deploy("m", deployed_at=1.0)
    [before] = link.models()

    case.deploy("m", deployed_at=2.0)
    [after] = link.models()

    assert before.version != after.version


async def test_demand_reaches_the_core(case: DriverCase, link: LocalLink) -> None:
    link.report_demand(ModelId("m"), waiting=2, oldest_arrival=0.0)

    assert case.handled[-1][0] == DemandChanged(model=ModelId("m"), waiting=2, oldest_arrival=0.0)


async def test_first_tokens_reach_the_record_of_the_start(
    case: DriverCase, link: LocalLink
) -> None:
    case.deploy("m")
    case.join("a", holds=["m"])
    case.demand("m", 1)
    await asyncio.sleep(1.0)
    [replica] = case.replicas
    case.report(replica, ReplicaState.READY)

    link.report_first_token(replica.id, seconds=1.25)
    await case.settle()

    assert case.store.kept(PutStart)[-1].start.first_token_seconds == 1.25
