"""The verbs, as click knows them."""

from __future__ import annotations

import inspect

import click
from tables import code, table

from pilotlight.scheduler.cli.program import pilotlight
from pilotlight.scheduler.cli.verbs import SECTIONS


def markdown(_argument: str) -> str:
    """Return a section for each group of verbs, with a part for each verb."""
    parts: list[str] = []
    context = click.Context(pilotlight, info_name="pilotlight")
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        for name in names:
            command = pilotlight.get_command(context, name)
            assert command is not None, f"the help lists {name}"
            parts += _parts(name, command, context)
    return "\n".join(parts)


def _parts(name: str, command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent)
    found = [f"### pilotlight {name}\n", _description(command, context)]
    if isinstance(command, click.Group):
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            assert inner is not None, f"the help of {name} lists {inner_name}"
            inner_context = click.Context(inner, info_name=inner_name, parent=context)
            found += [f"#### pilotlight {name} {inner_name}\n", _description(inner, inner_context)]
    return found


def _description(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"```text\n{context.command_path} {usage}\n```", *_help(command)]
    options = [
        record
        for param in command.get_params(context)
        if isinstance(param, click.Option) and "--help" not in param.opts
        if (record := param.get_help_record(context)) is not None
    ]
    if options:
        parts.append(table(["Option", "Meaning"], [(code(name), text) for name, text in options]))
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command) -> list[str]:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return [
        # click's mark for lines that are to stay as they are.
        "```text\n" + paragraph.removeprefix("\b\n") + "\n```"
        if paragraph.startswith("\b")
        else " ".join(paragraph.split())
        for paragraph in paragraphs
    ]
