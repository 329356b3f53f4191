"""A backend that does what a test tells it to, and templates without a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.scheduler.errors import UnknownModel
from pilotlight.scheduler.gateway.backend import Inference, ServedModel
from pilotlight.scheduler.gateway.text.template_process import answer
from pilotlight.scheduler.gateway.text.template_renderer import TemplateRenderer
from pilotlight.store_node.protocol import FinishReason, ModelId, TokenBatch, TokenLogprobs


@dataclass(slots=True, kw_only=True)
class Script:
    """What one model answers to every request."""

    token_ids: Sequence[int] = ()
    batch_tokens: int = 1
    """Tokens in one batch."""
    finish_reason: FinishReason | None = FinishReason.STOP
    """Of the last batch; LENGTH where a request's max_tokens end it before."""
    logprobs: Sequence[TokenLogprobs] = ()
    error: Exception | None = None
    """Raised after the tokens, instead of the last batch's finish reason."""
    may_start: asyncio.Event | None = None
    """Waited for before the first token, as for a cold start."""
    may_go_on: asyncio.Event | None = None
    """Waited for after the first batch."""


@dataclass(slots=True, kw_only=True)
class ScriptedBackend:
    """A `Backend` in memory: deployed models, each with its script."""

    served: dict[str, ServedModel] = field(default_factory=dict[str, ServedModel])
    scripts: dict[str, Script] = field(default_factory=dict[str, Script])
    inferences: list[Inference] = field(default_factory=list[Inference])
    """All requests so far."""
    batches_given: int = 0
    running: int = 0
    has_started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request has come."""
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last of the requests that run ends."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request is closed or cancelled before its end."""

    def deploy(
        self,
        name: str,
        directory: Path,
        script: Script,
        *,
        context_tokens: int = 1024,
        version: str = "1",
    ) -> None:
        """Add a model, or change it."""
        self.served[name] = ServedModel(
            name=ModelId(name),
            context_tokens=context_tokens,
            deployed_at=1_700_000_000.5,
            directory=directory,
            version=version,
        )
        self.scripts[name] = script

    def models(self) -> Sequence[ServedModel]:
        """Return all models, by name."""
        return [self.served[name] for name in sorted(self.served)]

    async def find(self, name: str) -> ServedModel:
        """Return one model."""
        if name not in self.served:
            raise UnknownModel(name, known=tuple(self.served))
        return self.served[name]

    @asynccontextmanager
    async def admit(
        self, inferences: Sequence[Inference]
    ) -> AsyncGenerator[Sequence[AsyncGenerator[TokenBatch, None]]]:
        """Take all requests."""
        runs = [self._run(inference) for inference in inferences]
        try:
            yield runs
        finally:
            for run in runs:
                await run.aclose()

    async def _run(self, inference: Inference) -> AsyncGenerator[TokenBatch, None]:
        """Follow the model's script."""
        self.inferences.append(inference)
        self.running += 1
        self.is_idle.clear()
        self.has_started.set()
        has_ended = False
        try:
            async with aclosing(_follow(inference, self.scripts[inference.model])) as batches:
                async for batch in batches:
                    self.batches_given += 1
                    has_ended = batch.finish_reason is not None
                    yield batch
        finally:
            self.running -= 1
            if not self.running:
                self.is_idle.set()
            if not has_ended:
                self.cancelled.set()


class InlineTemplates:
    """A `RenderingProcess` that is none, for templates that a test wrote itself."""

    async def ask(self, line: bytes) -> bytes:
        """Answer as the process does."""
        return answer(line)

    async def end(self) -> None:
        """Do nothing."""


def inline_renderer() -> TemplateRenderer:
    """Return a renderer that starts no process."""

    async def start() -> InlineTemplates:
        return InlineTemplates()

    return TemplateRenderer(start=start)


async def _follow(inference: Inference, script: Script) -> AsyncGenerator[TokenBatch, None]:
    if script.may_start is not None:
        await script.may_start.wait()
    if script.error is not None and not script.token_ids:
        raise script.error
    limit = inference.sampling.max_tokens
    ids = tuple(script.token_ids[:limit])
    reason = FinishReason.LENGTH if len(script.token_ids) > limit else script.finish_reason
    for seq in range(0, max(len(ids), 1), script.batch_tokens):
        end = seq + script.batch_tokens
        is_last = end >= len(ids) and script.error is None
        yield TokenBatch(
            request_id=inference.request_id,
            attempt=1,
            seq=seq,
            token_ids=ids[seq:end],
            logprobs=tuple(script.logprobs[seq:end]),
            finish_reason=reason if is_last else None,
        )
        # As with batches that come over a wire, others run in between.
        await asyncio.sleep(0)
        if script.may_go_on is not None:
            await script.may_go_on.wait()
    if script.error is not None:
        raise script.error
