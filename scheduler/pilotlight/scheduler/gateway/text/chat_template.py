"""Chat templates, rendered as transformers renders them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pilotlight.scheduler.errors import InvalidRequest, UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.execution_files import TokenizerConfig, read_json, read_text
from pilotlight.scheduler.gateway.text.tokenizer import CONFIG_FILE

TEMPLATE_FILE = "chat_template.jinja"

# What rendering raises, apart from jinja's own errors, when a template does
# something with a message that can't be done with it.
_RENDERING_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str
    name: str | None = None


class ChatTemplate:
    """Makes one text of a conversation; thread-safe.

    Templates come with checkpoints, so they run in jinja's sandbox.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment(now).from_string(source)
        except (jinja2.TemplateError, RecursionError) as exc:
            raise UnreadableExecutionFile("the chat template", str(exc)) from exc

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Return the prompt that asks for the assistant's next message.

        Raises:
            InvalidRequest: the template refuses these messages.
        """
        try:
            return self._template.render(
                messages=[_as_template_data(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except _RENDERING_ERRORS as exc:
            reason = str(exc) or type(exc).__name__
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from exc


def read_chat_template(directory: Path) -> str | None:
    """Return the default chat template of a folder of execution files, where it has one.

    Raises:
        UnreadableExecutionFile: a file is broken.
    """
    source = read_text(directory / TEMPLATE_FILE)
    if source is not None:
        return source
    listed = read_json(directory / CONFIG_FILE, TokenizerConfig).chat_template
    if isinstance(listed, list):
        listed = {entry.name: entry.template for entry in listed}
    return listed.get("default") if isinstance(listed, dict) else listed


def _as_template_data(message: ChatMessage) -> dict[str, str]:
    data = {"role": message.role, "content": message.content}
    return data if message.name is None else data | {"name": message.name}


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
