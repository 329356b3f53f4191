"""The HTTP application: OpenAI's API, health and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from pilotlight.scheduler.errors import BodyTimeout, BodyTooLarge, ClientGone, UnknownModel
from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.scheduler.gateway.http.attendance import Attendances
from pilotlight.scheduler.gateway.http.exchange import HttpExchange
from pilotlight.scheduler.gateway.http.generation_endpoint import GenerationEndpoint
from pilotlight.scheduler.gateway.http.limits import HttpLimits
from pilotlight.scheduler.gateway.http.openai_errors import (
    CLIENT_GONE_STATUS,
    error_reply,
    is_expected,
)
from pilotlight.scheduler.gateway.http.openai_requests import read_chat, read_completion
from pilotlight.scheduler.gateway.http.openai_responses import ChatForm, CompletionForm
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_request import is_usable_id

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_REQUEST_ID_HEADER = "x-request-id"
_PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines; not worth a line at INFO."""
_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", *_PROBES)
_MODEL_ROUTE = "/v1/models/{id}"
_UNKNOWN_ROUTE = "_unknown"


class _ModelBody(msgspec.Struct, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "pilotlight"
    max_model_len: int


class _ModelList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[_ModelBody]


class HttpApp:
    """An ASGI application over one text generator.

    `readiness` says why the process can't serve at the moment, None if it can.
    """

    def __init__(
        self,
        generator: TextGenerator,
        *,
        readiness: Callable[[], str | None],
        limits: HttpLimits | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits or HttpLimits()
        self.attendances = Attendances()
        self._generator = generator
        self._readiness = readiness
        self._metrics = generator.metrics
        chat = GenerationEndpoint(
            generator, self.attendances, read=read_chat, form=ChatForm, wall_clock=wall_clock
        )
        completions = GenerationEndpoint(
            generator,
            self.attendances,
            read=read_completion,
            form=CompletionForm,
            wall_clock=wall_clock,
        )
        self._router = Router(
            [
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/completions", completions, methods=["POST"]),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{id:path}", self._show_model),
                Route("/healthz", self._tell_health),
                Route("/readyz", self._tell_readiness),
                Route("/metrics", self._tell_metrics),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request: the outermost loop of all that happens for it."""
        # Routers raise HTTPException instead of answering where there is an application.
        scope["app"] = self
        request_id = self._generator.new_request_id()
        given_id = _given_id(scope)
        send = _with_request_id(send, given_id or request_id)
        exchange = HttpExchange(scope, receive, send, limits=self.limits, request_id=request_id)
        ids = {"request_id": request_id}
        if given_id is not None:
            ids["client_request_id"] = given_id
        started_at = self._metrics.clock()
        with structlog.contextvars.bound_contextvars(**ids):
            try:
                await self._router(scope, receive, exchange.send)
            except Exception as error:
                await _report(error, exchange)
            finally:
                self._note(exchange, self._metrics.clock() - started_at)

    async def _list_models(self, request: Request) -> Response:
        models = [_model_body(model) for model in self._generator.backend.models()]
        return _json(_ModelList(data=models))

    async def _show_model(self, request: Request) -> Response:
        name = request.path_params["id"]
        models = {str(model.name): model for model in self._generator.backend.models()}
        if name not in models:
            raise UnknownModel(name, known=tuple(models))
        return _json(_model_body(models[name]))

    async def _tell_health(self, request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def _tell_readiness(self, request: Request) -> Response:
        reason = self._readiness()
        if reason is None:
            return Response("ready\n", media_type="text/plain")
        return Response(f"not ready: {reason}\n", status_code=503, media_type="text/plain")

    async def _tell_metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._metrics.registry), headers={"content-type": content_type})

    def _note(self, exchange: HttpExchange, seconds: float) -> None:
        path = exchange.scope["path"]
        self._metrics.responses.labels(_route(path), str(exchange.status)).inc()
        tell = _log.debug if path in _PROBES else _log.info
        tell(
            "http request",
            method=exchange.scope["method"],
            path=path,
            status=exchange.status,
            seconds=round(seconds, 6),
            **({"model": exchange.model} if exchange.model else {}),
            **({"error": exchange.error} if exchange.error else {}),
        )


async def _report(error: Exception, exchange: HttpExchange) -> None:
    """Tell the client of an error, in the way that is left at this point."""
    if not isinstance(error, ClientGone) and not is_expected(error):
        _log.error("http request failed", exc_info=error)
    try:
        await _answer(error, exchange)
    except ClientGone:
        exchange.error = "client_gone"
        exchange.status = CLIENT_GONE_STATUS


async def _answer(error: Exception, exchange: HttpExchange) -> None:
    if isinstance(error, ClientGone):
        raise error
    reply = error_reply(error, path=exchange.scope["path"])
    exchange.error = reply.code or "invalid_request"
    if exchange.has_started:
        await exchange.break_off(reply.body)
    elif isinstance(error, BodyTooLarge):
        await exchange.respond_and_linger(reply.status, reply.body)
    elif isinstance(error, BodyTimeout):
        await exchange.respond(reply.status, reply.body, headers={"connection": "close"})
    else:
        await exchange.respond(reply.status, reply.body, headers=reply.headers)


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID_HEADER.encode():
            text = str(value, "latin-1")
            return text if is_usable_id(text) else None
    return None


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[_REQUEST_ID_HEADER] = request_id
        await send(message)

    return send_with_id


def _route(path: str) -> str:
    if path in _ROUTES:
        return path
    return _MODEL_ROUTE if path.startswith("/v1/models/") else _UNKNOWN_ROUTE


def _model_body(model: ServedModel) -> _ModelBody:
    return _ModelBody(
        id=model.name, created=int(model.deployed_at), max_model_len=model.context_tokens
    )


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
