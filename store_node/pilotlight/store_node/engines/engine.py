"""What an engine is to the worker that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pilotlight.store_node.protocol.values import (
    FinishReason,
    ReplicaSpec,
    RequestId,
    Sampling,
    TokenLogprobs,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """All that is known of a replica before its weights are there."""

    spec: ReplicaSpec
    directory: Path
    """Where the checkpoint's execution files lie; its weight files are not to be opened."""
    threads: int
    """Processor threads that the engine may use."""
    adapter: Path | None = None
    """Where the adapter lies that the replica is to run with; None = none."""
    allow_custom_code: bool = False
    """Whether code that comes with a checkpoint may be run."""


class Weights(Protocol):
    """A checkpoint's tensors, mapped into this process without a copy."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all stored tensors."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Declared aliases: the name that is not stored, to the one that is."""
        ...

    @property
    def copied_bytes(self) -> int:
        """Bytes of tensors that had to be copied, being unaligned to their item size."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every stored tensor as a view of the mapped chunks."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a replica can do once bound."""

    concurrency: int
    """Requests at once."""
    context_tokens: int
    dtype: str
    copied_bytes: int = 0
    copy_seconds: float = 0.0
    """Of the bind: moving weights from DRAM to the devices; 0 where devices compute on DRAM."""
    kv_tokens: int | None = None
    """Tokens of KV memory in all; None where the engine does not account for it."""
    kv_block_tokens: int = 1
    """A request holds KV memory in whole blocks of so many tokens."""
    variant: str = ""
    """What decides the tokens beside content, version and dtype: an adapter, say."""

    def kv_need(self, prompt_tokens: int, max_tokens: int) -> int:
        """Return the tokens of KV memory that a request holds from admission to end.

        That is all it may ever come to, so that nothing admitted runs out of room.
        """
        most = min(prompt_tokens + max_tokens, self.context_tokens)
        return -(-most // self.kv_block_tokens) * self.kv_block_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One attempt of a request."""

    request_id: RequestId
    attempt: int
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...]
    """Tokens of earlier attempts: the next token is number len(emitted_ids)."""
    sampling: Sampling
    is_held: bool = False
    """Compute what these tokens need, but emit none before an `Extension` says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """More tokens of a held attempt, which another place has emitted meanwhile."""

    request_id: RequestId
    attempt: int
    """That the attempt has from now on: at least its own."""
    emitted_ids: tuple[int, ...]
    """They follow those that the engine was given before."""
    is_held: bool
    """False: this is all, go on from here and emit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFailure:
    """What ended one attempt: a word for programs, a line for people."""

    code: str
    """"invalid_logits": the model computed what no token can be chosen from."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """Consecutive tokens of one attempt, the first of them number `seq`."""

    request_id: RequestId
    attempt: int
    seq: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    """Set with the last tokens; the engine has then forgotten the request."""
    prefill_seconds: float = 0.0
    """Set with the first tokens: from admission to them."""
    is_prepared: bool = False
    """For a held attempt, without tokens: all that it was given so far, `seq` tokens of
    earlier attempts among it, is computed."""
    failure: WorkFailure | None = None
    """Why this attempt ends without a finish reason, while the others go on."""


class Engine(Protocol):
    """Computes the tokens of one replica; the `pilotlight.engines` entry points are its classes.

    One instance serves one replica, in a worker process of its own. All methods
    are called from that process's main thread, in this order: `prepare` once
    (weights are loading meanwhile), `bind` once, then `admit`, `extend`, `cancel`
    and `step` in any order. Any exception but `WorkRefused` ends the worker; its
    replica is then FAILED with the exception's one line.
    """

    @classmethod
    def version(cls) -> str:
        """Return what computes: two equal versions compute equal tokens. Runs in the node."""
        ...

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        """Make ready what replicas of these checkpoints will need. Runs in the zygote.

        The directories hold their execution files. Called before the first fork,
        and again when checkpoints are found later. Must start no threads and
        initialise no device.
        """
        ...

    def prepare(self, setup: EngineSetup) -> None:
        """Do all that needs no weights."""
        ...

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights, which stay mapped until the process ends."""
        ...

    def admit(self, work: Work) -> None:
        """Take a request; its first tokens come from a later `step`.

        Raises:
            WorkRefused: this request can't run here, now or ever.
        """
        ...

    def extend(self, extension: Extension) -> None:
        """Give a held attempt the tokens that follow, and release it if they are the last.

        Whoever resumes a request elsewhere while it still runs prepares it in
        rounds: admitted held, extended by what was emitted meanwhile, released
        when the gap is closed. Each time all is computed, an emission says
        `is_prepared`; the attempt holds its KV memory from its admission on, and
        `cancel` drops it.

        Raises:
            WorkRefused: "unknown": no such attempt is held here; "invalid": these
                tokens can't follow.
        """
        ...

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request; unknown ones are no error. Nothing is emitted for it any more."""
        ...

    def step(self) -> Sequence[Emission]:
        """Compute for at most a few tens of milliseconds per running request; return new tokens."""
        ...

    @property
    def is_busy(self) -> bool:
        """True while `step` has something to do."""
        ...


class WorkRefused(Exception):
    """A request can't be admitted.

    `code` is "too_long" (it will never fit), "full" (it may fit later),
    "unknown" (what is to be extended is not here) or "invalid" (no engine could
    make sense of it).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
