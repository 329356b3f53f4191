"""Renders chat templates in a process that they can't take anything down with.

Theory of operation. A template comes with a checkpoint, that is, from anybody:
it may loop for ever or ask for all memory there is. So a child process renders,
limited in time, memory and what it answers, and one task here owns it: it gives
it one request after the other, kills it when it does not answer, and starts
another. Whoever waits for an answer may leave at any time, since the task goes on
with the request and drops its answer.

A child that ran out of memory or broke off may have done so for what it
rendered before, so the request is tried once more, by a new one. A template that
took too much for a short conversation is refused for some seconds, lest it keep
the others waiting; with a long one it may be the messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import msgspec
import structlog

from pilotlight.scheduler.errors import InvalidRequest, UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.template_child import TemplateChild
from pilotlight.scheduler.gateway.text.template_messages import (
    ANSWER_BYTES,
    MEMORY_BYTES,
    RENDER_SECONDS,
    Failure,
    RenderAnswer,
    RenderRequest,
)
from pilotlight.scheduler.gateway.text.text_request import ChatMessage

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 15.0
"""For an answer: the child keeps its time itself, and a busy machine may give it little."""
REFUSE_SECONDS = 5.0
SHORT_BYTES = 64 << 10
"""Of a request, its template included."""

_TRIED_AGAIN = (Failure.TOO_LARGE, Failure.ENDED)
_REPLACED = (Failure.STUCK, *_TRIED_AGAIN)
"""After these the child is replaced."""
_COSTLY = (Failure.TOO_SLOW, *_REPLACED)

_EXCESSES = {
    Failure.TOO_SLOW: f"runs for more than {RENDER_SECONDS:g} s",
    Failure.STUCK: f"runs for more than {RENDER_SECONDS:g} s",
    Failure.TOO_LARGE: f"takes more than {MEMORY_BYTES >> 30} GiB of memory",
    Failure.TOO_LONG: f"writes more than {ANSWER_BYTES >> 20} MiB",
    Failure.ENDED: "breaks the process that it runs in",
}

_decode = msgspec.json.Decoder(RenderAnswer).decode
_encode = msgspec.json.Encoder().encode


class RenderingProcess(Protocol):
    """What `TemplateChild` is."""

    async def ask(self, line: bytes) -> bytes:
        """Return the line that answers a line; OSError if there will be none."""
        ...

    async def end(self) -> None:
        """End it and wait for that; may be called again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    source: str
    number: int
    line: bytes
    answer: asyncio.Future[RenderAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    answer: RenderAnswer
    until: float  # monotonic seconds


class TemplateRenderer:
    """Renders one conversation at a time, in the order of the requests.

    Use it as an asynchronous context manager: entering it starts the child, and
    leaving it cancels those that wait and ends the child.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[RenderingProcess]] = TemplateChild.start,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._serving: asyncio.Task[None] | None = None
        self._child: RenderingProcess | None = None
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._waiting: set[asyncio.Future[RenderAnswer]] = set()
        self._n_asked = 0
        self._refusals: dict[str, _Refusal] = {}

    async def __aenter__(self) -> TemplateRenderer:
        await self._tasks.__aenter__()
        self._serving = self._tasks.create_task(self._serve())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._serving is not None, "it was entered"
        self._serving.cancel()
        self._serving = None
        for answer in self._waiting:
            answer.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def render(
        self, source: str, *, special_tokens: Mapping[str, str], messages: Sequence[ChatMessage]
    ) -> str:
        """Return the prompt that asks for the assistant's next message.

        Raises:
            InvalidRequest: the template refuses these messages, or takes too much.
            UnreadableExecutionFile: it is no template, or there is no process to render it.
        """
        data = [_as_template_data(message) for message in messages]
        answer = await self._ask(source, dict(special_tokens), data)
        match answer.failure:
            case None:
                return answer.text
            case Failure.BROKEN | Failure.NOT_STARTED:
                raise UnreadableExecutionFile("the chat template", answer.reason)
            case Failure.REFUSED:
                what = f"refuses these messages: {answer.reason}"
            case _:
                what = _EXCESSES[answer.failure]
        raise InvalidRequest(f"the model's chat template {what}", param="messages")

    async def _ask(
        self, source: str, special_tokens: dict[str, str], messages: list[dict[str, str]]
    ) -> RenderAnswer:
        assert self._serving is not None, "it is entered"
        self._n_asked += 1
        request = RenderRequest(
            number=self._n_asked,
            source=source,
            special_tokens=special_tokens,
            messages=messages,
        )
        try:
            line = _encode(request)
        except UnicodeEncodeError as exc:  # half of a surrogate pair, which no tokenizer takes
            return RenderAnswer(number=request.number, failure=Failure.REFUSED, reason=str(exc))
        answer: asyncio.Future[RenderAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        self._jobs.put_nowait(_Job(source=source, number=request.number, line=line, answer=answer))
        try:
            return await answer
        finally:
            self._waiting.discard(answer)

    async def _serve(self) -> None:
        try:
            await self._renew()
            while True:
                job = await self._jobs.get()
                if job.answer.done():
                    continue
                answer = await self._run(job)
                if not job.answer.done():
                    job.answer.set_result(answer)
        finally:
            if self._child is not None:
                await self._child.end()

    async def _run(self, job: _Job) -> RenderAnswer:
        refusal = self._refusals.get(job.source)
        if refusal is not None and self._clock() < refusal.until:
            return refusal.answer
        answer = await self._try(job)
        if answer.failure in _TRIED_AGAIN:
            answer = await self._try(job)
        if answer.failure in _COSTLY and len(job.line) <= SHORT_BYTES:
            self._refuse(job.source, answer)
        return answer

    async def _try(self, job: _Job) -> RenderAnswer:
        answer = await self._exchange(job)
        if answer.failure in _REPLACED:
            log.warning("template process replaced", reason=answer.failure)
            await self._renew()
        return answer

    async def _exchange(self, job: _Job) -> RenderAnswer:
        if self._child is None:
            await self._renew()
        if self._child is None:
            reason = "the process that renders it can't be started"
            return RenderAnswer(number=job.number, failure=Failure.NOT_STARTED, reason=reason)
        try:
            async with asyncio.timeout(self._patience_seconds):
                answer = _decode(await self._child.ask(job.line))
        except TimeoutError:
            return RenderAnswer(number=job.number, failure=Failure.STUCK)
        except (OSError, msgspec.MsgspecError):
            return RenderAnswer(number=job.number, failure=Failure.ENDED)
        if answer.number != job.number:
            return RenderAnswer(number=job.number, failure=Failure.ENDED)
        return answer

    async def _renew(self) -> None:
        if self._child is not None:
            await self._child.end()
            self._child = None
        try:
            self._child = await self._start()
        # It takes a process and, for asyncio, a thread.
        except (OSError, RuntimeError) as exc:
            log.error("template process can't be started", reason=str(exc))

    def _refuse(self, source: str, answer: RenderAnswer) -> None:
        now = self._clock()
        self._refusals = {s: r for s, r in self._refusals.items() if now < r.until}
        self._refusals[source] = _Refusal(answer=answer, until=now + REFUSE_SECONDS)


def _as_template_data(message: ChatMessage) -> dict[str, str]:
    data = {"role": message.role, "content": message.content}
    return data if message.name is None else data | {"name": message.name}
