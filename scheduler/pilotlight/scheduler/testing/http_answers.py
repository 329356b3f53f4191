"""One OpenAI request over HTTP, and all that came back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a client saw."""

    status: int = 0
    """0 = the connection was refused or broke before an answer began."""
    ids: list[int] = field(default_factory=list[int])
    text: str = ""
    finish_reason: str = ""
    error: dict[str, Any] = field(default_factory=dict[str, Any])
    """OpenAI's error object, from the body or from the stream."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    first_token_seconds: float | None = None
    was_cut: bool = False
    """The connection broke."""

    @property
    def message(self) -> str:
        """The error in words."""
        return str(self.error.get("message", ""))


def ask(
    client: httpx.Client,
    url: str,
    model: str,
    prompt: Sequence[int] | str,
    *,
    max_tokens: int = 8,
    answer: Answer | None = None,
    **fields: Any,
) -> Answer:
    """Stream one greedy completion; `answer` is filled as it comes."""
    answer = answer or Answer()
    body = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
        **fields,
    }
    sent_at = time.monotonic()
    try:
        with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            answer.status, answer.headers = response.status_code, dict(response.headers)
            if response.is_error:
                answer.error = json.loads(response.read())["error"]
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    _take(answer, json.loads(line.removeprefix("data: ")), sent_at)
    except httpx.TransportError:
        answer.was_cut = True
    return answer


def _take(answer: Answer, event: dict[str, Any], sent_at: float) -> None:
    answer.error = event.get("error") or answer.error
    for choice in event.get("choices", ()):
        ids = choice.get("token_ids") or ()
        if ids and answer.first_token_seconds is None:
            answer.first_token_seconds = time.monotonic() - sent_at
        answer.ids.extend(ids)
        answer.text += choice.get("text") or ""
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
