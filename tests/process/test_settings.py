from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from pilotlight.process import settings
from pilotlight.process.errors import SettingsError
from pilotlight.process.quantities import ByteCount, Seconds
from pilotlight.process.settings import read_settings


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    capacity_bytes: ByteCount = ByteCount(1 << 30)
    idle_seconds: Seconds = Seconds(60)


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: Path
    readers: int = 4


class NodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pool: Pool = Pool()
    models: tuple[Path, ...] = ()
    disks: list[Disk] = msgspec.field(default_factory=list[Disk])
    threads: int = 1
    name: str | None = None
    probe: bool = True
    labels: dict[str, str] = msgspec.field(default_factory=dict[str, str])


def read(
    body: str | None = None,
    *,
    tmp_path: Path | None = None,
    header: str = "apiVersion: pilotlight/v1\nkind: Node\n",
    environ: dict[str, str] | None = None,
    overrides: dict[str, object] | None = None,
) -> NodeSettings:
    path = None
    if body is not None:
        assert tmp_path is not None
        path = tmp_path / "node.yaml"
        path.write_text(header + body)
    return read_settings(
        "Node", NodeSettings, path=path, environ=environ or {}, overrides=overrides or {}
    )


def refusal(body: str, tmp_path: Path, *, header: str | None = None) -> str:
    """Return the refusal of a file, without the file's own path."""
    arguments = {} if header is None else {"header": header}
    with pytest.raises(SettingsError) as refused:
        read(body, tmp_path=tmp_path, **arguments)  # type: ignore[arg-type]  # only strings
    text = str(refused.value)
    assert "\n" not in text
    return text.removeprefix(f"{tmp_path / 'node.yaml'}: ")


def test_defaults_hold_without_a_file() -> None:
    assert read() == NodeSettings()


def test_reads_sections_sizes_durations_and_paths(tmp_path: Path) -> None:
    found = read(
        "pool: {capacity_bytes: 8GiB, idle_seconds: 5m}\nmodels: [/a, ~/b]\n"
        "disks: [{path: /ssd, readers: 2}]\nlabels: {rack: r1}\n",
        tmp_path=tmp_path,
    )

    assert found == NodeSettings(
        pool=Pool(capacity_bytes=ByteCount(8 << 30), idle_seconds=Seconds(300)),
        models=(Path("/a"), Path.home() / "b"),
        disks=[Disk(path=Path("/ssd"), readers=2)],
        labels={"rack": "r1"},
    )


def test_environment_wins_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    found = read(
        "threads: 2\nname: file\npool: {capacity_bytes: 1MB}\n",
        tmp_path=tmp_path,
        environ={
            "PILOTLIGHT_THREADS": "3",
            "PILOTLIGHT_NAME": "7",
            "PILOTLIGHT_POOL__CAPACITY_BYTES": "2MB",
            "PILOTLIGHT_MODELS": "/a, /b",
            "PILOTLIGHT_PROBE": "false",
            "UNRELATED": "x",
        },
        overrides={"threads": 4, "pool.idle_seconds": "1s", "name": None},
    )

    assert found == NodeSettings(
        threads=4,
        name="7",
        pool=Pool(capacity_bytes=ByteCount(2_000_000), idle_seconds=Seconds(1)),
        models=(Path("/a"), Path("/b")),
        probe=False,
    )


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("thread: 2", "thread: no such setting; did you mean threads?"),
        (
            "pool: {capacity_byte: 1}",
            "pool.capacity_byte: no such setting; did you mean capacity_bytes?",
        ),
        (
            "disks: [{path: /a}, {path: /b, reader: 1}]",
            "disks[1].reader: no such setting; did you mean readers?",
        ),
        ("threads: many", "threads: expected a whole number, got 'many'"),
        ("threads: true", "threads: expected a whole number, got true or false"),
        ("pool: 3", "pool: expected a section, got a whole number"),
        ("labels: {a: 1}", "labels[...]: expected text, got a whole number"),
        ("disks: [{readers: 1}]", "disks[0]: object missing required field path"),
        (
            "pool: {capacity_bytes: lots}",
            "pool.capacity_bytes: expected a size such as 8GiB or 500MB, got 'lots'",
        ),
        (
            "pool: {idle_seconds: -1}",
            "pool.idle_seconds: expected a duration such as 60s or 5m, got -1",
        ),
        ("threads: 1\nthreads: 2", "line 4: the key 'threads' is given twice"),
        ("? [threads]\n: 1", "line 3: found unhashable key"),
        ("a: [", "line 3: expected the node content, but found '<stream end>'"),
        ("threads: !!python/name:os.system", "line 3: could not determine a constructor"),
        ("1: 2", "expected names and values"),
    ],
)
def test_refuses_with_key_and_rule(body: str, rule: str, tmp_path: Path) -> None:
    assert refusal(body, tmp_path).startswith(rule)


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ("kind: Node\n", "apiVersion: must be 'pilotlight/v1'; it is missing"),
        (
            "apiVersion: pilotlight/v2\nkind: Node\n",
            "apiVersion: must be 'pilotlight/v1'; got 'pilotlight/v2'",
        ),
        (
            "apiVersion: pilotlight/v1\nkind: Controller\n",
            "kind: must be 'Node'; got 'Controller'",
        ),
        ("- a list\n", "expected names and values"),
    ],
)
def test_refuses_another_kind_of_file(header: str, rule: str, tmp_path: Path) -> None:
    assert refusal("", tmp_path, header=header) == rule


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"

    with pytest.raises(SettingsError, match=r"absent\.yaml: No such file or directory"):
        read_settings("Node", NodeSettings, path=path, environ={}, overrides={})


