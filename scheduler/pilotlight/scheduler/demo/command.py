"""The verb that shows it all."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Where checkpoints are made, once, and kept.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=None,
    help="Write figures, starts and rounds there.",
)
@click.option("--policy", default="serverlessllm", show_default=True, help="Who decides.")
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Of the comparison, per checkpoint.",
)
@click.option("--short", is_flag=True, help="Less traffic and one repetition, in a minute.")
@click.option(
    "--replay",
    "scenario",
    default=None,
    metavar="SCENARIO",
    help="Instead of all that: send the requests of a scenario (`pilotlight simulate` lists"
    " them), and keep what was recorded.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of --replay.")
@click.option(
    "--record",
    "into",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FOLDER",
    help="Where --replay keeps it.  [default: DIRECTORY/recorded]",
)
def demo(
    directory: Path,
    json_file: Path | None,
    policy: str,
    repetitions: int,
    short: bool,
    scenario: str | None,
    seed: int,
    into: Path | None,
) -> None:
    """Start a cluster, cold-start real checkpoints, and compare.

    Makes six checkpoints (Llama-, Qwen-, OPT- and GPT-2-like, 1.2 GB), runs a
    controller and three store nodes with two slots each as processes, sends
    OpenAI requests in bursts, and shows every start by phase. Then it measures
    first tokens from SSD and DRAM beside `from_pretrained`. It needs the extra
    `node`, and leaves nothing running.

    \b
    pilotlight demo
    pilotlight demo --short
    pilotlight demo --replay demo --seed 2 --record demo-2
    """
    if scenario is not None:
        from pilotlight.scheduler.demo.recorded_run import RecordedRun, record
        from pilotlight.scheduler.simulation.scenarios import load_scenario

        run = RecordedRun(
            directory=directory.absolute(),
            into=(into or directory / "recorded").absolute(),
            scenario=load_scenario(scenario),
            seed=seed,
            policy=policy,
        )
        raise SystemExit(record(run, say=click.echo))
    from pilotlight.scheduler.demo.demo import Plan, run_demo

    plan = Plan(
        directory=directory.absolute(),
        json_file=json_file,
        policy=policy,
        repetitions=1 if short else repetitions,
        bursts=2 if short else 8,
    )
    raise SystemExit(run_demo(plan))
