"""One OpenAI request, timed as its client sees it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx

REQUEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    model: str
    sent_at: float
    """Monotonic seconds."""
    first_token_seconds: float | None
    total_seconds: float
    text: str
    error: str = ""


async def ask(
    client: httpx.AsyncClient, model: str, *, prompt: str | list[int], max_tokens: int
) -> Answer:
    """Stream one greedy completion."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    sent_at = time.monotonic()
    first: float | None = None
    text: list[str] = []
    error = ""
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.is_error:
                error = (await response.aread()).decode(errors="replace")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if first is None:
                    first = time.monotonic() - sent_at
                event = json.loads(line.removeprefix("data: "))
                error = error or _error(event)
                text.extend(choice["text"] for choice in event.get("choices", ()))
    except httpx.HTTPError as exc:
        error = f"{type(exc).__name__}: {exc}"
    return Answer(
        model=model,
        sent_at=sent_at,
        first_token_seconds=None if error else first,
        total_seconds=time.monotonic() - sent_at,
        text="".join(text),
        error=error,
    )


def _error(event: dict[str, object]) -> str:
    error = event.get("error")
    return json.dumps(error) if error else ""
