"""What the gateway and the process that renders its chat templates say to each other.

One line of JSON for each request, one for each answer.
"""

from __future__ import annotations

import enum

import msgspec

MEMORY_BYTES = 1 << 30
"""Of address space; Python and jinja take 25 MB, a conversation some times its size."""
ANSWER_BYTES = 8 << 20
"""Some two million tokens; the tokenizer takes 300 MB of memory for one million."""
RENDER_SECONDS = 2.0
"""Of processor time; templates in use take a millisecond, and 0.1 s for 4 MB."""
KILL_SECONDS = 4
"""Of processor time: what is not interrupted, a single call of C, ends with its process."""


class Failure(enum.StrEnum):
    """Why there is no text."""

    BROKEN = "broken"
    """It is no template; with a reason."""
    REFUSED = "refused"
    """The template says so; with a reason."""
    TOO_LARGE = "too_large"
    TOO_LONG = "too_long"
    TOO_SLOW = "too_slow"
    STUCK = "stuck"
    """It was killed for want of an answer: the gateway's own verdict, as are the next."""
    ENDED = "ended"
    """The process broke off."""
    NOT_STARTED = "not_started"
    """There is no process; with a reason."""


class RenderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for the text of a conversation."""

    number: int
    source: str
    special_tokens: dict[str, str]
    messages: list[dict[str, str]]


class RenderAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text, or why there is none."""

    number: int
    text: str = ""
    failure: Failure | None = None
    reason: str = ""
