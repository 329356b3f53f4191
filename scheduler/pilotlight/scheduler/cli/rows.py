"""Messages of the controller as rows of a table."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

Row = dict[str, Any]


def flat_row(message: Message, *, inline: str = "") -> Row:
    """Return a message's fields; those of messages within it have its name before theirs.

    The fields of the message named `inline` keep their own names. Optional
    fields and messages that are unset are None.
    """
    row: Row = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        is_absent = field.has_presence and not message.HasField(field.name)
        if isinstance(value, Message):
            prefix = "" if field.name == inline else f"{field.name}_"
            for name, inner in flat_row(value).items():
                row[prefix + name] = None if is_absent else inner
        else:
            row[field.name] = None if is_absent else _plain(value)
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    # What is left are protobuf's own maps and lists.
    return dict(value) if hasattr(value, "items") else list(value)
