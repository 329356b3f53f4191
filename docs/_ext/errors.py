"""What errors look like at each door, from the tables that translate them."""

from __future__ import annotations

from docstrings import attribute_docstrings
from tables import code, sentence, table

from pilotlight.scheduler.gateway.http.openai_errors import _TABLE
from pilotlight.scheduler.protocol.statuses import STATUS_CODES
from pilotlight.store_node.protocol import refusals
from pilotlight.store_node.protocol.statuses import STATUS_CODES as NODE_CODES


def markdown(door: str) -> str:
    """Return the errors of the "http" door, of the "grpc" one, or of a "node"."""
    return {"http": _http, "grpc": _grpc, "node": _node}[door]()


def _http() -> str:
    rows = [
        (
            str(row.status),
            code(row.kind),
            code(row.code or ""),
            "yes" if row.retry else "",
            sentence(row.error.__doc__),
        )
        for row in sorted(_TABLE, key=lambda row: row.status)
    ]
    return table(["Status", "`type`", "`code`", "`Retry-After`", "Meaning"], rows)


def _grpc() -> str:
    rows = [
        (code(status.name), code(error.__name__), sentence(error.__doc__))
        for error, status in STATUS_CODES.items()
    ]
    return table(["Status", "`reason`", "Meaning"], rows)


def _node() -> str:
    meanings = attribute_docstrings(refusals.ErrorCode)
    rows = [
        (code(error), code(NODE_CODES[error].name), meanings.get(error.name, ""))
        for error in refusals.ErrorCode
    ]
    return table(["Code", "gRPC status", "Meaning"], rows)
