"""What README and documentation tell readers to type does what they say."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

import pytest
from tests.docs.pages import Page, read_pages
from tests.docs.workbench import Workbench

PAGES = read_pages()
# The quickstart shows a cluster on which nobody has done anything yet.
RUN = sorted((p for p in PAGES if p.is_run), key=lambda page: page.path.stem != "quickstart")

# A block that joins these should have a good reason: nobody notices when it is wrong.
NOT_RUN = {
    "CONTRIBUTING.md": 3,
    "README.md": 2,
    "docs/how-to/several-machines.md": 4,
    "docs/quickstart.md": 1,
}
MADE_BY_SPHINX = {
    "{eval-rst}",
    "{image}",
    "{literalinclude}",
    "{toctree}",
    "{pilotlight-commands}",
    "{pilotlight-demo}",
    "{pilotlight-engine-options}",
    "{pilotlight-errors}",
    "{pilotlight-http}",
    "{pilotlight-load}",
    "{pilotlight-metrics}",
    "{pilotlight-service}",
    "{pilotlight-settings}",
}


@pytest.mark.integration
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_everything_on_the_page_works(
    page: Page, workbench: Workbench, absent: Callable[[str, str], NoReturn]
) -> None:
    if "curl " in page.text and shutil.which("curl") is None:
        absent("curl", "pages use it")

    workbench.run(page)


def test_what_is_not_run_is_known() -> None:
    found = Counter(page.name for page in PAGES for block in page.blocks if block.mark == "not run")

    assert dict(found) == NOT_RUN


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    for page in PAGES:
        for block in page.blocks:
            where = f"{page.name}:{block.line}"
            if block.language.startswith("{"):
                assert block.language in MADE_BY_SPHINX, where
            elif block.language == "text":
                assert block.mark in ("output", "shown"), where
            elif block.language in ("yaml", "toml"):
                assert block.mark == "file", where
            else:
                assert block.language in ("sh", "python"), where


def test_every_exception_has_its_reason() -> None:
    for page in PAGES:
        for block in page.blocks:
            if block.mark in ("not run", "shown", "file"):
                assert block.detail, f"{page.name}:{block.line}"


def test_the_example_of_embedding_stays_short() -> None:
    readme = next(page for page in PAGES if page.name == "README.md")
    (example,) = [b for b in readme.blocks if "EmbeddedScheduler" in b.text]

    assert len(example.text.splitlines()) <= 15


def test_the_example_of_an_engine_stays_short() -> None:
    page = next(page for page in PAGES if page.path.stem == "write-an-engine")
    (engine,) = [block for block in page.blocks if block.detail.startswith("dice.py")]

    assert len(engine.text.splitlines()) < 60
