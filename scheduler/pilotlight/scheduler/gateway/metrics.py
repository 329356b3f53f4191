"""What the gateway counts and times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Histogram

from pilotlight.scheduler.errors import (
    ClientGone,
    ClientTooSlow,
    DeadlineExceeded,
    InvalidRequest,
    ModelBroken,
    ModelUnavailable,
    QueueFull,
    RequestLost,
    SchedulerError,
    UnknownModel,
)

UNKNOWN_MODEL = "_unknown"
"""The label of requests for models that are not deployed: clients can't make up labels."""

_LATENCY_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0),
)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)

_STATUSES: tuple[tuple[type[BaseException], str], ...] = (
    (InvalidRequest, "invalid"),
    (UnknownModel, "unknown_model"),
    (QueueFull, "queue_full"),
    (ModelUnavailable, "unavailable"),
    (DeadlineExceeded, "deadline_exceeded"),
    (RequestLost, "lost"),
    (ModelBroken, "model_broken"),
    (ClientGone, "cancelled"),
    (ClientTooSlow, "cancelled"),
    (SchedulerError, "refused"),
    (GeneratorExit, "cancelled"),
    (asyncio.CancelledError, "cancelled"),
    (BaseException, "error"),
)


class GatewayMetrics:
    """The gateway's metrics, in a registry that its caller exposes."""

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = registry
        self.clock = clock
        self.requests = Counter(
            "pilotlight_requests",
            "Inference requests that have ended, by how.",
            ["model", "status"],
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "pilotlight_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.inter_token_seconds = Histogram(
            "pilotlight_inter_token_latency_seconds",
            "Between two consecutive tokens of an answer.",
            ["model"],
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.latency_seconds = Histogram(
            "pilotlight_e2e_request_latency_seconds",
            "From a request's arrival to its last token, of requests that succeeded.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "pilotlight_prompt_tokens", "Tokens in prompts.", ["model"], registry=registry
        )
        self.generation_tokens = Counter(
            "pilotlight_generation_tokens", "Tokens generated.", ["model"], registry=registry
        )
        self.responses = Counter(
            "pilotlight_http_responses",
            "HTTP responses; 499 stands for a client that left.",
            ["route", "code"],
            registry=registry,
        )

    def request(self) -> RequestTimer:
        """Start to time a request that arrives now."""
        return RequestTimer(self)


class RequestTimer:
    """Times one request: a context manager around all of it."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._model = UNKNOWN_MODEL
        self._started_at = metrics.clock()
        self._last_token_at: dict[int, float] = {}
        """By choice."""
        self._has_ended = False

    def __enter__(self) -> RequestTimer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._end(next(status for base, status in _STATUSES if issubclass(kind, base)))

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the request arrived."""
        return self._metrics.clock() - self._started_at

    def succeeded(self) -> None:
        """Note the end of a request that got all of its tokens."""
        self._end("ok")
        self._metrics.latency_seconds.labels(self._model).observe(self.elapsed_seconds)

    def found(self, model: str) -> None:
        """Note the model, once it is known to be deployed."""
        self._model = model

    def prompted(self, n_tokens: int) -> None:
        """Note the length of the prompt."""
        self._metrics.prompt_tokens.labels(self._model).inc(n_tokens)

    def generated(self, n_tokens: int, *, choice: int = 0) -> None:
        """Note tokens of one of the request's answers that have just come."""
        if not n_tokens:
            return
        now = self._metrics.clock()
        if choice in self._last_token_at:
            each_seconds = (now - self._last_token_at[choice]) / n_tokens
            self._metrics.inter_token_seconds.labels(self._model).observe(each_seconds)
        elif not self._last_token_at:
            self._metrics.first_token_seconds.labels(self._model).observe(now - self._started_at)
        self._last_token_at[choice] = now
        self._metrics.generation_tokens.labels(self._model).inc(n_tokens)

    def _end(self, status: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._metrics.requests.labels(self._model, status).inc()
