"""What traces say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """One request, as it was."""

    at: float
    """Seconds; what they count from differs between traces."""
    model: str
    """Empty where the trace is of one model."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A prompt and its answer, in characters; it was sent at no particular time."""

    prompt_characters: int
    answer_characters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """How one client sent requests for a while."""

    begins_at: float
    """Seconds since the trace's first window."""
    requests_per_second: float
    cv: float
    """Standard deviation of the times between requests, by their mean."""
    family: str
    """Of those times: "Gamma", "Weibull", or empty where there are too few."""
    shape: float
    scale: float
    """In seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionDay:
    """How often one function was called in each minute of a day."""

    function: str
    trigger: str
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a prefill and a decode step of one model took."""

    model: str
    device: str
    """Its kind."""
    devices: int
    """That shared the work of each layer."""
    prompt_tokens: int
    batch: int
    prefill_seconds: float
    decode_step_seconds: float


Record = TracedRequest | Lengths | Burst | FunctionDay | Profile
