"""Charts of bars, as SVG that a browser and a page of documentation show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 760
_LABELS = 210
_VALUES = 90
_MARGIN = 20
_ROW = 26
_BAR = 16
_TOP = 56
_BOTTOM = 16

_STYLE = """
    text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
           font-size: 13px; fill: #1f2328; }
    .title { font-weight: 600; font-size: 15px; }
    .soft { fill: #59636e; font-size: 12px; }
    .inside { fill: #ffffff; font-size: 12px; }
    .page { fill: #ffffff; }
    .ours { fill: #0969da; }
    .other { fill: #6e7781; }
    .limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .soft { fill: #9198a1; }
      .inside { fill: #ffffff; font-size: 12px; }
    .page { fill: #0d1117; }
      .ours { fill: #4493f8; }
      .other { fill: #656c76; }
      .limit { stroke: #f85149; }
    }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: the longer, the more."""

    label: str
    value: float
    shown: str
    """The value for people, in the bar's end, or behind a short one."""
    is_ours: bool


def chart(title: str, subtitle: str, bars: Sequence[Bar], *, limit: float | None = None) -> str:
    """Return a chart; a line across the bars stands where `limit` is."""
    longest = max([bar.value for bar in bars] + ([limit] if limit is not None else [0.0]))
    scale = (_WIDTH - _LABELS - _MARGIN) / longest if longest > 0 else 0.0
    height = _TOP + _ROW * len(bars) + _BOTTOM
    size = f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title desc"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size}>',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(_in_words(subtitle, bars))}</desc>',
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'  <text class="title" x="12" y="22">{escape(title)}</text>',
        f'  <text class="soft" x="12" y="42">{escape(subtitle)}</text>',
        *(_bar(bar, _TOP + _ROW * row, scale) for row, bar in enumerate(bars)),
    ]
    if limit is not None:
        x = f"{_LABELS + limit * scale:.1f}"
        lines.append(
            f'  <line class="limit" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{height - _BOTTOM}"/>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _in_words(subtitle: str, bars: Sequence[Bar]) -> str:
    return f"{subtitle}. " + "; ".join(f"{bar.label}: {bar.shown}" for bar in bars)


def _bar(bar: Bar, top: int, scale: float) -> str:
    length = bar.value * scale
    baseline = top + _BAR - 3
    kind = "ours" if bar.is_ours else "other"
    end = _LABELS + length
    where = (
        f'class="inside" x="{end - 8:.1f}" text-anchor="end"'
        if length > _VALUES
        else f'class="soft" x="{end + 8:.1f}"'
    )
    return (
        f'  <text x="{_LABELS - 10}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>\n'
        f'  <rect class="{kind}" x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}"'
        f' rx="3"/>\n'
        f'  <text {where} y="{baseline}">{escape(bar.shown)}</text>'
    )
