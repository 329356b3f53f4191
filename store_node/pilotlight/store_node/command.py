"""The verb `node`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process.commands import BYTES, exit_with_parent_option
from pilotlight.process.log_options import LOG_FORMATS, LOG_LEVELS

if TYPE_CHECKING:
    from pilotlight.store_node.settings import NodeSettings


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A YAML file with apiVersion: pilotlight/v1 and kind: NodeConfig.",
)
@click.option("--name", default=None, help="Unique in the cluster.  [default: the host's name]")
@click.option("--controller", metavar="HOST:PORT", default=None, help="[default: 127.0.0.1:50051]")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=None,
    help="Port 0 = any free one.  [default: 127.0.0.1:0]",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    default=None,
    help="How others reach this node.  [default: what it listens on]",
)
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Checkpoints lie below it; may be repeated.  [default: $PILOTLIGHT_HOME/models]",
)
@click.option("--devices", type=click.IntRange(1), default=None, help="CPU slots.  [default: 2]")
@click.option(
    "--device-memory",
    "device_bytes",
    type=BYTES,
    default=None,
    help="Weights that one device holds.  [default: its share of a quarter of the memory]",
)
@click.option(
    "--dram",
    "dram_bytes",
    type=BYTES,
    default=None,
    help="Checkpoints kept in memory beside those.  [default: a quarter of the memory]",
)
@click.option(
    "--nodes-here",
    type=click.IntRange(1),
    default=None,
    help="Nodes on this machine, which share its memory and processors.  [default: 1]",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="An engine to offer; may be repeated.  [default: all that are installed]",
)
@click.option(
    "--warm-workers", type=click.IntRange(0), default=None, help="Per engine.  [default: 2]"
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=None,
    help="Per worker.  [default: the processors divided by the devices]",
)
@click.option(
    "--metrics", "metrics_listen", metavar="HOST:PORT", default=None, help="For Prometheus."
)
@click.option("--log-format", type=click.Choice(LOG_FORMATS), default=None)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default=None)
@exit_with_parent_option
def node(config: Path | None, parent_pid: int | None, **flags: Any) -> None:
    """Run a store node: it loads checkpoints, leases devices and runs models.

    The node serves what lies below its --models directories: Hugging Face
    directories of safetensors, cache snapshots, packed checkpoints. It keeps
    what was used last in memory (--dram), and registers with the controller,
    which decides what starts where; while none can be reached, what runs goes on.

    Settings come from --config, the environment (PILOTLIGHT_DEVICES,
    PILOTLIGHT_LOG__LEVEL …) and flags, the later winning. Ctrl-C stops the node
    and its replicas; a second one ends it at once.

    \b
    pilotlight node --models ~/models
    pilotlight node --controller 10.0.0.1:50051 --listen 10.0.0.7:50060 --devices 4 --dram 64GiB
    """
    if parent_pid is not None:
        from pilotlight.process.lifeline import die_with_parent

        die_with_parent(parent_pid or None)
    _run(_read(config, flags))


def _read(config: Path | None, flags: dict[str, Any]) -> NodeSettings:
    from pilotlight.process.settings import read_settings
    from pilotlight.store_node.settings import KIND, NodeSettings

    log = {f"log.{name}": flags.pop(f"log_{name}") for name in ("format", "level")}
    overrides = {name: value or None for name, value in flags.items()} | log
    for name in ("controller", "device_bytes", "dram_bytes", "warm_workers"):
        # Nothing is something here: no controller, no DRAM tier, no warm workers.
        overrides[name] = flags[name]
    return read_settings(KIND, NodeSettings, path=config, environ=os.environ, overrides=overrides)


def _run(settings: NodeSettings) -> None:
    import asyncio
    import resource

    from pilotlight.process.logs import configure_logs
    from pilotlight.store_node.shell.serving import serve

    # The C core of gRPC writes to stderr what the node says in its own log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    configure_logs(settings.log.format, settings.log.level)
    # A load holds two descriptors per weight file, and large models have hundreds of those.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(serve(settings, os.environ))
