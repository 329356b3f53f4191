from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilotlight.scheduler.protocol import control_plane_pb2 as pb

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def test_deploys_with_every_option(controller: Any, pilotlight: Run) -> None:
    code, out, err = pilotlight(
        *("deploy", "opt", "small/opt", "--devices", "2", "--min-replicas", "1"),
        *("--max-replicas", "3", "--concurrency", "8", "--keep-alive", "5m", "--priority", "-1"),
        *("--queue-limit", "9", "--engine", "timed", "--engine-option", "prefill_seconds=0.1"),
        *("--engine-option", "seed=a=b", "--dtype", "float32", "--context-tokens", "512"),
    )

    assert (code, out, err) == (0, "deployed opt: 3.00 MiB, opt, on SSD of n0, n1\n", "")
    (request,) = controller.requests
    assert request.idempotency_key
    assert request.spec == pb.ModelSpec(
        name="opt",
        path="small/opt",
        devices=2,
        min_replicas=1,
        max_replicas=3,
        concurrency=8,
        keep_alive="300",
        priority=-1,
        queue_limit=9,
        engine="timed",
        engine_options={"prefill_seconds": "0.1", "seed": "a=b"},
        dtype="float32",
        context_tokens=512,
    )


def test_what_is_not_given_is_the_controllers_choice(controller: Any, pilotlight: Run) -> None:
    pilotlight("deploy", "opt", "small/opt")

    (request,) = controller.requests
    assert request.spec == pb.ModelSpec(
        name="opt", path="small/opt", devices=1, engine="transformers", dtype="auto"
    )


def test_a_path_that_lies_here_is_made_absolute(
    controller: Any, pilotlight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opt").mkdir()
    monkeypatch.chdir(tmp_path)

    pilotlight("deploy", "opt", "opt", "--keep-alive", "load")

    assert controller.requests[0].spec.path == str(tmp_path / "opt")
    assert controller.requests[0].spec.keep_alive == "load"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-alive", "long"], "expected a duration"),
        (["--engine-option", "seed"], "expected NAME=VALUE, got 'seed'"),
        (["--engine-option", "a=1", "--engine-option", "a=2"], "'a' is given twice"),
        (["--devices", "0"], "0 is not in the range"),
        (["--priority", str(2**40)], "out of range"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    options: list[str], words: str, controller: Any, pilotlight: Run
) -> None:
    code, _, err = pilotlight("deploy", "opt", "path", *options)

    assert code == 2
    assert words.lower() in err.lower()
    assert controller.requests == []


def test_deletes(controller: Any, pilotlight: Run) -> None:
    assert pilotlight("delete", "opt") == (0, "deleted opt\n", "")
    assert controller.requests[0].name == "opt"


def test_a_refusal_is_one_line(controller: Any, pilotlight: Run) -> None:
    controller.refusal = (grpc.StatusCode.NOT_FOUND, "no model 'opt' is deployed;\nnone is")

    assert pilotlight("delete", "opt") == (1, "", "Error: no model 'opt' is deployed; none is\n")


def test_lists_models_of_all_pages(controller: Any, pilotlight: Run) -> None:
    controller.models = [
        pb.Model(
            spec=pb.ModelSpec(name=f"m{i}", path=f"/p/m{i}", keep_alive="load"),
            size_bytes=3 << 20,
            ssd_nodes=["n0", "n1"],
            waiting=i,
        )
        for i in range(5)
    ]

    code, out, _ = pilotlight("models")

    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["MODEL", "SIZE", "READY", "STARTING", "WAITING"]
    assert lines[5].split() == ["m4", "3.00", "MiB", "0", "0", "4", "n0,", "n1", "-", "-"]
    assert [request.page_token for request in controller.requests] == ["", "2", "4"]


def test_json_has_every_field_raw(controller: Any, pilotlight: Run) -> None:
    controller.models = [
        pb.Model(
            spec=pb.ModelSpec(name="m", engine_options={"a": "b"}),
            size_bytes=2**40,
            deployed_at=1.5,
            ssd_nodes=["n0"],
        )
    ]

    _, out, _ = pilotlight("models", "-o", "json")

    (row,) = json.loads(out)
    assert row["name"] == "m"
    assert row["engine_options"] == {"a": "b"}
    assert row["size_bytes"] == 2**40
    assert row["deployed_at"] == 1.5
    assert row["ssd_nodes"] == ["n0"]
    assert row["min_replicas"] == 0
    assert set(row) == {
        *(field.name for field in pb.ModelSpec.DESCRIPTOR.fields),
        *(field.name for field in pb.Model.DESCRIPTOR.fields),
    } - {"spec"}


def test_nothing_deployed_is_said_beside_the_output(controller: Any, pilotlight: Run) -> None:
    assert pilotlight("models") == (0, "", "no model is deployed\n")
    assert pilotlight("models", "-o", "yaml") == (0, "[]\n", "")
