"""What the gateway needs from the cluster, be it in this process or behind a wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilotlight.store_node.protocol import ModelId, RequestId, Sampling, TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A deployed model as clients may use it."""

    name: ModelId
    context_tokens: int
    deployed_at: float
    """Seconds since 1970."""
    directory: Path
    """A local folder with its execution files: config, tokenizer, chat template."""
    version: str
    """Changes whenever `directory` may have changed."""
    queue_limit: int = 256
    """Requests that may wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One request in token ids."""

    request_id: RequestId
    model: ModelId
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    deadline_seconds: float
    """From now."""
    choice_of: RequestId | None = None
    """The request of several answers that this is one of; None = it is a client's own."""

    @property
    def asked_as(self) -> RequestId:
        """Return the id that the client knows, for what it is told."""
        return self.choice_of or self.request_id


class Backend(Protocol):
    """Runs requests somewhere in the cluster."""

    def models(self) -> Sequence[ServedModel]:
        """Return all deployed models, by name."""
        ...

    async def find(self, name: str) -> ServedModel:
        """Return one model, its execution files fetched.

        Raises:
            UnknownModel: it is not deployed.
            ModelUnavailable: its execution files can't be had at the moment.
        """
        ...

    def admit(
        self, inferences: Sequence[Inference]
    ) -> AbstractAsyncContextManager[Sequence[AsyncGenerator[TokenBatch, None]]]:
        """Take requests of one model, all or none; the block has their tokens, in the same order.

        Each request yields its tokens in order, each exactly once, wherever they
        come from; batches of later attempts follow without a gap, and the last one
        has a finish reason. Closing a request's tokens cancels it everywhere, and
        leaving the block cancels all that have not ended. Each ends by itself: an
        error of one is no error of the others.

        Raises:
            UnknownModel: the model is gone.
            DuplicateRequest: a request of such an id is running.
            QueueFull: too many requests wait for the model, these included.
            ModelUnavailable: nothing can serve it, with the reason.
            DeadlineExceeded: the deadline has passed.
            RequestLost: the places it ran at died too often.
        """
        ...
