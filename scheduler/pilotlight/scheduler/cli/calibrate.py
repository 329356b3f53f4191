"""`pilotlight calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pilotlight.process import tables
from pilotlight.process.commands import CommandError, output_option

COLUMNS = (
    tables.text("figure"),
    tables.text("before"),
    tables.text("after"),
    tables.number("of", "MEASUREMENTS"),
)


@click.command()
@click.argument("recordings", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--scenario",
    default="demo",
    show_default=True,
    help="What describes the cluster: its name, or a file.",
)
@click.option(
    "--write",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a scenario there that is based on it, with what was found.",
)
@output_option
def calibrate(
    recordings: tuple[Path, ...], scenario: str, file: Path | None, output: tables.OutputFormat
) -> None:
    """Fit a scenario's times and bandwidths to RECORDINGS of the cluster it describes.

    A recording is the folder that a controller keeps in its home (`recording`), one
    that `pilotlight demo --replay` made, or a file of it. What loads, workers, binds,
    teardowns, commands and transactions took is replaced by the median of what was
    recorded, noise by its spread; what was not seen stays. What a model's tokens take
    is told from other models' by its size where it was not seen itself (measurements:
    0).

    \b
    pilotlight demo --replay demo --record recorded
    pilotlight calibrate recorded --write my-demo.yaml
    pilotlight simulate my-demo.yaml
    """
    import yaml

    from pilotlight.estimators import StartEstimator
    from pilotlight.process.bench.documents import require_writable
    from pilotlight.scheduler.simulation.calibration import fit, observe
    from pilotlight.scheduler.simulation.scenarios import load_scenario

    if file is not None:
        require_writable(file)
    found = load_scenario(scenario)
    seen = observe(_files(recordings), StartEstimator())
    if not seen.starts:
        raise CommandError("no start that was recorded there became READY: nothing can be learned")
    fitted = fit(seen, found)
    rows = [
        {**row, "before": f"{row['before']:.4g}", "after": f"{row['after']:.4g}"}
        if output in ("table", "wide")
        else row
        for row in fitted.rows
    ]
    tables.write_rows(rows, COLUMNS, format=output, empty="")
    if file is not None:
        # A file is found from the new one's folder, wherever that is.
        based_on = str(Path(scenario).absolute()) if Path(scenario).exists() else scenario
        document = {"based_on": based_on, "title": found.title, **fitted.changes}
        file.write_text(yaml.safe_dump(document, sort_keys=False))


def _files(recordings: Sequence[Path]) -> list[Path]:
    """Return the files of one controller's recording."""
    found: list[Path] = []
    for path in recordings:
        if path.is_file():
            found.append(path)
            continue
        inner = path / "recording"
        files = sorted((inner if inner.is_dir() else path).glob("*.jsonl"))
        if not files:
            raise CommandError(f"{path}: there is no recording")
        found += files
    return found
