"""One inference as clients ask for it, and the rules for its parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pilotlight.scheduler.errors import InvalidRequest

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_LOGPROBS = 20
MAX_CHOICES = 16
MAX_PENALTY = 2.0
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 10.0
MAX_LOGIT_BIAS = 100.0
MAX_LOGIT_BIASES = 1024
MAX_DEADLINE_SECONDS = 24 * 3600.0
MAX_ID_CHARACTERS = 128

MOST_MESSAGES = 1 << 14
"""Of a conversation: each costs time before its text does."""

_MAX_TOP_K = (1 << 31) - 1
_SEED_BITS = 64
_ID_LIMIT = 1 << 32
"""Token ids are unsigned 32-bit numbers on the wire."""

_TOKEN_IDS = f"token ids: from 0 to {_ID_LIMIT - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A prompt that the model's chat template makes of messages."""

    messages: tuple[ChatMessage, ...]


Prompt = str | tuple[int, ...] | Conversation
"""Text, token ids or a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What a client wants; None leaves it to the gateway."""

    model: str
    prompt: Prompt
    max_tokens: int | None = None
    """None = 16, for conversations the rest of the context."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 and -1 = all."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Of tokens that prompt or text hold already; 1 = off."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """Added to the logits of these token ids."""
    seed: int | None = None
    n: int = 1
    """Answers; the first is what it would be alone."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    """Go on after the model's own end tokens, as benchmarks want."""
    logprobs: int | None = None
    """Alternatives to report with each token; None = no log probabilities."""
    deadline_seconds: float | None = None
    """From the request's arrival; None = 300."""
    request_id: str | None = None

    @property
    def prompt_param(self) -> str:
        """The name that clients know the prompt by."""
        return "messages" if isinstance(self.prompt, Conversation) else "prompt"

    @property
    def unsigned_seed(self) -> int | None:
        """The seed as engines take it: negative ones wrap around."""
        return None if self.seed is None else self.seed % (1 << _SEED_BITS)

    def check(self) -> None:
        """Check everything that needs no knowledge of the model.

        Raises:
            InvalidRequest: a parameter breaks a rule.
        """
        if not self.model:
            raise InvalidRequest("model must be the name of a deployed model", param="model")
        self._check_prompt()
        for holds, param, rule in _rules(self):
            if not holds:
                raise InvalidRequest(f"{param} must be {rule}", param=param)

    def _check_prompt(self) -> None:
        prompt = self.prompt
        if isinstance(prompt, Conversation):
            check_messages(len(prompt.messages))
        elif not prompt:
            raise InvalidRequest(f"{self.prompt_param} must not be empty", param=self.prompt_param)
        if isinstance(prompt, tuple) and not _are_ids(prompt):
            raise InvalidRequest("prompt holds a number that is no token id", param="prompt")


def is_usable_id(text: str) -> bool:
    """Tell whether an id that a client made up can stand in headers and logs."""
    return 0 < len(text) <= MAX_ID_CHARACTERS and text.isascii() and text.isprintable()


def _are_ids(numbers: Collection[int]) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) < _ID_LIMIT)


def _is_seed(seed: int) -> bool:
    return -(1 << (_SEED_BITS - 1)) <= seed < 1 << _SEED_BITS


def _upto(most: float) -> str:
    return f"from {-most:g} to {most:g}"


def _rules(request: TextRequest) -> Iterator[tuple[bool, str, str]]:
    """Yield whether each rule holds, the parameter that it is for, and what that must be."""
    r = request
    yield r.max_tokens is None or r.max_tokens >= 1, "max_tokens", "at least 1"
    yield 0.0 <= r.temperature <= 2.0, "temperature", "from 0 to 2"
    yield 0.0 < r.top_p <= 1.0, "top_p", "above 0 and at most 1"
    yield -1 <= r.top_k <= _MAX_TOP_K, "top_k", f"from -1 to {_MAX_TOP_K}"
    yield abs(r.presence_penalty) <= MAX_PENALTY, "presence_penalty", _upto(MAX_PENALTY)
    yield abs(r.frequency_penalty) <= MAX_PENALTY, "frequency_penalty", _upto(MAX_PENALTY)
    has_repetition_penalty = (
        MIN_REPETITION_PENALTY <= r.repetition_penalty <= MAX_REPETITION_PENALTY
    )
    most_repetition = f"between {MIN_REPETITION_PENALTY:g} and {MAX_REPETITION_PENALTY:g}"
    yield has_repetition_penalty, "repetition_penalty", most_repetition
    yield _are_ids(r.logit_bias), "logit_bias", f"for {_TOKEN_IDS}"
    has_room = len(r.logit_bias) <= MAX_LOGIT_BIASES
    yield has_room, "logit_bias", f"for at most {MAX_LOGIT_BIASES} token ids"
    are_biases = all(abs(bias) <= MAX_LOGIT_BIAS for bias in r.logit_bias.values())
    yield are_biases, "logit_bias", f"numbers {_upto(MAX_LOGIT_BIAS)}"
    yield 1 <= r.n <= MAX_CHOICES, "n", f"from 1 to {MAX_CHOICES}"
    yield r.seed is None or _is_seed(r.seed), "seed", f"a {_SEED_BITS}-bit integer"
    yield len(r.stop) <= MAX_STOPS, "stop", f"at most {MAX_STOPS} strings"
    are_stops_short = all(1 <= len(string) <= MAX_STOP_CHARACTERS for string in r.stop)
    yield are_stops_short, "stop", f"strings of 1 to {MAX_STOP_CHARACTERS} characters"
    yield _are_ids(r.stop_token_ids), "stop_token_ids", _TOKEN_IDS
    has_few_ids = len(r.stop_token_ids) <= MAX_STOPS
    yield has_few_ids, "stop_token_ids", f"at most {MAX_STOPS} token ids"
    has_logprobs = r.logprobs is None or 0 <= r.logprobs <= MAX_LOGPROBS
    yield has_logprobs, "logprobs", f"from 0 to {MAX_LOGPROBS}"
    has_deadline = r.deadline_seconds is None or 0.0 < r.deadline_seconds <= MAX_DEADLINE_SECONDS
    yield has_deadline, "deadline_seconds", f"above 0 and at most {MAX_DEADLINE_SECONDS:g}"
    has_id = r.request_id is None or is_usable_id(r.request_id)
    yield has_id, "request_id", f"1 to {MAX_ID_CHARACTERS} printable ASCII characters"


def check_messages(n: int) -> None:
    """Refuse a conversation of so many messages where it has none, or too many.

    Raises:
        InvalidRequest: says how many there may be.
    """
    if not n:
        raise InvalidRequest("messages must not be empty", param="messages")
    if n > MOST_MESSAGES:
        raise InvalidRequest(f"messages: a chat has at most {MOST_MESSAGES}", param="messages")