def test_refuses_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(SettingsError, match=r"node\.yaml: "):
        read_settings("Node", NodeSettings, path=path, environ={}, overrides={})


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("PILOTLIGHT_THREDS", "did you mean PILOTLIGHT_THREADS?"),
        ("PILOTLIGHT_POOL_CAPACITY_BYTES", "did you mean PILOTLIGHT_POOL__CAPACITY_BYTES?"),
        ("PILOTLIGHT_HOMES", "did you mean PILOTLIGHT_HOME?"),
    ],
)
def test_a_misspelt_variable_is_not_silent(name: str, rule: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(environ={name: "1"})

    assert str(refused.value) == f"{name}: no such setting; {rule}"


def test_variables_that_are_no_settings_are_passed_over() -> None:
    environ = {
        "PILOTLIGHT_CUDA_LIBRARY": "/c",
        "PILOTLIGHT_HOME": "/x",
        "PILOTLIGHT_REQUIRE": "postgres",
        "PILOTLIGHT_TRACES": "/t",
    }

    assert read(environ=environ) == NodeSettings()


def test_names_the_variable_at_fault() -> None:
    with pytest.raises(SettingsError) as refused:
        read(environ={"PILOTLIGHT_POOL__CAPACITY_BYTES": "lots"})

    assert str(refused.value) == (
        "PILOTLIGHT_POOL__CAPACITY_BYTES: pool.capacity_bytes: "
        "expected a size such as 8GiB or 500MB, got 'lots'"
    )


def test_a_struct_may_add_rules_of_its_own() -> None:
    class Even(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        threads: int = 2

        def __post_init__(self) -> None:
            if self.threads % 2:
                raise ValueError("threads must be even")

    with pytest.raises(SettingsError, match=r"^threads must be even$"):
        read_settings("Even", Even, path=None, environ={}, overrides={"threads": 3})


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    body_bytes: ByteCount = ByteCount(1 << 20)


def test_variables_of_another_kind_of_process_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = ModuleType("other_process")
    module.GatewaySettings = GatewaySettings
    monkeypatch.setitem(sys.modules, "other_process", module)
    point = EntryPoint("Gateway", "other_process:GatewaySettings", settings.GROUP)
    monkeypatch.setattr(settings, "entry_points", lambda group: [point])

    assert read(environ={"PILOTLIGHT_BODY_BYTES": "2MiB"}) == NodeSettings()
    with pytest.raises(SettingsError, match=r"did you mean PILOTLIGHT_BODY_BYTES\?"):
        read(environ={"PILOTLIGHT_BODY_BYTE": "2MiB"})


def test_a_reserved_variable_may_also_be_a_setting() -> None:
    class StateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        traces: str = ""

    found = read_settings(
        "State",
        StateSettings,
        path=None,
        environ={"PILOTLIGHT_TRACES": "/traces"},
        overrides={},
    )

    assert found.traces == "/traces"
