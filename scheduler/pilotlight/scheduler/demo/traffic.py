"""Requests in bursts, so that every kind of start happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

import httpx

from pilotlight.scheduler.demo.requests import Answer, ask

PROMPT = "The with statement is used to wrap the execution of a block with methods"

_Collect = Callable[[Answer], None]


async def run_traffic(
    client: httpx.AsyncClient,
    models: Sequence[str],
    *,
    bursts: int,
    seed: int,
    say: Callable[[str], None],
    collect: _Collect,
) -> None:
    """Send everything, and wait for the last answer."""
    say("one request to each model: everything is cold")
    await _together(client, models, collect, max_tokens=16)
    say("the same again: replicas are warm")
    await _together(client, models, collect, max_tokens=16)
    say("ten clients at once for one model")
    await _together(client, [models[0]] * 10, collect, max_tokens=8)
    rng = random.Random(seed)
    for number in range(bursts):
        say(f"burst {number + 1} of {bursts}")
        async for _ in _paced(rng):
            chosen = rng.choices(models, weights=range(len(models), 0, -1), k=rng.randint(2, 4))
            await _together(client, chosen, collect, max_tokens=rng.choice((4, 16, 32)))


async def _paced(rng: random.Random) -> AsyncIterator[None]:
    """Yield three times; in the pauses between, keep-alive runs out for some replicas."""
    for _ in range(3):
        yield
        await asyncio.sleep(rng.uniform(0.1, 0.6))
    await asyncio.sleep(1.5)


async def _together(
    client: httpx.AsyncClient, models: Sequence[str], collect: _Collect, *, max_tokens: int
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for model in models:
            tasks.create_task(_one(client, model, collect, max_tokens))


async def _one(client: httpx.AsyncClient, model: str, collect: _Collect, max_tokens: int) -> None:
    collect(await ask(client, model, prompt=PROMPT, max_tokens=max_tokens))
