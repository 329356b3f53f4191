"""Error codes as gRPC statuses with `google.rpc.ErrorInfo`: one table for both sides.

The node aborts calls with `status_of`; whoever calls a node reads `refusal_of`.
"""
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

from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal

DOMAIN = "store_node.pilotlight"
"""The `domain` of this component's ErrorInfo."""

STATUS_CODES: Mapping[ErrorCode, grpc.StatusCode] = MappingProxyType(
    {
        ErrorCode.STALE_EPOCH: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.WRONG_INCARNATION: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.NODE_STOPPING: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.UNKNOWN_CHECKPOINT: grpc.StatusCode.NOT_FOUND,
        ErrorCode.UNKNOWN_FILE: grpc.StatusCode.NOT_FOUND,
        ErrorCode.FILE_TOO_LARGE: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.QUARANTINED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.LAYOUT_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.UNKNOWN_ENGINE: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.UNKNOWN_REPLICA: grpc.StatusCode.NOT_FOUND,
        ErrorCode.REPLICA_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
        ErrorCode.REPLICA_BUSY: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.ALREADY_READY: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.DEVICES_BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.TOO_LARGE: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.DRAM_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.PINNED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.LOADING: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.NOT_READY: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.NO_SLOT: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.NO_KV_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.INCOMPATIBLE: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.STALE_ATTEMPT: grpc.StatusCode.ABORTED,
        ErrorCode.SUPERSEDED: grpc.StatusCode.ABORTED,
        ErrorCode.CONTEXT_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorCode.INVALID_LOGITS: grpc.StatusCode.INTERNAL,
        ErrorCode.ENGINE_FAILED: grpc.StatusCode.INTERNAL,
        ErrorCode.SLOW_CLIENT: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.REPLICA_STOPPED: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.WORKER_DIED: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.CHECKSUM_MISMATCH: grpc.StatusCode.DATA_LOSS,
        ErrorCode.READ_FAILED: grpc.StatusCode.INTERNAL,
        ErrorCode.FILE_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
    }
)

_NUMBERS: Mapping[grpc.StatusCode, int] = MappingProxyType(
    # grpc's stubs type an enum member's value as the enum; it is (number, name).
    {code: code.value[0] for code in grpc.StatusCode}
)


def status_of(refusal: Refusal) -> grpc.Status:
    """Return the status that says what `refusal` says, for `ServicerContext.abort_with_status`."""
    info = error_details_pb2.ErrorInfo(reason=refusal.code.upper(), domain=DOMAIN)
    detail = any_pb2.Any()
    detail.Pack(info)
    number = _NUMBERS[STATUS_CODES[refusal.code]]
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=number, message=refusal.message, details=[detail])
    )
    return status


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal | None:
    """Return what a node said with that status; None where no node said it.

    Transport errors (nobody listens, the connection broke) carry no ErrorInfo,
    and neither do errors of a version that uses codes unknown here.
    """
    # What grpc_status asks of a call, this error has too.
    call: Any = error
    status = rpc_status.from_call(call)
    if status is None:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason.lower() in _KNOWN:
            return Refusal(code=ErrorCode(info.reason.lower()), message=status.message)
    return None


_KNOWN = frozenset(ErrorCode)
