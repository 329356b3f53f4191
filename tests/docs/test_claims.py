"""What pages say of commands, targets and versions is so."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import version

import click
from tests.docs.pages import ROOT, Page, read_page, read_pages

from pilotlight.scheduler.cli.program import pilotlight
from pilotlight.scheduler.cli.verbs import find_verbs

PAGES = read_pages()
README = read_page(ROOT / "README.md")

_VERB = re.compile(r"`pilotlight ([a-z]+)")
_TARGET = re.compile(r"`make (?:[A-Z_]+=\S+ )*([a-z-]+)")
_VARIABLE = re.compile(r"\w+=\S*")


def test_verbs_that_are_mentioned_exist_and_explain_themselves() -> None:
    mentioned = {(page.name, verb) for page in PAGES for verb in _VERB.findall(page.text)}
    mentioned |= {(page.name, words[1]) for page, words in _commands()}

    assert mentioned
    for where, verb in sorted(mentioned):
        assert verb in find_verbs(), f"{where}: pilotlight {verb}"


def test_options_that_are_shown_exist_also_where_the_command_is_not_run() -> None:
    for page, words in _commands():
        command = _command(words)
        known = {option for param in command.params for option in param.opts} | {"--help", "-h"}
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--") or word == "-o":
                assert option in known, f"{page.name}: {shlex.join(words)}"


def test_targets_of_make_that_are_mentioned_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for page in PAGES:
        shown = [
            line.split("#")[0].split()[1]
            for block in page.blocks
            if block.language == "sh"
            for line in block.text.splitlines()
            if line.startswith("make ")
        ]
        for target in (*_TARGET.findall(page.prose), *shown):
            assert target in targets, f"{page.name}: make {target}"


def test_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    python = project["requires-python"].removeprefix(">=")

    assert f'"torch=={torch}"' in README.text
    assert f"Python {python} or newer" in README.text
    for name in ("CONTRIBUTING.md", "docs/quickstart.md"):
        assert f"Python {python} or newer" in (ROOT / name).read_text(), name
    assert f"## [{version('pilotlight')}]" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_that_are_mentioned_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    mentioned = set(re.findall(r'pip install "\.\[(\w+)\]"', README.text))
    assert mentioned == {"torch", "node", "postgres"}
    assert mentioned <= set(project["optional-dependencies"])


def test_plugins_that_are_listed_are_those_that_are_built_in() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    page = (ROOT / "docs" / "how-to" / "write-a-policy.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `pilotlight.")]

    listed = {row[1].strip(" `"): set(re.findall(r"`(\w+)`", row[4])) for row in rows}
    assert set(listed) == set(groups) - {"pilotlight.settings"}
    for group, names in listed.items():
        if names:
            assert names == set(groups[group]), group


def _commands() -> Iterator[tuple[Page, list[str]]]:
    """Yield every command line that begins with `pilotlight`, in words."""
    for page in PAGES:
        for block in page.blocks:
            if block.language != "sh":
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and _VARIABLE.fullmatch(words[0]):
                    words.pop(0)
                if words[:1] == ["pilotlight"]:
                    yield page, words


def _command(words: list[str]) -> click.Command:
    command = pilotlight.get_command(click.Context(pilotlight), words[1])
    assert command is not None, words[1]
    if isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words[2])
        assert inner is not None, words[:3]
        return inner
    return command
