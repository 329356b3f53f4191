"""Links lead somewhere, and pictures are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tests.docs.pages import ROOT, Page, read_pages

_LINK = re.compile(r"!?\[(?P<text>[^]]*)\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
_IMAGE = re.compile(r"^```\{image\} (?P<target>\S+)\n:alt: (?P<alt>.+)$", re.MULTILINE)

# Nothing is fetched to show a page; a reader may follow these.
ELSEWHERE = ("https://keepachangelog.com", "https://semver.org", "https://www.usenix.org/")

PAGES = read_pages()


def test_links_between_pages_lead_to_a_page_and_to_a_heading_of_it() -> None:
    for page, target in _links():
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name}: {target}"


def test_links_elsewhere_are_few_and_known() -> None:
    for page, target in _links():
        if "://" in target:
            assert target.startswith(ELSEWHERE), f"{page.name}: {target}"


def test_pages_of_the_documentation_are_all_listed_once() -> None:
    listed: Counter[Path] = Counter()
    for page in PAGES:
        for block in page.blocks:
            if block.language == "{toctree}":
                entries = [line for line in block.text.split() if not line.startswith(":")]
                listed.update(page.path.parent / f"{entry}.md" for entry in entries if entry != "1")

    below = [page.path for page in PAGES if page.path.is_relative_to(ROOT / "docs")]
    assert listed == Counter(path for path in below if path != ROOT / "docs" / "index.md")


def test_pictures_have_a_title_and_words_for_those_who_do_not_see_them() -> None:
    for file in (ROOT / "docs" / "images").iterdir():
        root = ElementTree.parse(file).getroot()
        names = {child.tag.rpartition("}")[2] for child in root}
        assert {"title", "desc"} <= names, file.name
        assert "prefers-color-scheme: dark" in file.read_text(), file.name

    for page in PAGES:
        shown = page.text.count("```{image}")
        assert len(_IMAGE.findall(page.text)) == shown, f"{page.name}: an image without alt"


def _links() -> Iterator[tuple[Page, str]]:
    for page in PAGES:
        for match in _LINK.finditer(page.prose):
            yield page, match["target"]
        for match in _IMAGE.finditer(page.text):
            yield page, match["target"]


def _anchors(file: Path) -> set[str]:
    titles = [match["title"] for match in _HEADING.finditer(file.read_text())]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
