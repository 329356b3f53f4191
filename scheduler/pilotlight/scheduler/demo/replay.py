"""Sends a workload to a cluster, each request at its time, whatever became of those before."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import httpx

from pilotlight.scheduler.demo.checkpoints import VOCABULARY
from pilotlight.scheduler.demo.requests import Answer, ask
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.validation import ReplayedRequest

_FIRST_ORDINARY_ID = 16
"""Below are bytes and special tokens."""


async def replay(
    client: httpx.AsyncClient,
    arrivals: Sequence[Arrival],
    *,
    seed: int,
    progress: Callable[[int], None],
) -> list[ReplayedRequest]:
    """Send all requests and wait for the last answer; `progress` hears how many have come.

    Prompts are drawn by `seed`: what they say does not matter, that they differ may.
    """
    draw = random.Random(seed)
    began_at = time.monotonic()
    answered: list[ReplayedRequest] = []

    async def send(arrival: Arrival, prompt: list[int]) -> None:
        answer = await ask(client, arrival.model, prompt=prompt, max_tokens=arrival.output_tokens)
        answered.append(_replayed(arrival, answer))
        progress(len(answered))

    async with asyncio.TaskGroup() as tasks:
        for arrival in arrivals:
            prompt = [
                draw.randrange(_FIRST_ORDINARY_ID, VOCABULARY) for _ in range(arrival.prompt_tokens)
            ]
            await asyncio.sleep(max(began_at + arrival.at - time.monotonic(), 0.0))
            tasks.create_task(send(arrival, prompt))
    return sorted(answered, key=lambda each: each.at)


def _replayed(arrival: Arrival, answer: Answer) -> ReplayedRequest:
    return ReplayedRequest(
        at=answer.sent_at,
        due_at=arrival.at,
        model=arrival.model,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=arrival.output_tokens,
        first_token_seconds=answer.first_token_seconds,
        total_seconds=answer.total_seconds,
        error=answer.error,
    )
