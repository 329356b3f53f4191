"""The scheduler's errors as gRPC statuses with `google.rpc` details: one table."""
# pyright: basic
# google.rpc and grpc_status come without types.

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from pilotlight.scheduler import errors

DOMAIN = "scheduler.pilotlight"
"""The `domain` of this component's ErrorInfo; its `reason` is the error's class."""

STATUS_CODES: Mapping[type[errors.SchedulerError], grpc.StatusCode] = MappingProxyType(
    {
        errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
        errors.UnknownCheckpoint: grpc.StatusCode.NOT_FOUND,
        errors.InvalidModel: grpc.StatusCode.INVALID_ARGUMENT,
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.NoNodes: grpc.StatusCode.FAILED_PRECONDITION,
        errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
        errors.DuplicateRequest: grpc.StatusCode.ALREADY_EXISTS,
        errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.ClientTooSlow: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.ServerStopping: grpc.StatusCode.UNAVAILABLE,
        errors.RequestLost: grpc.StatusCode.UNAVAILABLE,
        errors.ModelBroken: grpc.StatusCode.INTERNAL,
        errors.StateUnavailable: grpc.StatusCode.UNAVAILABLE,
        errors.LeadershipLost: grpc.StatusCode.UNAVAILABLE,
    }
)


MOST_CHARACTERS = 2_000
"""Of a message: it travels twice, in metadata of 8 KiB at most."""


def status_of(error: errors.SchedulerError) -> grpc.Status:
    """Return the status that says what `error` says, for `ServicerContext.abort_with_status`."""
    code = STATUS_CODES.get(type(error), grpc.StatusCode.INTERNAL)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN)]
    if isinstance(error, errors.QueueFull):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        details.append(retry)
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    # grpc's stubs type an enum member's value as the enum; it is (number, name).
    number: Any = code.value[0]
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=number, message=_shortened(str(error)), details=packed)
    )
    return status


def _shortened(message: str) -> str:
    return message if len(message) <= MOST_CHARACTERS else f"{message[: MOST_CHARACTERS - 1]}…"
