"""What a store node can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from pilotlight.native_loader.memory.memory_limits import available_memory_bytes
from pilotlight.process.log_options import LogFormat, LogLevel
from pilotlight.process.quantities import ByteCount, Seconds

KIND = "NodeConfig"


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is logged, and how."""

    format: LogFormat = "auto"
    """For people (console) or programs (json); auto = by whether stderr is a terminal."""
    level: LogLevel = "info"
    """The least that is told."""


class NodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One store node process."""

    name: str = ""
    """Unique in the cluster; empty = the host's name, with a number where that is taken."""
    home: Path | None = None
    """Where data lies; None = $PILOTLIGHT_HOME or ~/.pilotlight."""
    controller: str = "127.0.0.1:50051"
    """HOST:PORT of the controller; empty = none, the node serves whoever calls it."""
    listen: str = "127.0.0.1:0"
    """HOST:PORT for gRPC; port 0 = any free one."""
    advertise: str = ""
    """HOST:PORT that controller and gateways call; empty = what it listens on."""
    models: tuple[Path, ...] = ()
    """Directories below which checkpoints lie; empty = `models` in the home directory."""
    devices: int = 2
    """Slots of the processor, each for one replica at a time."""
    device_bytes: ByteCount | None = None
    """Weights that one device holds; None = an equal share of a quarter of the memory."""
    dram_bytes: ByteCount | None = None
    """Checkpoints kept in memory beside those; None = a quarter of the memory."""
    nodes_here: int = 1
    """Nodes on this machine, this one included: they share what is not set."""
    engines: tuple[str, ...] = ()
    """Entry points of group pilotlight.engines; empty = all that are installed and work."""
    warm_workers: int = 2
    """Workers kept ready per engine."""
    threads: int = 0
    """Processor threads per worker; 0 = an equal share of the processors for each device."""
    worker_memory_bytes: ByteCount | None = None
    """What a worker may allocate beside its weights, 8 MiB for the stack of each thread among it;
    its replica fails as out_of_memory at the first byte more. None = no limit."""
    loader_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Threads that read each disk, a block of 1 MiB at a time each; 0 = as its probe finds best."""
    evictor: str = "lru"
    """An entry point of group pilotlight.evictors: lru, or value, by seconds of loading saved."""
    rescan_seconds: Seconds = Seconds(5.0)
    """How often the model directories are looked through for new checkpoints."""
    probe: bool = True
    """Measure the disks when the node starts."""
    allow_custom_code: bool = False
    """Run model code that comes with a checkpoint, which then can do all that the node can."""
    stop_grace_seconds: Seconds = Seconds(0.0)
    """What running requests may take to finish when the node is told to stop; those that are cut
    go on at another node that has their model."""
    metrics_listen: str = ""
    """HOST:PORT for Prometheus; empty = no metrics."""
    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How a node divides its machine."""

    device_bytes: int
    dram_bytes: int
    threads: int


def sizes_of(settings: NodeSettings) -> Sizes:
    """Fill in what the settings leave to the machine."""
    n_devices = max(1, settings.devices)
    n_nodes = max(1, settings.nodes_here)
    quarter_bytes = _memory_bytes() // 4 // n_nodes
    return Sizes(
        device_bytes=_or(settings.device_bytes, quarter_bytes // n_devices),
        dram_bytes=_or(settings.dram_bytes, quarter_bytes),
        threads=settings.threads or max(1, len(os.sched_getaffinity(0)) // n_devices // n_nodes),
    )


def _or(size: ByteCount | None, default_bytes: int) -> int:
    return default_bytes if size is None else int(size)


def _memory_bytes() -> int:
    """Return the machine's memory, or what is left of it for this process if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory_bytes()
    return total if available is None else min(total, available)
