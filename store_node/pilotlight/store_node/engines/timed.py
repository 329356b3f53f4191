"""The `timed` engine: exact tokens at a stated pace, with no model behind them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.store_node.engines.clock import Clock, MonotonicClock
from pilotlight.store_node.engines.config_file import read_config
from pilotlight.store_node.engines.engine import (
    Emission,
    EngineSetup,
    Extension,
    Offer,
    Weights,
    Work,
    WorkRefused,
)
from pilotlight.store_node.engines.options import read_options
from pilotlight.store_node.engines.room import Room
from pilotlight.store_node.engines.timed_faults import Faults
from pilotlight.store_node.engines.timed_options import TimedOptions
from pilotlight.store_node.engines.timed_pace import LinearPace, Pace, choose_pace, chunk_seconds
from pilotlight.store_node.engines.timed_stream import Stream
from pilotlight.store_node.engines.token_hash import MAX_TOKEN_ID
from pilotlight.store_node.protocol.values import RequestId

# Raised by hand when TokenHash or the use made of it changes.
_VERSION = "1"

# A step waits no longer than this, so that a cancel or a new request is seen soon.
_MAX_WAIT_SECONDS = 0.01

Streams = dict[RequestId, Stream]


@dataclass(slots=True, kw_only=True)
class _Pass:
    """What is being computed, and when it is done."""

    decoding: Streams
    """They get a token each."""
    chunks: dict[RequestId, int]
    """Prompts, and how many of their tokens are computed when the pass is over."""
    due_at: float


class TimedEngine:
    """Emits keyed hashes of all previous tokens, each when its time has come.

    Requests run together, up to `concurrency`, in passes. Without `prefill_chunk`
    a pass is one whole prompt, and goes before the next token of those that run;
    or a token for each of these. With it a pass is both: a token for each that
    runs, and of the prompts that wait up to `prefill_chunk` tokens, in the order
    in which they came. It takes what the tokens take plus what the chunks take.

    A prompt is also what a held attempt is given; it waits like all others, and
    once it is computed it costs nothing until it is released. Whatever ids come
    up are emitted, a request's stop ids as well: about one token in
    `vocabulary / len(stop ids)` stops. Of a request's sampling only the seed
    counts, and that where the temperature is above 0: penalties, biases, top_k
    and top_p have nothing to work on.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or MonotonicClock()
        self._options = TimedOptions()
        self._pace: Pace = LinearPace(options=self._options)
        self._faults = Faults(self._options, self._clock)
        self._offer = self._options.offer()
        self._room = Room(self._offer, vocabulary=MAX_TOKEN_ID + 1)
        self._streams: Streams = {}
        self._ended: Streams = {}
        """Whose end is to be told: nothing was left for them."""
        self._prompts: Streams = {}
        """Who waits for tokens to be computed, in order."""
        self._decoding: Streams = {}
        self._pass: _Pass | None = None
        self._free_at = 0.0
        self._released_at = 0.0

    @classmethod
    def version(cls) -> str:
        """Return the version of the hash: with salt and vocabulary it decides the tokens."""
        return _VERSION

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        """Do nothing: this module is all there is."""

    def prepare(self, setup: EngineSetup) -> None:
        """Read the options, and config.json for what they leave open."""
        has_config = (setup.directory / "config.json").exists()
        config = read_config(setup.directory) if has_config else {}
        options = read_options(setup.spec.engine_options, TimedOptions).resolve(setup.spec, config)
        self._options = options
        self._pace = choose_pace(options, setup.directory)
        self._faults = Faults(options, self._clock)
        self._offer = options.offer()
        self._room = Room(self._offer, vocabulary=MAX_TOKEN_ID + 1)
        self._faults.strike_prepare()

    def bind(self, weights: Weights) -> Offer:
        """Take the weights as there; their bytes are never looked at."""
        self._faults.strike_bind()
        return self._offer

    def admit(self, work: Work) -> None:
        """Take a request if there is a slot and memory for all it may emit."""
        progress = self._room.admit(work)
        state = self._options.token_hash(work.sampling)
        stream = Stream(progress, state, now=self._clock.now())
        self._streams[work.request_id] = stream
        self._file(stream)

    def extend(self, extension: Extension) -> None:
        """Give a held request more tokens; they wait to be computed as a prompt does."""
        stream = self._streams.get(extension.request_id)
        if stream is None:
            raise WorkRefused("unknown", f"no request {extension.request_id!r} is here")
        stream.extend(extension, now=self._clock.now())
        self._file(stream)

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request; a pass that was for it alone is given up."""
        if self._streams.pop(request_id, None) is None:
            return
        self._room.release(request_id)
        for streams in (self._ended, self._prompts, self._decoding):
            streams.pop(request_id, None)
        if self._pass is not None:
            self._withdraw(self._pass, request_id)

    def step(self) -> Sequence[Emission]:
        """Wait for the pass that runs, beginning one if there is none; emit what it computed."""
        self._faults.strike_step()
        if self._faults.is_stalled:
            self._clock.wait_until(self._clock.now() + _MAX_WAIT_SECONDS)
            return ()
        emissions = self._emit_ends() or self._go_on()
        for emission in emissions:
            if emission.finish_reason is not None or emission.failure is not None:
                self.cancel(emission.request_id)
        self._faults.count(sum(len(emission.token_ids) for emission in emissions))
        return emissions

    @property
    def is_busy(self) -> bool:
        """True while requests are here that wait for something."""
        return bool(self._prompts or self._decoding or self._ended)

    def _file(self, stream: Stream) -> None:
        """Put a stream where it waits, by what it has been given."""
        request_id, progress = stream.request_id, stream.progress
        if progress.finish_reason is not None:
            self._prompts.pop(request_id, None)
            self._ended[request_id] = stream
        elif progress.is_held or stream.n_due:
            self._prompts[request_id] = stream
        else:
            self._prompts.pop(request_id, None)
            self._decoding[request_id] = stream
            self._released_at = stream.ready_at

    def _withdraw(self, current: _Pass, request_id: RequestId) -> None:
        current.decoding.pop(request_id, None)
        current.chunks.pop(request_id, None)
        if not (current.decoding or current.chunks):
            self._pass = None
            self._free_at = self._clock.now()

    def _emit_ends(self) -> list[Emission]:
        return [stream.notice() for stream in self._ended.values()]

    def _go_on(self) -> list[Emission]:
        self._pass = current = self._pass or self._begin()
        if current is None:
            return []
        self._clock.wait_until(min(current.due_at, self._clock.now() + _MAX_WAIT_SECONDS))
        now = self._clock.now()
        if now < current.due_at:
            return []
        self._free_at = current.due_at
        self._pass = None
        return [
            *(self._decode(stream, now=now) for stream in current.decoding.values()),
            *self._end_chunks(current.chunks, now=now),
        ]

    def _end_chunks(self, chunks: dict[RequestId, int], *, now: float) -> list[Emission]:
        """Note what is computed; of prompts that are, emit the first token, or that they are."""
        emissions: list[Emission] = []
        for request_id, n_computed in chunks.items():
            stream = self._streams[request_id]
            stream.n_computed = n_computed
            if stream.n_due:
                continue
            self._prompts.pop(request_id, None)
            if stream.progress.is_held:
                emissions.append(stream.notice())
            else:
                self._decoding[request_id] = stream
                emissions.append(self._decode(stream, now=now))
        return emissions

    def _decode(self, stream: Stream, *, now: float) -> Emission:
        if failure := self._faults.work_failure(stream.progress.seq):
            return stream.notice(failure=failure)
        return stream.next_token(now=now)

    def _begin(self) -> _Pass | None:
        chunks = self._choose_chunks()
        is_mixed = self._options.prefill_chunk > 0
        decoding = self._decoding.copy() if is_mixed or not chunks else {}
        if not (chunks or decoding):
            return None
        due_at = self._begin_at(chunks, decoding) + self._seconds(chunks, decoding)
        return _Pass(decoding=decoding, chunks=chunks, due_at=due_at)

    def _choose_chunks(self) -> dict[RequestId, int]:
        room = self._options.prefill_chunk
        if not room:
            first = itertools.islice(self._prompts.items(), 1)
            return {request_id: stream.progress.position for request_id, stream in first}
        chunks: dict[RequestId, int] = {}
        for request_id, stream in self._prompts.items():
            n_tokens = min(stream.n_due, room)
            chunks[request_id] = stream.n_computed + n_tokens
            room -= n_tokens
            if not room:
                break
        return chunks

    def _begin_at(self, chunks: dict[RequestId, int], decoding: Streams) -> float:
        """Return when a pass begins that runs now.

        That is when the one before it was due, not when that was noticed, so that
        oversleeping doesn't add up over thousands of tokens; but a process that
        was held up for longer doesn't catch up.
        """
        now = self._clock.now()
        ready_at = [self._streams[request_id].ready_at for request_id in chunks]
        if decoding:
            ready_at.append(self._released_at)
        at = max(self._free_at, *ready_at)
        return at if now - at <= _MAX_WAIT_SECONDS else now

    def _seconds(self, chunks: dict[RequestId, int], decoding: Streams) -> float:
        seconds = sum(
            chunk_seconds(self._pace, self._streams[request_id].n_computed, end)
            for request_id, end in chunks.items()
        )
        if decoding:
            n_tokens = sum(stream.progress.position for stream in decoding.values())
            seconds += self._pace.decode_seconds(len(decoding), n_tokens / len(decoding))
        return seconds * self._options.slow_factor
