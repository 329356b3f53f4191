"""Chat templates, rendered as transformers renders them; only for `template_process`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplate:
    """Makes one text of a conversation.

    Templates come with checkpoints, so they run in jinja's sandbox. That keeps
    them from everything but time and memory, and from no exception.
    """

    def __init__(self, source: str, *, now: Callable[[], datetime] = datetime.now) -> None:
        self._template = _environment(now).from_string(source)

    def render(
        self, messages: Sequence[Mapping[str, str]], *, special_tokens: Mapping[str, str]
    ) -> str:
        """Return the prompt that asks for the assistant's next message."""
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **special_tokens,
        )


class _GenerationTag(Extension):
    """Lets `{% generation %}` through, with which templates mark text for training."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without a way to the interpreter's own attributes."""

    # Without a named `self`, so that a template may call an attribute that.
    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    # Any, because jinja leaves the types of filters and globals open.
    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = partial(_format_now, now)
    environment.globals["namespace"] = _Namespace
    return cast(jinja2.Environment, environment)


def _format_now(now: Callable[[], datetime], format: str) -> str:
    return now().strftime(format)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replace jinja's filter, which escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"no attribute {name!r} on a namespace")
