"""The verb that talks to a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from pilotlight.process.ports import Address
from pilotlight.scheduler.cli.controller import connected, controller_option

_MOST_TOKENS = (1 << 31) - 1
_MOST_SEED = (1 << 64) - 1
_MOST_ID = (1 << 32) - 1


def _parse_biases(
    context: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[int, float]:
    return dict(_parse_bias(value) for value in values)


def _parse_bias(value: str) -> tuple[int, float]:
    token_id, _, bias = value.partition("=")
    if token_id.isdecimal() and int(token_id) <= _MOST_ID:
        with suppress(ValueError):
            return int(token_id), float(bias)
    raise click.BadParameter(f"{value!r} is no ID=BIAS, such as 50256=-100")


_PENALTY = click.FloatRange(-2.0, 2.0)


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--max-tokens", type=click.IntRange(1, _MOST_TOKENS), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0), default=None, help="0 = greedy.")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=None)
@click.option("--top-k", type=click.IntRange(0, _MOST_TOKENS), default=None, help="0 = all.")
@click.option("--presence-penalty", type=_PENALTY, default=None, help="For what was said.")
@click.option("--frequency-penalty", type=_PENALTY, default=None, help="For each time it was said.")
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(0.0, 10.0, min_open=True),
    default=None,
    help="For what was said or asked; 1 = off.",
)
@click.option(
    "--logit-bias",
    metavar="ID=BIAS",
    multiple=True,
    callback=_parse_biases,
    help="Make a token likelier, or less so: -100 to 100. May be repeated.",
)
@click.option("--seed", type=click.IntRange(0, _MOST_SEED), default=None)
@click.option("--system", default=None, help="What the model is told about itself.")
@click.option("--raw", is_flag=True, help="Let the model continue the prompt: no chat template.")
@controller_option
def chat(
    model: str,
    prompt: str | None,
    system: str | None,
    raw: bool,
    controller: Address,
    **sampling: Any,
) -> None:
    """Talk to a MODEL; the first answer starts it.

    With a PROMPT, answer that and end. Without one, read lines until the end of
    the input (Ctrl-D) and keep the conversation.

    \b
    pilotlight chat llama "Why is the sky blue?"
    pilotlight chat opt "Once upon a time" --raw --temperature 0
    """
    from pilotlight.scheduler.cli.conversation import Conversation

    conversation = Conversation(model=model, raw=raw, system=system, sampling=sampling)
    with connected(controller) as stub:
        if prompt is not None:
            conversation.say(stub, prompt)
            return
        while (line := _read_line()) is not None:
            if line.strip():
                conversation.say(stub, line)


def _read_line() -> str | None:
    if sys.stdin.isatty():
        try:
            return click.prompt("", prompt_suffix="> ", default="", show_default=False)
        except click.Abort:
            click.echo()
            return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
