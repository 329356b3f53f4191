"""What the bench and its children say to each other."""

from __future__ import annotations

import msgspec

from pilotlight.native_loader import WeightLayout


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The root of all of them."""


class Ready(Message, frozen=True):
    """From a child: it has imported and built what it needs."""

    context_tokens: int | None = None
    """Of the model that it has bound, if it has."""


class Token(Message, frozen=True):
    """From a rival: its first token."""

    token_id: int


class BytesRead(Message, frozen=True):
    """From a rival: what its process has fetched from disks."""

    n_bytes: int


class BindAlone(Message, frozen=True):
    """To the forks: prepare, bind and prefill in a new process, on weights that lie in memory."""

    directory: str
    pool: str
    """A path that opens the pool."""
    layout: WeightLayout
    prompt_ids: tuple[int, ...]
    threads: int


class BoundAlone(Message, frozen=True):
    """From the forks: how long each part took with nothing beside it."""

    fork_seconds: float
    prepare_seconds: float
    bind_seconds: float
    prefill_seconds: float
    token_id: int


class LoadAlone(Message, frozen=True):
    """To the forks: `from_pretrained` and one token in a new process, its imports done."""

    directory: str
    prompt_ids: tuple[int, ...]


class LoadedAlone(Message, frozen=True):
    """From the forks: how long that took, and what it read from disks."""

    seconds: float
    bytes_read: int
    token_id: int


class Batch(Message, frozen=True):
    """To one of the step loops: answer these prompts at once, greedily and to the full length."""

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int


class BatchDone(Message, frozen=True):
    """From one of the step loops: what came, and how long all of it took together."""

    seconds: float
    outputs: tuple[tuple[int, ...], ...]

    @property
    def tokens_per_second(self) -> float:
        """Return the throughput."""
        return sum(map(len, self.outputs)) / self.seconds


class Prefill(Message, frozen=True):
    """To our step loop: compute a prompt through the engine, and by a plain forward pass."""

    prompt_ids: tuple[int, ...]


class PrefillDone(Message, frozen=True):
    """From our step loop: how long each took."""

    engine_seconds: float
    plain_seconds: float


class Compare(Message, frozen=True):
    """To the equality's process: compare so many requests of a tiny model."""

    recipe: str
    """The model's name."""
    dtype: str
    n_requests: int
    seed: int


class Differing(Message, frozen=True):
    """One output that was another than alone, and how near a tie that was."""

    request: str
    way: str
    seq: int
    expected_id: int | None
    found_id: int | None
    margin: float | None
    """In standard deviations of the logits; None where nothing explains it."""


class Compared(Message, frozen=True):
    """From the equality's process."""

    n_requests: int
    n_outputs: int
    n_cancelled: int
    differing: tuple[Differing, ...]
