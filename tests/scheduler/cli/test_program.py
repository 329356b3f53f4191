from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from pilotlight.process.errors import SettingsError
from pilotlight.scheduler.cli import verbs
from pilotlight.scheduler.errors import UnknownModel

Run = Callable[..., tuple[int, str, str]]
Add = Callable[[click.Command], None]

# What takes long to import, and what a verb may therefore import only when it runs.
HEAVY = (
    "alembic",
    "grpc",
    "google.protobuf",
    "numpy",
    "ortools",
    "pandas",
    "rich",
    "sqlalchemy",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
)


@pytest.fixture
def add_verb(monkeypatch: pytest.MonkeyPatch) -> Add:
    """Return what adds a command as if a third party had brought it."""

    def add(command: click.Command) -> None:
        module: Any = ModuleType("third_party")
        module.verb = command
        monkeypatch.setitem(sys.modules, "third_party", module)
        add_points(monkeypatch, EntryPoint(str(command.name), "third_party:verb", verbs.GROUP))

    return add


def add_points(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    found = {**verbs.find_verbs(), **{point.name: point for point in points}}
    monkeypatch.setattr(verbs, "find_verbs", lambda: found)


def failing_with(exc: BaseException) -> click.Command:
    @click.command("fails")
    def fails() -> None:
        raise exc

    return fails


def test_help_lists_the_verbs_by_section_with_a_line_each(pilotlight: Run) -> None:
    code, out, _ = pilotlight("--help")

    assert code == 0
    lines = out.splitlines()
    assert lines.index("Models:") < lines.index("Look:") < lines.index("Maintain:")
    assert any(line.startswith("  nodes ") and "DRAM" in line for line in lines)
    assert "More:" not in lines


def test_every_verb_says_what_it_does_and_takes_help(pilotlight: Run) -> None:
    for name in verbs.find_verbs():
        code, out, _ = pilotlight(name, "--help")

        assert code == 0
        assert out.startswith(f"Usage: pilotlight {name}")


def test_version(pilotlight: Run) -> None:
    assert pilotlight("--version") == (0, f"pilotlight {version('pilotlight')}\n", "")


@pytest.mark.integration
def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pilotlight.scheduler.cli.program import run; code = run(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stderr == "[]\n"


def test_a_misspelt_verb_is_told_the_nearest(pilotlight: Run) -> None:
    code, _, err = pilotlight("repicas")

    assert code == 2
    assert "No such command 'repicas'. Did you mean 'replicas'?" in err


@pytest.mark.parametrize("arguments", [["models", "--colour"], ["deploy"], ["models", "-o", "xml"]])
def test_wrong_usage_is_exit_code_2(arguments: Sequence[str], pilotlight: Run) -> None:
    code, out, err = pilotlight(*arguments)

    assert (code, out) == (2, "")
    assert "Error: " in err


def surrogates() -> Exception:
    """Return what an argument raises that is not UTF-8."""
    try:
        os.fsdecode(b"\xff").encode()
    except UnicodeEncodeError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("exc", "line"),
    [
        (UnknownModel("opt"), "no model 'opt' is deployed; none is deployed"),
        (SettingsError("node.yaml", "no such\nsetting", key="a"), "node.yaml: a: no such setting"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (surrogates(), "text that is not UTF-8 was given"),
        (click.ClickException("can't"), "can't"),
    ],
)
def test_what_can_be_expected_to_fail_is_one_line(
    exc: Exception, line: str, pilotlight: Run, add_verb: Add
) -> None:
    add_verb(failing_with(exc))

    assert pilotlight("fails") == (1, "", f"Error: {line}\n")


def test_a_bug_keeps_its_traceback(pilotlight: Run, add_verb: Add) -> None:
    add_verb(failing_with(ZeroDivisionError("a bug")))

    with pytest.raises(ZeroDivisionError):
        pilotlight("fails")


def test_ctrl_c_is_exit_code_130(pilotlight: Run, add_verb: Add) -> None:
    add_verb(failing_with(KeyboardInterrupt()))

    code, out, err = pilotlight("fails")

    assert (code, out, err.strip()) == (130, "", "")


def test_a_verb_may_choose_its_exit_code(pilotlight: Run, add_verb: Add) -> None:
    @click.command("chooses")
    @click.pass_context
    def chooses(ctx: click.Context) -> None:
        ctx.exit(1)

    add_verb(chooses)

    assert pilotlight("chooses") == (1, "", "")


def test_a_third_partys_verb_is_listed_after_ours(pilotlight: Run, add_verb: Add) -> None:
    add_verb(click.Command("frobnicate", help="Do something else."))

    _, out, _ = pilotlight("--help")

    assert "More:\n  frobnicate  Do something else.\n" in out


def test_a_broken_third_party_harms_no_other_verb(
    pilotlight: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_points(
        monkeypatch,
        EntryPoint("broken", "not_there:verb", verbs.GROUP),
        EntryPoint("odd", "json:dumps", verbs.GROUP),
    )

    code, out, _ = pilotlight("--help")
    assert code == 0
    assert "the verb 'broken' of an unknown package can't be loaded" in " ".join(out.split())
    assert "  nodes " in out

    code, _, err = pilotlight("broken")
    assert (code, err.count("\n")) == (1, 1)
    assert "No module named 'not_there'" in err
    assert "json:dumps is no click command" in pilotlight("odd")[2]


PROGRAM = [sys.executable, "-c", "from pilotlight.scheduler.cli import main; main()"]


@pytest.mark.integration
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    environ = os.environ | {"PILOTLIGHT_HOME": str(tmp_path)}
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [*PROGRAM, "db", "current"], stdout=write, stderr=subprocess.PIPE, env=environ, timeout=60
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.integration
def test_an_output_that_is_closed_is_one_line(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh"]

    done = subprocess.run([*shell, *PROGRAM, "--help"], stderr=subprocess.PIPE, timeout=60)

    assert (done.returncode, done.stderr) == (1, b"Error: standard output is closed\n")


@pytest.mark.integration
def test_sigterm_is_taken_as_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "import click, time\n"
        "from pilotlight.scheduler.cli import program, verbs\n"
        "@click.command()\n"
        "def waits():\n"
        "    try:\n"
        "        print('waiting', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('tidied up', flush=True)\n"
        "program.pilotlight.get_command = lambda context, name: waits\n"
        "program.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "waits.py", "waits"], stdout=subprocess.PIPE
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waiting\n"

        waiting.send_signal(signal.SIGTERM)
        out, _ = waiting.communicate(timeout=30)

    assert (waiting.returncode, out) == (130, b"tidied up\n")


@pytest.mark.integration
def test_ctrl_c_ends_a_watch_without_a_traceback(controller: Any) -> None:
    controller.watches_last = True
    with subprocess.Popen(
        [*PROGRAM, "events"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watch:
        assert controller.was_asked.wait(30)

        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=30)

    assert (watch.returncode, out, err.strip()) == (130, b"", b"")
