"""A child's end: where its questions come from, and its answers go."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from pilotlight.process.lifeline import die_with_parent


class Mishap(msgspec.Struct, frozen=True, kw_only=True):
    """What a child says instead of an answer."""

    mishap: str
    """One line."""


class Answers:
    """Answers by stdout; what libraries print goes to the log."""

    def __init__(self) -> None:
        """Take over stdout; the parent's pid is the first argument of the command line."""
        die_with_parent(int(sys.argv[1]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._out = os.dup(1)
        os.dup2(2, 1)

    def say(self, answer: object) -> None:
        """Write one answer."""
        os.write(self._out, msgspec.json.encode(answer) + b"\n")

    def serve(self, questions: Any, handle: Callable[[Any], None]) -> None:
        """Have each question handled, of one of these types, until nobody asks any more.

        Whoever handles it says the answer; where it raises, that is the answer.
        """
        decoder = msgspec.json.Decoder[Any](questions)
        for line in sys.stdin:
            self.attempt(partial(handle, decoder.decode(line)))

    def attempt(self, work: Callable[[], object]) -> None:
        """Do something that ends with an answer; where it fails, that is the answer."""
        try:
            work()
        # The outermost loop: whatever it is, whoever waits gets an answer.
        except Exception as error:
            self.say(Mishap(mishap=f"{type(error).__name__}: {error}".partition("\n")[0]))
