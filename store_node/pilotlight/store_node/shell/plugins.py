"""Engines and evictors by name, as the settings ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from pilotlight.process.plugins import load_plugin
from pilotlight.store_node.core import Evictable, Evictor, LruEvictor
from pilotlight.store_node.engines import find_engine, installed_engines
from pilotlight.store_node.errors import EngineUnavailable, UnknownEngine
from pilotlight.store_node.protocol import Reference

EVICTORS = "pilotlight.evictors"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """The engines of a node, by name."""

    targets: Mapping[str, str]
    """"module:class"."""
    versions: Mapping[str, str]


def find_engines(wanted: Sequence[str]) -> Engines:
    """Return the engines that were asked for, or all installed ones that work here.

    Raises:
        UnknownEngine, EngineUnavailable: one that was asked for is not to be had, or none is.
    """
    installed = installed_engines()
    versions: dict[str, str] = {}
    for name in wanted or installed:
        try:
            versions[name] = find_engine(name).version()
        except EngineUnavailable as exc:
            if wanted:
                raise
            log.warning("engine left out", engine=name, reason=str(exc))
    if not versions:
        raise UnknownEngine(", ".join(wanted) or "any", installed=installed)
    return Engines(targets={name: installed[name] for name in versions}, versions=versions)


def find_evictor(name: str) -> Evictor:
    """Return the evictor of that name; what goes wrong in it later is not fatal.

    Raises:
        PluginError: there is none, or it can't be loaded.
    """
    return GuardedEvictor(name, load_plugin(EVICTORS, name)())


class GuardedEvictor:
    """An evictor that is replaced by the built-in one when it fails."""

    def __init__(self, name: str, evictor: Evictor) -> None:
        self._name = name
        self._evictor = evictor

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Ask the evictor; after its first failure, the built-in one."""
        try:
            return list(self._evictor.choose(candidates, needed_bytes=needed_bytes, now=now))
        # A third party's policy may raise anything; the node goes on without it.
        except Exception as exc:
            log.error("evictor replaced by lru", evictor=self._name, reason=repr(exc))
            self._evictor = LruEvictor()
            return self._evictor.choose(candidates, needed_bytes=needed_bytes, now=now)
