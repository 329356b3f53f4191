"""OpenAI's parameters, and others', that are known and not implemented."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pilotlight.scheduler.errors import InvalidRequest

HARMLESS: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters that are known and not implemented; the values that, like null, change nothing."""

_REASONS: Mapping[str, str] = {
    "best_of": "answers are not ranked; ask for n of them, and choose",
}
"""Why not, where that is not plain."""


def refuse_unsupported(fields: Mapping[str, msgspec.Raw]) -> None:
    """Refuse a body that asks, by one of these parameters, for another answer.

    Raises:
        InvalidRequest: with the parameter, and the values that it may have.
    """
    for name in sorted(fields.keys() & HARMLESS.keys()):
        value = msgspec.json.decode(fields[name])
        if value is not None and value not in HARMLESS[name]:
            raise InvalidRequest(
                f"{name} is not supported" + _hint(name),
                param=name,
                code="unsupported_parameter",
            )


def _hint(name: str) -> str:
    allowed = [msgspec.json.encode(value).decode() for value in HARMLESS[name]]
    reason = f": {_REASONS[name]}" if name in _REASONS else ""
    return (f", except {' and '.join(allowed)}" if allowed else "") + reason
