"""Translates between protocol values and protobuf messages, field by field.

A value class and its message share their name, their field names and their
units, so one converter per field kind serves all of them. Fields that a message
leaves unset become None where the value allows it, else the proto3 default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

V = TypeVar("V")
M = TypeVar("M", bound=Message)

# Descriptors and what they describe are protobuf's dynamic surface, hence Any.
_Convert = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    is_optional: bool
    has_presence: bool
    is_repeated: bool
    is_map: bool
    to_wire: _Convert | None
    """None: a nested message, which is filled in place."""
    from_wire: _Convert


_FIELDS: dict[tuple[Any, Any], tuple[_Field, ...]] = {}


def to_message(value: object, message_type: type[M]) -> M:
    """Return the message that says what `value` says."""
    message = message_type()
    _fill(message, value)
    return message


def from_message(message: Message, value_type: type[V]) -> V:
    """Return the value of `value_type` that `message` stands for.

    Raises:
        ValueError: an enum carries a number that this version does not know.
    """
    arguments: dict[str, Any] = {}
    for item in _fields(value_type, type(message)):
        if item.has_presence and item.is_optional and not message.HasField(item.name):
            arguments[item.name] = None
            continue
        raw = getattr(message, item.name)
        if item.is_map:
            arguments[item.name] = dict(raw)
        elif item.is_repeated:
            arguments[item.name] = tuple(map(item.from_wire, raw))
        else:
            arguments[item.name] = item.from_wire(raw)
    return value_type(**arguments)


def _fill(message: Message, value: object) -> None:
    for item in _fields(type(value), type(message)):
        content = getattr(value, item.name)
        if content is None:
            continue
        target = getattr(message, item.name)
        if item.is_map:
            target.update(content)
        elif item.is_repeated and item.to_wire is None:
            for part in content:
                _fill(target.add(), part)
        elif item.is_repeated:
            target.extend(map(item.to_wire, content))  # type: ignore[arg-type]  # checked above
        elif item.to_wire is None:
            target.SetInParent()
            _fill(target, content)
        else:
            setattr(message, item.name, item.to_wire(content))


def _fields(value_type: Any, message_type: Any) -> tuple[_Field, ...]:
    known = _FIELDS.get((value_type, message_type))
    if known is None:
        known = _FIELDS[value_type, message_type] = _describe(value_type, message_type)
    return known


def _describe(value_type: Any, message_type: Any) -> tuple[_Field, ...]:
    descriptor = message_type.DESCRIPTOR
    hints = typing.get_type_hints(value_type)
    known = {field.name for field in descriptor.fields}
    names = [field.name for field in dataclasses.fields(value_type)]
    if strangers := [name for name in names if name not in known]:
        raise TypeError(f"{descriptor.full_name} lacks fields of its value: {strangers}")
    return tuple(_field(descriptor.fields_by_name[name], hints[name]) for name in names)


def _field(descriptor: Any, hint: Any) -> _Field:
    inner, is_optional = _without_none(hint)
    is_map = typing.get_origin(inner) in (dict, Mapping) or inner is Mapping
    if typing.get_origin(inner) is tuple:
        inner = typing.get_args(inner)[0]
    to_wire, from_wire = _converters(descriptor, inner, is_optional=is_optional)
    return _Field(
        name=descriptor.name,
        is_optional=is_optional,
        has_presence=descriptor.has_presence,
        is_repeated=descriptor.is_repeated,
        is_map=is_map,
        to_wire=to_wire,
        from_wire=from_wire,
    )


def _without_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        if len(options) < len(typing.get_args(hint)):
            return options[0], True
    return hint, False


def _converters(
    descriptor: Any, inner: Any, *, is_optional: bool
) -> tuple[_Convert | None, _Convert]:
    if _is_enum(inner):
        return _enum_converters(descriptor.enum_type, inner, is_optional=is_optional)
    if descriptor.message_type is not None and dataclasses.is_dataclass(inner):
        return None, functools.partial(_nested, value_type=inner)
    return _same, _same


def _is_enum(inner: Any) -> bool:
    return isinstance(inner, type) and issubclass(inner, enum.StrEnum)


def _nested(message: Message, *, value_type: Any) -> Any:
    return from_message(message, value_type)


def _same(value: Any) -> Any:
    return value


def _enum_converters(
    descriptor: Any, values: type[enum.StrEnum], *, is_optional: bool
) -> tuple[_Convert, _Convert]:
    prefix = descriptor.values[0].name.removesuffix("UNSPECIFIED")
    to_number = {value: descriptor.values_by_name[prefix + value.name].number for value in values}
    from_number: dict[int, enum.StrEnum | None] = {n: v for v, n in to_number.items()}
    if is_optional:
        from_number[0] = None

    def from_wire(number: int) -> enum.StrEnum | None:
        try:
            return from_number[number]
        except KeyError:
            raise ValueError(f"{descriptor.full_name} has no value {number}") from None

    return to_number.__getitem__, from_wire
