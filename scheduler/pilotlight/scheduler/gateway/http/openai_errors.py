"""The HTTP status of each error, and OpenAI's form for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from pilotlight.scheduler.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientTooSlow,
    DeadlineExceeded,
    DuplicateRequest,
    InvalidRequest,
    LeadershipLost,
    ModelBroken,
    ModelUnavailable,
    NoNodes,
    QueueFull,
    RequestLost,
    ServerStopping,
    StateUnavailable,
    UnknownModel,
    UnsupportedMediaType,
)

CLIENT_GONE_STATUS = 499
"""What logs and metrics say of a request whose client left; nobody receives it."""

_RETRY_SECONDS = 5
"""When to ask again where the error does not know better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """An error as a client gets it."""

    status: int
    code: str | None
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class _Row(NamedTuple):
    error: type[Exception]
    status: int
    kind: str
    code: str | None
    retry: bool = False


_TABLE = (
    _Row(InvalidRequest, 400, "invalid_request_error", None),
    _Row(UnknownModel, 404, "invalid_request_error", "model_not_found"),
    _Row(DuplicateRequest, 409, "invalid_request_error", "duplicate_request"),
    _Row(ClientTooSlow, 408, "invalid_request_error", "client_too_slow"),
    _Row(BodyTimeout, 408, "invalid_request_error", "body_timeout"),
    _Row(BodyTooLarge, 413, "invalid_request_error", "body_too_large"),
    _Row(UnsupportedMediaType, 415, "invalid_request_error", "unsupported_media_type"),
    _Row(QueueFull, 429, "rate_limit_error", "queue_full", retry=True),
    _Row(ModelBroken, 500, "server_error", "invalid_logits"),
    _Row(ModelUnavailable, 503, "server_error", "model_unavailable", retry=True),
    _Row(NoNodes, 503, "server_error", "model_unavailable", retry=True),
    _Row(RequestLost, 503, "server_error", "request_lost", retry=True),
    _Row(StateUnavailable, 503, "server_error", "state_unavailable", retry=True),
    _Row(LeadershipLost, 503, "server_error", "leadership_lost", retry=True),
    _Row(ServerStopping, 503, "server_error", "server_stopping", retry=True),
    _Row(DeadlineExceeded, 504, "server_error", "deadline_exceeded"),
)
_INTERNAL = _Row(Exception, 500, "server_error", "internal_error")


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(msgspec.Struct):
    error: _Error


def error_reply(error: Exception, *, path: str = "") -> ErrorReply:
    """Return what a client gets for an error; of an unexpected one no more than that."""
    if isinstance(error, HTTPException):
        return _routing_reply(error, path)
    row = next((row for row in _TABLE if isinstance(error, row.error)), _INTERNAL)
    message = str(error) if row is not _INTERNAL else "internal error; the server's log has more"
    return ErrorReply(
        status=row.status,
        code=_code(error, row),
        body=_body(_Error(message, row.kind, _param(error), _code(error, row))),
        headers=_retry_headers(error) if row.retry else {},
    )


def is_expected(error: Exception) -> bool:
    """Tell whether an error has a status of its own, and needs no traceback."""
    return isinstance(error, (HTTPException, *(row.error for row in _TABLE)))


def _routing_reply(error: HTTPException, path: str) -> ErrorReply:
    if error.status_code == 404:
        code, message = "unknown_url", f"no such URL: {path}"
    else:
        code, message = "method_not_allowed", f"{error.detail}: {path}"
    return ErrorReply(
        status=error.status_code,
        code=code,
        body=_body(_Error(message, "invalid_request_error", None, code)),
        headers=error.headers or {},
    )


def _code(error: Exception, row: _Row) -> str | None:
    own = error.code if isinstance(error, InvalidRequest) else None
    return own or row.code


def _param(error: Exception) -> str | None:
    if isinstance(error, InvalidRequest):
        return error.param
    return "model" if isinstance(error, UnknownModel) else None


def _retry_headers(error: Exception) -> dict[str, str]:
    seconds = error.retry_after_seconds if isinstance(error, QueueFull) else _RETRY_SECONDS
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def _body(error: _Error) -> bytes:
    return msgspec.json.encode(_ErrorBody(error))
