"""The verbs, found by entry points and loaded when they are used.

A third party adds a verb with an entry point of group `pilotlight.commands`, and
one of `pilotlight bench` with one of group `pilotlight.bench`; one that fails to
load is told of in its own place and harms no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import click

from pilotlight.process.commands import CommandError

GROUP = "pilotlight.commands"
BENCH_GROUP = "pilotlight.bench"

# In the order in which people meet them.
SECTIONS = {
    "Run": ("demo", "up", "controller", "node"),
    "Models": ("deploy", "delete", "models", "fetch", "evict", "chat"),
    "Look": ("nodes", "replicas", "starts", "events"),
    "Checkpoints": ("pack", "inspect", "verify", "load"),
    "Measure": ("bench",),
    "Simulate": ("simulate", "calibrate", "traces"),
    "Maintain": ("db",),
}
_OTHERS = "More"

# A summary is the first sentence of a verb's help; a long one takes a second line.
_SUMMARY_CHARACTERS = 120


@cache
def find_verbs() -> Mapping[str, EntryPoint]:
    """Return the installed verbs by name."""
    return _find(GROUP)


@cache
def find_benches() -> Mapping[str, EntryPoint]:
    """Return the installed verbs of `pilotlight bench` by name."""
    return _find(BENCH_GROUP)


class PluginGroup(click.Group):
    """A group whose commands are entry points."""

    def points(self) -> Mapping[str, EntryPoint]:
        """Return the entry points by the names of their commands."""
        raise NotImplementedError

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return sorted(self.points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, loading its module."""
        point = self.points().get(cmd_name)
        return None if point is None else _load(point)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a command line; for one that is not there, name the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as exc:
            names = self.list_commands(ctx)
            raise click.NoSuchCommand(args[0], possibilities=names, ctx=ctx) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with one line each, by section."""
        for section, members in self.sections(self.list_commands(ctx)).items():
            if members:
                with formatter.section(section):
                    formatter.write_dl([(name, self._summary(name)) for name in members])

    def sections(self, names: list[str]) -> dict[str, list[str]]:
        """Return the names by the headings that the help has for them."""
        return {"Commands": names}

    def _summary(self, name: str) -> str:
        try:
            return _load(self.points()[name]).get_short_help_str(limit=_SUMMARY_CHARACTERS)
        except CommandError as exc:
            return f"({exc.message})"


class VerbGroup(PluginGroup):
    """The command itself."""

    def points(self) -> Mapping[str, EntryPoint]:
        """Return the verbs."""
        return find_verbs()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names, sections in their order, others last."""
        known = [name for names in SECTIONS.values() for name in names]
        points = find_verbs()
        return [name for name in known if name in points] + sorted(set(points) - set(known))

    def sections(self, names: list[str]) -> dict[str, list[str]]:
        """Return the verbs by section."""
        return _sections(names)


class BenchGroup(PluginGroup):
    """The verb `bench`."""

    def points(self) -> Mapping[str, EntryPoint]:
        """Return what can be measured."""
        return find_benches()


def _find(group: str) -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        # Where two distributions bring one verb, ours is the one that the help is about.
        if point.name not in points or _distribution(point) == "pilotlight":
            points[point.name] = point
    return points


def _sections(names: list[str]) -> dict[str, list[str]]:
    sections = {
        section: [name for name in members if name in names]
        for section, members in SECTIONS.items()
    }
    placed = {name for members in sections.values() for name in members}
    return sections | {_OTHERS: [name for name in names if name not in placed]}


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    # A third party's module may raise anything at all when it is imported.
    except Exception as exc:
        raise CommandError(f"{_origin(point)} can't be loaded: {exc!r}") from exc
    if not isinstance(command, click.Command):
        raise CommandError(f"{_origin(point)} can't be loaded: {point.value} is no click command")
    return command


def _origin(point: EntryPoint) -> str:
    return f"the verb {point.name!r} of {_distribution(point)}"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
