"""Curves and timelines of simulated runs, as SVG."""
# pyright: basic
# Half of matplotlib's types are unknown.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pilotlight.scheduler.errors import SchedulerError
from pilotlight.scheduler.simulation.report.run_result import CURVE, RunResult, Span, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#57606a")
_TIERS = {"device": "#8250df", "dram": "#1a7f37", "ssd": "#bf8700", "": "#cf222e"}
_SERVES = "#d0d7de"
_LEAST_SECONDS = 1e-3
"""Shorter times are drawn there: a logarithm has no zero."""
_MOST_LANES = 48


class PlotsUnavailable(SchedulerError, ImportError):
    """Nothing can be drawn here."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib; install it with: pip install 'pilotlight[plots]'")


def require_plots() -> None:
    """Refuse to draw where nothing can, before minutes of simulating.

    Raises:
        PlotsUnavailable: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise PlotsUnavailable


def draw(results: Sequence[RunResult], directory: Path) -> list[Path]:
    """Write the curves of all policies, and each policy's timeline; return the files.

    Raises:
        PlotsUnavailable: matplotlib is not installed.
        OSError: a file can't be written.
    """
    require_plots()
    by_policy: dict[str, list[RunResult]] = {}
    for result in results:
        by_policy.setdefault(result.policy, []).append(result)
    name = results[0].scenario
    written = [_write(_curves(by_policy, name), directory / f"{name}-curves.svg")]
    for policy, runs in by_policy.items():
        if runs[0].spans:
            file = directory / f"{name}-{policy}-timeline.svg"
            written.append(_write(_timeline(runs[0]), file))
    return written


def _curves(by_policy: Mapping[str, Sequence[RunResult]], name: str) -> Figure:
    figure, (start, token) = _figure(2, height=4.2)
    _title(figure, name)
    for colour, (policy, runs) in zip(_cycle(len(by_policy)), by_policy.items(), strict=True):
        _curve(start, [run.start for run in runs], policy, colour)
        _curve(token, [run.first_token for run in runs], policy, colour)
    for axes, what in ((start, "a place at a replica"), (token, "the first token")):
        axes.set_xscale("log")
        axes.set_xlabel(f"seconds from arrival to {what}")
        axes.set_ylim(0.0, 1.0)
        axes.grid(visible=True, alpha=0.3)
    start.set_ylabel("share of requests")
    start.legend(loc="lower right", frameon=False)
    return figure


def _curve(axes: Axes, spreads: Sequence[Spread], label: str, colour: str) -> None:
    """Draw the median over seeds at each percentile, and from the least to the most."""
    known = np.array([spread.curve for spread in spreads if spread.curve])
    if not known.size:
        return
    seconds = np.maximum(np.sort(known, axis=0), _LEAST_SECONDS)
    shares = np.array(CURVE) / 100.0
    middle = seconds[(len(seconds) - 1) // 2]
    is_seen = np.isfinite(middle)
    axes.plot(middle[is_seen], shares[is_seen], color=colour, label=label, linewidth=1.5)
    if len(seconds) > 1:
        is_bounded = np.isfinite(seconds[-1])
        axes.fill_betweenx(
            shares[is_bounded],
            seconds[0][is_bounded],
            seconds[-1][is_bounded],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )


def _timeline(result: RunResult) -> Figure:
    """Draw every replica as a bar: its start by where its weights came from, then its life."""
    lanes = _lanes(result.spans)
    names = sorted({lane for lane, _ in lanes})[:_MOST_LANES]
    rows = {lane: row for row, lane in enumerate(names)}
    shown = [(rows[lane], span) for lane, span in lanes if lane in rows]
    figure, (axes,) = _figure(1, height=1.5 + 0.2 * len(names))
    _bars(axes, [(row, span.ready_at, span.ended_at) for row, span in shown], _SERVES, "READY")
    for kind, colour in _TIERS.items():
        starts = [(row, s.began_at, s.ready_at) for row, s in shown if _kind(s) == kind]
        _bars(axes, starts, colour, f"starts from {kind.upper()}" if kind else "fails")
    axes.set_yticks(range(len(names)), [node if slot == 0 else "" for node, slot in names])
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("seconds")
    axes.grid(visible=True, axis="x", alpha=0.3)
    _title(figure, f"{result.scenario}, {result.policy}: what devices were held for")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def _lanes(spans: Sequence[Span]) -> list[tuple[tuple[str, int], Span]]:
    """Give each replica the first lane of its node that is free when it begins."""
    free_at: dict[str, list[float]] = {}
    found: list[tuple[tuple[str, int], Span]] = []
    for span in sorted(spans, key=lambda each: each.began_at):
        lanes = free_at.setdefault(span.node, [])
        slot = next((slot for slot, at in enumerate(lanes) if at <= span.began_at), len(lanes))
        lanes[slot : slot + 1] = [span.ended_at]
        found.append(((span.node, slot), span))
    return found


def _bars(axes: Axes, bars: Sequence[tuple[int, float, float]], colour: str, label: str) -> None:
    if bars:
        rows, begins, ends = zip(*bars, strict=True)
        axes.barh(
            rows,
            [max(end - begin, 0.0) for begin, end in zip(begins, ends, strict=True)],
            left=begins,
            height=0.8,
            color=colour,
            label=label,
            linewidth=0,
        )


def _kind(span: Span) -> str:
    return "" if span.error else span.tier


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


def _cycle(n: int) -> list[str]:
    return [_COLOURS[row % len(_COLOURS)] for row in range(n)]


def _figure(n_panels: int, *, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height), layout="constrained")
    return figure, [figure.add_subplot(1, n_panels, row + 1) for row in range(n_panels)]


def _write(figure: Figure, file: Path) -> Path:
    import matplotlib as mpl

    # Equal runs are equal files: no date, and ids that depend on nothing but the drawing.
    with mpl.rc_context({"svg.hashsalt": "pilotlight", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file
