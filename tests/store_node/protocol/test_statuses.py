from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.protocol.statuses import STATUS_CODES, refusal_of, status_of


def _error(status: grpc.Status) -> grpc.aio.AioRpcError:
    """Return what a caller gets when a node aborts with that status."""
    return grpc.aio.AioRpcError(
        status.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*status.trailing_metadata),
        details=status.details,
    )


def _status(*, domain: str, reason: str) -> grpc.Status:
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason))
    made: grpc.Status = rpc_status.to_status(status)
    return made


def test_every_code_has_a_status() -> None:
    assert set(STATUS_CODES) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_a_refusal_reads_the_same_on_the_other_side(code: ErrorCode) -> None:
    refusal = Refusal(code=code, message="device 3 is taken: “busy”")

    error = _error(status_of(refusal))

    assert error.code() is STATUS_CODES[code]
    assert refusal_of(error) == refusal


def test_a_transport_error_is_no_refusal() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="gone"
    )

    assert refusal_of(error) is None


@pytest.mark.parametrize(
    ("domain", "reason"),
    [("elsewhere.example", "PINNED"), ("store_node.pilotlight", "A_CODE_OF_A_LATER_VERSION")],
)
def test_what_is_said_in_words_unknown_here_is_no_refusal(domain: str, reason: str) -> None:
    assert refusal_of(_error(_status(domain=domain, reason=reason))) is None
