"""The `timed` engine: exact tokens at a stated pace, with no model behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from pilotlight.store_node.engines.clock import Clock, MonotonicClock
from pilotlight.store_node.engines.config_file import first_count, read_config
from pilotlight.store_node.engines.engine import (
    Emission,
    EngineSetup,
    Offer,
    Weights,
    Work,
    WorkRefused,
)
from pilotlight.store_node.engines.options import read_options
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.token_hash import MAX_TOKEN_ID, TokenHash
from pilotlight.store_node.protocol.values import RequestId, TokenLogprobs

# Raised by hand when TokenHash or the use made of it changes.
_VERSION = "1"

_FALLBACK_VOCABULARY = 32_000
_FALLBACK_CONTEXT_TOKENS = 4096

# A step waits no longer than this, so that a cancel or a new request is seen soon.
_MAX_WAIT_SECONDS = 0.01

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class TimedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The engine options of `timed`.

    A prefill of n tokens takes `prefill_seconds + n * prefill_seconds_per_token`;
    one token for each of n requests `decode_seconds + n * decode_seconds_per_request`.
    """

    prefill_seconds: _Seconds = 0.002
    prefill_seconds_per_token: _Seconds = 0.000_01
    decode_seconds: _Seconds = 0.002
    decode_seconds_per_request: _Seconds = 0.000_1
    concurrency: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """Requests at once; 0: as many as the replica is to run."""
    context_tokens: _Count = 0
    """0: what the replica asks for, else what config.json says."""
    kv_tokens: _Count = 0
    """Tokens of all requests at once, each counted with all that it may emit; 0: no limit."""
    vocabulary: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN_ID)] = 0
    """0: what config.json says."""
    salt: str = ""
    """Keys the tokens; empty: the model's name, so that a wrong route shows."""


class _Stream:
    """One request: its place, its hash, and what it holds of the KV memory."""

    def __init__(self, progress: Progress, state: TokenHash, *, now: float) -> None:
        self.progress = progress
        self.state = state
        self.admitted_at = now
        self.is_prefilled = False
        self.kv_tokens = len(progress.ids) + progress.tokens_left

    def emit(self, *, now: float) -> Emission:
        work, progress = self.progress.work, self.progress
        seq, token_id = progress.seq, self.state.next_id()
        self.state.extend((token_id,))
        progress.accept(token_id)
        is_first, self.is_prefilled = not self.is_prefilled, True
        return Emission(
            request_id=work.request_id,
            attempt=work.attempt,
            seq=seq,
            token_ids=(token_id,),
            logprobs=_logprobs(token_id, work.sampling.logprobs),
            finish_reason=progress.finish_reason,
            prefill_seconds=now - self.admitted_at if is_first else 0.0,
        )


class _Pass:
    """What is being computed, and when it is done: one stream's prefill, or a token for each."""

    def __init__(self, streams: list[_Stream], *, due_at: float) -> None:
        self.streams = streams
        self.due_at = due_at


