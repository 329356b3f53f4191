"""The gRPC services, from the comments in their .proto files."""

from __future__ import annotations

import re
from importlib.resources import files

from tables import code, table

_FILES = {
    "ControlPlane": ("pilotlight.scheduler.protocol", "control_plane.proto"),
    "StoreNode": ("pilotlight.store_node.protocol", "store_node.proto"),
    "NodeRegistry": ("pilotlight.store_node.protocol", "store_node.proto"),
}
_RPC = re.compile(
    r"(?P<comment>(?:\s*//.*\n)*)\s*rpc (?P<name>\w+)\((?P<takes>[\w ]+)\)"
    r"\s*returns \((?P<gives>[\w ]+)\);"
)


def markdown(service: str) -> str:
    """Return a table of a service's calls."""
    package, name = _FILES[service]
    text = (files(package) / name).read_text()
    body = re.search(rf"^service {service} \{{(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
    assert body is not None, f"{name} has a service {service}"
    rows = [
        (code(m["name"]), f"{code(m['takes'])} → {code(m['gives'])}", _comment(m["comment"]))
        for m in _RPC.finditer(body[1])
    ]
    return table(["Call", "Messages", "Meaning"], rows)


def _comment(text: str) -> str:
    return " ".join(line.strip().removeprefix("//").strip() for line in text.splitlines()).strip()
