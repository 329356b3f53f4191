"""What a call to a node fails with, as grpc raises it."""
# pyright: basic
# grpc_status comes without types.

from __future__ import annotations

from typing import Any

import grpc

from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.protocol.statuses import status_of


def refused(code: ErrorCode, message: str = "") -> grpc.aio.AioRpcError:
    """Return the error of a call that its node has answered with one of its words."""
    status = status_of(Refusal(code=code, message=message or f"it is {code}"))
    return _error(status.code, status.details, status.trailing_metadata)


def broken(
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, details: str = "Socket closed"
) -> grpc.aio.AioRpcError:
    """Return the error of a call that no node has answered."""
    return _error(code, details, ())


def _error(code: Any, details: str, trailing: Any) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata
    return grpc.aio.AioRpcError(code, metadata(), metadata(*trailing), details)
