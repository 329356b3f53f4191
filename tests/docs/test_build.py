"""The documentation builds without a warning, fetches nothing, and has all that the code has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest
from tests.docs.pages import ROOT

from pilotlight.scheduler.cli.verbs import find_verbs
from pilotlight.store_node.engines.timed_options import TimedOptions
from pilotlight.store_node.engines.transformers.options import TransformersOptions
from pilotlight.store_node.protocol.refusals import ErrorCode

pytestmark = pytest.mark.integration

# What a browser loads by itself, as opposed to what a reader may follow.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?P<src>[^\"]*)\""
    r"|<link[^>]*\shref=\"(?P<href>[^\"]*)\""
    r"|(?:url\(|@import )[\"']?(?P<style>[^\"')]*)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built pages."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", folder / "html"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_nothing_is_fetched_when_a_page_is_viewed(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]

    assert len(files) > 20
    for file in files:
        for match in _LOADED.finditer(file.read_text()):
            target = match["src"] or match["href"] or match["style"] or ""
            assert "//" not in target, f"{file.relative_to(site)}: {target}"


def test_every_verb_is_described(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text()

    for verb in find_verbs():
        assert f'id="pilotlight-{verb}"' in page, verb


def test_every_setting_is_described(site: Path) -> None:
    page = _text(site / "reference" / "settings.html")
    # The meaning is a row's last cell.
    assert not re.search(r"<td></td>\s*</tr>", (site / "reference" / "settings.html").read_text())

    for point in entry_points(group="pilotlight.settings"):
        for field in msgspec.structs.fields(point.load()):
            assert re.search(rf"\b{field.encode_name}\b", page), f"{point.name}.{field.name}"


def test_every_engine_option_is_described(site: Path) -> None:
    page = _text(site / "reference" / "engines.html")

    for struct in (TimedOptions, TransformersOptions):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"\b{field.encode_name}\b", page), field.name


def test_every_error_code_of_nodes_is_described(site: Path) -> None:
    page = _text(site / "reference" / "errors.html")

    for code in ErrorCode:
        assert re.search(rf"\b{code}\b", page), code


def _text(page: Path) -> str:
    return re.sub(r"<[^>]+>", " ", page.read_text())
