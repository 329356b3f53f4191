"""The parameters of the OpenAI endpoints, from the Structs that bodies are read into."""

from __future__ import annotations

import msgspec
import msgspec.inspect
from tables import code, table

# Private names, for the reader of bodies is the one who knows.
from pilotlight.scheduler.gateway.http.openai_requests import _ChatBody, _CompletionBody
from pilotlight.scheduler.gateway.http.unsupported import HARMLESS
from pilotlight.scheduler.gateway.text.text_request import TextRequest, _rules

_FLAG = "true or false"


def markdown(which: str) -> str:
    """Return a table of the "supported" or of the "refused" parameters."""
    return _refused() if which == "refused" else _supported()


def _supported() -> str:
    rules = _rule_by_parameter()
    endpoints: dict[tuple[str, str], list[str]] = {}
    for endpoint, body in (("chat", _ChatBody), ("completions", _CompletionBody)):
        for field in msgspec.structs.fields(body):
            kind = _name(msgspec.inspect.type_info(field.type))
            endpoints.setdefault((field.encode_name, kind), []).append(endpoint)
    rows = [
        (code(name), kind, ", ".join(where), "" if kind == _FLAG else rules.get(name, ""))
        for (name, kind), where in endpoints.items()
    ]
    return table(["Parameter", "Type", "Endpoint", "Must be"], rows)


def _refused() -> str:
    rows = [
        (
            code(name),
            ", ".join(code(msgspec.json.encode(value).decode()) for value in (None, *values)),
        )
        for name, values in sorted(HARMLESS.items())
    ]
    return table(["Parameter", "Accepted, since it changes nothing"], rows)


def _rule_by_parameter() -> dict[str, str]:
    found: dict[str, str] = {}
    for _, name, rule in _rules(TextRequest(model="m", prompt="p")):
        found[name] = f"{found[name]}; {rule}" if name in found else rule
    return found


def _name(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType():
            parts = [part for part in kind.types if not isinstance(part, msgspec.inspect.NoneType)]
            return " or ".join(map(_name, parts))
        case msgspec.inspect.ListType(item_type=msgspec.inspect.UnionType() as items):
            return f"list of ({_name(items)})"
        case msgspec.inspect.ListType():
            return f"list of {_name(kind.item_type)}s"
        case msgspec.inspect.DictType():
            return f"object of {_name(kind.value_type)}s"
        case msgspec.inspect.StructType():
            return "object"
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.BoolType():
            return _FLAG
        case msgspec.inspect.IntType():
            return "whole number"
        case msgspec.inspect.FloatType():
            return "number"
        case _:
            raise TypeError(f"no words for {kind}")
