"""The endpoints that generate text."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from pilotlight.scheduler.gateway.http.attendance import Attendances, alongside
from pilotlight.scheduler.gateway.http.event_stream import EventStream
from pilotlight.scheduler.gateway.http.exchange import HttpExchange
from pilotlight.scheduler.gateway.http.openai_requests import Call
from pilotlight.scheduler.gateway.http.openai_responses import ReplyForm, join
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_request import TextRequest


class FormOf(Protocol):
    """Makes the form of one call's answer."""

    def __call__(self, call: Call, *, reply_id: str, created: int) -> ReplyForm:
        """Return a form for one answer."""
        ...


class GenerationEndpoint:
    """An ASGI application for POST requests in one of OpenAI's forms.

    A client that leaves cancels its request, at any time after its body is read.
    """

    def __init__(
        self,
        generator: TextGenerator,
        attendances: Attendances,
        *,
        read: Callable[[bytes], Call],
        form: FormOf,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._generator = generator
        self._attendances = attendances
        self._read = read
        self._form = form
        self._wall_clock = wall_clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = HttpExchange.of(scope)
        call = self._read(await exchange.read_json())
        exchange.model = call.request.model
        request = replace(call.request, request_id=exchange.request_id)
        created = int(self._wall_clock())
        form = self._form(call, reply_id=exchange.request_id, created=created)
        if call.is_stream:
            await self._stream(exchange, replace(call, request=request), form)
        else:
            await self._answer(exchange, request, form)

    async def _stream(self, exchange: HttpExchange, call: Call, form: ReplyForm) -> None:
        stream = EventStream(exchange)
        begun: set[int] = set()
        async with (
            self._attendances.attend(exchange.receive),
            alongside(stream.keep_alive()),
            aclosing(self._generator.generate(call.request)) as pieces,
        ):
            async for piece in pieces:
                is_first = piece.index not in begun
                begun.add(piece.index)
                await stream.write(form.chunks(piece, is_first=is_first))
                if piece.usage is not None and call.includes_usage:
                    await stream.write([form.usage_chunk(piece.usage)])
        # Not attended any more: servers report a complete response as a client that left.
        await stream.finish()

    async def _answer(self, exchange: HttpExchange, request: TextRequest, form: ReplyForm) -> None:
        async with (
            self._attendances.attend(exchange.receive),
            aclosing(self._generator.generate(request)) as pieces,
        ):
            answers = join([piece async for piece in pieces])
        await exchange.respond(200, msgspec.json.encode(form.whole(answers)))
