"""The verb that talks to a model."""

from __future__ import annotations

import sys

import click

from pilotlight.process.ports import Address
from pilotlight.scheduler.cli.controller import connected, controller_option

_MOST_TOKENS = (1 << 31) - 1
_MOST_SEED = (1 << 64) - 1


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--max-tokens", type=click.IntRange(1, _MOST_TOKENS), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0.0), default=None, help="0 = greedy.")
@click.option("--seed", type=click.IntRange(0, _MOST_SEED), default=None)
@click.option("--system", default=None, help="What the model is told about itself.")
@click.option("--raw", is_flag=True, help="Let the model continue the prompt: no chat template.")
@controller_option
def chat(
    model: str,
    prompt: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    system: str | None,
    raw: bool,
    controller: Address,
) -> None:
    """Talk to a MODEL; the first answer starts it.

    With a PROMPT, answer that and end. Without one, read lines until the end of
    the input (Ctrl-D) and keep the conversation.

    \b
    pilotlight chat llama "Why is the sky blue?"
    pilotlight chat opt "Once upon a time" --raw --temperature 0
    """
    from pilotlight.scheduler.cli.conversation import Conversation

    conversation = Conversation(
        model=model,
        raw=raw,
        max_tokens=max_tokens,
        temperature=temperature,
        system=system,
        seed=seed,
    )
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
