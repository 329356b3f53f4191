"""The process that compiles and renders chat templates, which may come from anybody.

Run as `python -m pilotlight.scheduler.gateway.text.template_process PARENT_PID`
by a controller, which speaks to it over stdin and stdout. It imports little, so
that it is there in a tenth of a second, and ends when its stdin does.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, NoReturn

import msgspec

from pilotlight.process.lifeline import die_with_parent
from pilotlight.scheduler.gateway.text.chat_template import ChatTemplate
from pilotlight.scheduler.gateway.text.template_messages import (
    ANSWER_BYTES,
    KILL_SECONDS,
    MEMORY_BYTES,
    RENDER_SECONDS,
    Failure,
    RenderAnswer,
    RenderRequest,
)

_KEPT_TEMPLATES = 32
_REASON_CHARACTERS = 1000

_decode = msgspec.json.Decoder(RenderRequest).decode
_encode = msgspec.json.Encoder().encode


class _OutOfTime(BaseException):
    """Raised by the timer, wherever the template is; nothing catches it on the way."""


def answer(line: bytes) -> bytes:
    """Return the line that answers a request, without its end; for the main thread."""
    request = _decode(line)
    stage = Failure.BROKEN
    try:
        with _limited_time():
            template = _compiled(request.source)
            stage = Failure.REFUSED
            text = template.render(request.messages, special_tokens=request.special_tokens)
        answered = _encode(RenderAnswer(number=request.number, text=text))
    except _OutOfTime:
        return _failure(request, Failure.TOO_SLOW)
    except MemoryError:
        return _failure(request, Failure.TOO_LARGE)
    # The outermost loop: templates may raise whatever Python does.
    except Exception as exc:
        return _failure(request, stage, reason=str(exc) or type(exc).__name__)
    if len(answered) > ANSWER_BYTES:
        return _failure(request, Failure.TOO_LONG)
    return answered


def serve(
    requests: BinaryIO, answers: BinaryIO, *, before_each: Callable[[], None] = lambda: None
) -> None:
    """Say that it is ready with an empty line, and answer until the requests end."""
    _send(answers, b"")
    for line in requests:
        before_each()
        _send(answers, answer(line))


def main() -> int:
    """Be the process; return the exit code."""
    die_with_parent(int(sys.argv[1]))
    # Ctrl-C goes to the whole group, and means the controller.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, before_each=_limit_processor_time)
    except ConnectionError:
        pass  # The controller is gone, and with it all reason to be.
    return 0


@lru_cache(maxsize=_KEPT_TEMPLATES)
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source)


@contextmanager
def _limited_time() -> Generator[None]:
    """Allow so much time of the processor, however long the machine stands still meanwhile."""
    signal.signal(signal.SIGPROF, _run_out_of_time)
    signal.setitimer(signal.ITIMER_PROF, RENDER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _run_out_of_time(number: int, frame: object) -> NoReturn:
    raise _OutOfTime


def _failure(request: RenderRequest, failure: Failure, *, reason: str = "") -> bytes:
    # A template's own words may be of any length, and no Unicode.
    reason = reason[:_REASON_CHARACTERS].encode(errors="replace").decode()
    return _encode(RenderAnswer(number=request.number, failure=failure, reason=reason))


def _send(answers: BinaryIO, line: bytes) -> None:
    answers.write(line + b"\n")
    answers.flush()


def _limit_processor_time() -> None:
    """Have the kernel end this process where it takes too long for what is asked now."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + KILL_SECONDS, is_final=False)


def _limit(kind: int, limit: int, *, is_final: bool = True) -> None:
    _, most = resource.getrlimit(kind)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(kind, (limit, limit if is_final else most))


if __name__ == "__main__":
    sys.exit(main())
