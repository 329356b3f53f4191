"""The command itself: what every verb has in common, from its name to its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import click

from pilotlight.scheduler.cli.verbs import VerbGroup

DONE = 0
FAILED = 1
INTERRUPTED = 130


@click.group(
    name="pilotlight",
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\n"
    "Try it:  pilotlight demo                  everything, on models that it makes\n"
    "Use it:  pilotlight up --models DIR       a controller and nodes on this machine\n"
    "         pilotlight deploy NAME PATH      a checkpoint below DIR\n"
    "         pilotlight chat NAME             or any OpenAI client, at 127.0.0.1:8000\n"
    "pilotlight VERB --help tells more of each.",
)
@click.version_option(package_name="pilotlight", message="%(prog)s %(version)s")
def pilotlight() -> None:
    """Start large language models on a cluster in the least time."""


def main() -> None:
    """Run `pilotlight` and end this process with its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.stdout is None:
        sys.exit("Error: standard output is closed")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return 0 (done), 1 (failed), 2 (wrong usage) or 130 (interrupted).

    What can be expected to fail is told in one line on stderr; a traceback is a
    bug's.
    """
    try:
        code = pilotlight.main(arguments, prog_name="pilotlight", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except BrokenPipeError:
        _discard_output()
        return FAILED
    except Exception as exc:
        if (line := _expected(exc)) is None:
            raise
        click.echo(f"Error: {line}", err=True)
        return FAILED
    return code if isinstance(code, int) else DONE


def _expected(exc: Exception) -> str | None:
    """Return one line for an error that is ours or the system's, None for a bug."""
    if type(exc).__module__.startswith("pilotlight."):
        return " ".join(str(exc).split()) or type(exc).__name__
    if isinstance(exc, UnicodeDecodeError) or (
        isinstance(exc, UnicodeEncodeError) and exc.reason == "surrogates not allowed"
    ):
        return "text that is not UTF-8 was given"
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return None


def _discard_output() -> None:
    """Keep the interpreter from writing what is left to a pipe that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
