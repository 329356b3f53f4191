"""The pages of the documentation, and the blocks in them.

A comment above a block says what is to be made of it, see CONTRIBUTING.md:
`<!-- test: output -->`, `<!-- test: file NAME -->`, `<!-- test: not run; REASON -->` …
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\S*)(?P<rest>.*)$")
_MARK = re.compile(
    r"^<!-- test: (?P<mark>until stopped|fails|output|file|shown|not run)(?P<rest>.*)-->$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of its fence, from 1."""
    mark: str = ""
    """What the comment above it says; empty = it is run."""
    detail: str = ""
    """The comment's file name or reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One file of Markdown."""

    path: Path
    text: str
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return str(self.path.relative_to(ROOT))

    @property
    def is_run(self) -> bool:
        """Whether there is anything on it to be tried."""
        return any(
            block.mark not in ("not run", "shown") and not block.language.startswith("{")
            for block in self.blocks
        )

    @property
    def prose(self) -> str:
        """Its text without fenced blocks."""
        kept: list[str] = []
        fence = ""
        for line in self.text.splitlines():
            match = _FENCE.match(line)
            if not fence and match is None:
                kept.append(line)
            elif not fence and match is not None:
                fence = match["fence"]
            elif line.strip() == fence:
                fence = ""
        return "\n".join(kept)


def read_pages() -> list[Page]:
    """Return README and its companions, then all pages below docs/."""
    companions = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
    below = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    return [read_page(path) for path in (*companions, *below)]


def read_page(path: Path) -> Page:
    """Read one page."""
    text = path.read_text()
    return Page(path=path, text=text, blocks=tuple(_blocks(text)))


def _blocks(text: str) -> list[Block]:
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        match = _FENCE.match(lines[number])
        if match is None:
            number += 1
            continue
        end = lines.index(match["fence"], number + 1)
        mark, detail = _mark(lines[number - 1] if number else "")
        found.append(
            Block(
                language=match["language"],
                text="\n".join(lines[number + 1 : end]) + "\n",
                line=number + 1,
                mark=mark,
                detail=detail,
            )
        )
        number = end + 1
    return found


def _mark(line: str) -> tuple[str, str]:
    match = _MARK.match(line)
    return (match["mark"], match["rest"].strip(" ;")) if match else ("", "")