class TimedEngine:
    """Emits keyed hashes of all previous tokens, each when its time has come.

    Requests run together, up to `concurrency`; a prefill goes before the next
    token of those that run. Whatever ids come up are emitted, a request's stop
    ids as well: about one token in `vocabulary / len(stop ids)` stops.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or MonotonicClock()
        self._options = TimedOptions()
        self._concurrency = 1
        self._context_tokens = _FALLBACK_CONTEXT_TOKENS
        self._vocabulary = _FALLBACK_VOCABULARY
        self._salt = ""
        self._streams: dict[RequestId, _Stream] = {}
        self._pass: _Pass | None = None
        self._free_at = 0.0

    @classmethod
    def version(cls) -> str:
        """Return the version of the hash: it is all that decides the tokens."""
        return _VERSION

    @classmethod
    def preload(cls, architectures: Sequence[str]) -> None:
        """Do nothing: this module is all there is."""

    def prepare(self, setup: EngineSetup) -> None:
        """Read the options, and config.json for what they leave open."""
        options = read_options(setup.spec.engine_options, TimedOptions)
        has_config = (setup.directory / "config.json").exists()
        config = read_config(setup.directory) if has_config else {}
        self._options = options
        self._salt = options.salt or setup.spec.model
        self._concurrency = options.concurrency or max(1, setup.spec.concurrency)
        self._context_tokens = (
            options.context_tokens
            or setup.spec.context_tokens
            or first_count(config, "max_position_embeddings", "n_positions")
            or _FALLBACK_CONTEXT_TOKENS
        )
        self._vocabulary = (
            options.vocabulary or first_count(config, "vocab_size") or _FALLBACK_VOCABULARY
        )

    def bind(self, weights: Weights) -> Offer:
        """Take the weights as there; their bytes are never looked at."""
        return Offer(
            concurrency=self._concurrency,
            context_tokens=self._context_tokens,
            dtype="none",
            kv_tokens=self._options.kv_tokens or None,
        )

    def admit(self, work: Work) -> None:
        """Take a request if there is a slot and memory for all it may emit."""
        if work.request_id in self._streams:
            raise WorkRefused("invalid", f"request {work.request_id!r} is already running")
        progress = Progress(work, context_tokens=self._context_tokens, vocabulary=MAX_TOKEN_ID + 1)
        seed = work.sampling.seed if work.sampling.temperature > 0 else 0
        state = TokenHash(salt=self._salt, seed=seed, vocabulary=self._vocabulary)
        stream = _Stream(progress, state, now=self._clock.now())
        self._check_room(stream)
        state.extend(progress.ids)
        self._streams[work.request_id] = stream

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request; a pass that was for it alone is given up."""
        stream = self._streams.pop(request_id, None)
        if stream is None or self._pass is None:
            return
        if stream in self._pass.streams:
            self._pass.streams.remove(stream)
        if not self._pass.streams:
            self._pass = None
            self._free_at = self._clock.now()

    def step(self) -> Sequence[Emission]:
        """Wait for the pass that runs, beginning one if there is none; emit what it computed."""
        if complete := self._emit_complete():
            return complete
        if self._pass is None:
            self._pass = self._begin()
        if self._pass is None:
            return ()
        self._clock.wait_until(min(self._pass.due_at, self._clock.now() + _MAX_WAIT_SECONDS))
        now = self._clock.now()
        if now < self._pass.due_at:
            return ()
        self._free_at = self._pass.due_at
        emissions = [stream.emit(now=now) for stream in self._pass.streams]
        self._pass = None
        self._forget(emissions)
        return emissions

    @property
    def is_busy(self) -> bool:
        """True while requests are here."""
        return bool(self._streams)

    def _check_room(self, stream: _Stream) -> None:
        limit = self._options.kv_tokens
        if limit and stream.kv_tokens > limit:
            raise WorkRefused(
                "too_long", f"{stream.kv_tokens} tokens never fit into {limit} of KV memory"
            )
        if len(self._streams) >= self._concurrency:
            raise WorkRefused("full", f"all {self._concurrency} slots are taken")
        held = sum(other.kv_tokens for other in self._streams.values())
        if limit and held + stream.kv_tokens > limit:
            raise WorkRefused(
                "full", f"{stream.kv_tokens} tokens don't fit beside {held} into {limit}"
            )

    def _begin(self) -> _Pass | None:
        waiting = [stream for stream in self._streams.values() if not stream.is_prefilled]
        running = [stream for stream in self._streams.values() if stream.is_prefilled]
        options = self._options
        if waiting:
            streams = waiting[:1]
            n_tokens = len(streams[0].progress.ids)
            seconds = options.prefill_seconds + n_tokens * options.prefill_seconds_per_token
        elif running:
            streams = running
            seconds = options.decode_seconds + len(running) * options.decode_seconds_per_request
        else:
            return None
        return _Pass(streams, due_at=self._begin_at(streams[-1]) + seconds)

    def _begin_at(self, stream: _Stream) -> float:
        """Return when a pass begins that runs now.

        That is when the one before it was due, not when that was noticed, so that
        oversleeping doesn't add up over thousands of tokens; but a process that
        was held up for longer doesn't catch up.
        """
        now = self._clock.now()
        at = max(self._free_at, stream.admitted_at)
        return at if now - at <= _MAX_WAIT_SECONDS else now

    def _emit_complete(self) -> list[Emission]:
        """End the requests that were complete when they came."""
        emissions = [
            Emission(
                request_id=stream.progress.work.request_id,
                attempt=stream.progress.work.attempt,
                seq=stream.progress.seq,
                token_ids=(),
                finish_reason=stream.progress.finish_reason,
            )
            for stream in self._streams.values()
            if stream.progress.finish_reason is not None
        ]
        self._forget(emissions)
        return emissions

    def _forget(self, emissions: Sequence[Emission]) -> None:
        for emission in emissions:
            if emission.finish_reason is not None:
                del self._streams[emission.request_id]


def _logprobs(token_id: int, n_top: int | None) -> tuple[TokenLogprobs, ...]:
    """Say that the token was certain, which it was."""
    if n_top is None:
        return ()
    ids, logprobs = ((token_id,), (0.0,)) if n_top else ((), ())
    return (TokenLogprobs(logprob=0.0, top_ids=ids, top_logprobs=logprobs),)
