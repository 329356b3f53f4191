"""Text in, text out: the part of the gateway that its doors share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from pilotlight.scheduler.errors import DeadlineExceeded, InvalidRequest
from pilotlight.scheduler.gateway.backend import Backend, Inference, ServedModel
from pilotlight.scheduler.gateway.metrics import GatewayMetrics, RequestTimer
from pilotlight.scheduler.gateway.text.choices import Choice, choice_of, interleaved
from pilotlight.scheduler.gateway.text.text_model import TextModel
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.gateway.text.text_request import Conversation, Prompt, TextRequest
from pilotlight.scheduler.gateway.text.transcript import TextPiece, Transcript, Usage
from pilotlight.store_node.protocol import RequestId, Sampling

DEFAULT_DEADLINE_SECONDS = 300.0
DEFAULT_MAX_TOKENS = 16
"""For prompts of text and ids, as in OpenAI's completions."""

_INLINE_CHARACTERS = 2048
"""Prompts up to this long are encoded in the event loop: at most some 2 ms.

A thread costs 0.1 ms more, and pays where others could run meanwhile.
"""
_SEED_BITS = 63
_ID_BITS = 96


class TextGenerator:
    """Runs requests of text on a backend of token ids; belongs to one event loop."""

    def __init__(
        self,
        backend: Backend,
        *,
        models: TextModels,
        metrics: GatewayMetrics,
        rng: random.Random,
    ) -> None:
        self.backend = backend
        self.metrics = metrics
        self._models = models
        self._rng = rng

    def new_request_id(self) -> str:
        """Return an id that no other request has."""
        return f"req-{self._rng.getrandbits(_ID_BITS):0{_ID_BITS // 4}x}"

    async def generate(self, request: TextRequest) -> AsyncGenerator[TextPiece, None]:
        """Run a request; yield a piece for each batch of tokens of each of its answers.

        The last piece of an answer has a finish reason, and the last of all the
        usage. Closing the generator cancels the request everywhere; so does a stop
        string for its answer, before the last piece. What fails one answer fails
        the request.

        Raises:
            InvalidRequest: it can never run, with the parameter and the rule.
            SchedulerError: whatever the backend refuses it for.
        """
        with self.metrics.request() as timer:
            request.check()
            choices = await self._prepare(request, timer)
            last: TextPiece | None = None
            usages: list[Usage] = []
            async with aclosing(self._run(choices)) as pieces:
                async for piece in pieces:
                    timer.generated(len(piece.token_ids), choice=piece.index)
                    if piece.usage is None:
                        yield piece
                        continue
                    usages.append(piece.usage)
                    if len(usages) == len(choices):
                        last = replace(piece, usage=Usage.of_choices(usages))
                        break
                    yield replace(piece, usage=None)
            assert last is not None, "an answer without an end is an error"
            timer.succeeded()
            yield last

    async def _run(self, choices: Sequence[Choice]) -> AsyncGenerator[TextPiece, None]:
        inferences = [choice.inference for choice in choices]
        async with self.backend.admit(inferences) as runs:
            streams = [choice.pieces(run) for choice, run in zip(choices, runs, strict=True)]
            async with aclosing(interleaved(streams)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _prepare(self, request: TextRequest, timer: RequestTimer) -> Sequence[Choice]:
        request_id = request.request_id or self.new_request_id()
        deadline_seconds = request.deadline_seconds or DEFAULT_DEADLINE_SECONDS
        limit = asyncio.timeout(deadline_seconds)
        try:
            async with limit:
                model = await self.backend.find(request.model)
                timer.found(model.name)
                text_model = await self._models.get(model)
                prompt_ids = await self._encode(request.prompt, model, text_model)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                request_id, deadline_seconds=deadline_seconds, state="being prepared"
            ) from exc
        _check_prompt(prompt_ids, request, model)
        _check_vocabulary(prompt_ids, text_model, param=request.prompt_param)
        _check_vocabulary(request.logit_bias, text_model, param="logit_bias")
        if request.stop and text_model.tokenizer is None:
            raise _no_tokenizer(model, param="stop")
        timer.prompted(len(prompt_ids))
        first = Inference(
            request_id=RequestId(request_id),
            model=model.name,
            prompt_ids=tuple(prompt_ids),
            sampling=self._sampling(request, model, text_model, len(prompt_ids)),
            deadline_seconds=max(deadline_seconds - timer.elapsed_seconds, 0.0),
        )
        return _choices(request, first, text_model)

    async def _encode(
        self, prompt: Prompt, model: ServedModel, text_model: TextModel
    ) -> Sequence[int]:
        if isinstance(prompt, tuple):
            return prompt
        tokenizer = text_model.tokenizer
        if tokenizer is None:
            raise _no_tokenizer(model, param="prompt")
        is_text = isinstance(prompt, str)
        text = prompt if isinstance(prompt, str) else await self._render(prompt, model, text_model)
        # A chat template writes its special tokens itself.
        if len(text) <= _INLINE_CHARACTERS:
            return tokenizer.encode(text, add_special_tokens=is_text)
        encode = partial(tokenizer.encode_released, text, add_special_tokens=is_text)
        return await self._models.run(encode)

    async def _render(self, prompt: Conversation, model: ServedModel, text_model: TextModel) -> str:
        if text_model.template is None:
            raise InvalidRequest(
                f"model {model.name!r} has no chat template: use /v1/completions, or add a "
                "chat_template.jinja to its checkpoint",
                param="messages",
            )
        return await self._models.render(model, text_model, prompt.messages)

    def _sampling(
        self, request: TextRequest, model: ServedModel, text_model: TextModel, prompt_tokens: int
    ) -> Sampling:
        room = model.context_tokens - prompt_tokens
        default = room if isinstance(request.prompt, Conversation) else DEFAULT_MAX_TOKENS
        end_ids = () if request.ignore_eos else text_model.end_ids
        seed = request.unsigned_seed
        return Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=max(request.top_k, 0),
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            repetition_penalty=request.repetition_penalty,
            logit_bias=request.logit_bias,
            seed=self._rng.getrandbits(_SEED_BITS) if seed is None else seed,
            max_tokens=min(request.max_tokens or default, room),
            stop_token_ids=tuple(sorted({*end_ids, *request.stop_token_ids})),
            logprobs=request.logprobs,
        )


def _choices(request: TextRequest, first: Inference, text_model: TextModel) -> list[Choice]:
    return [
        Choice(
            inference=choice_of(first, index),
            transcript=Transcript(
                text_model.tokenizer,
                prompt_tokens=len(first.prompt_ids),
                end_ids=first.sampling.stop_token_ids,
                stop=request.stop,
                index=index,
            ),
        )
        for index in range(request.n)
    ]


def _no_tokenizer(model: ServedModel, *, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"model {model.name!r} has no tokenizer.json: send token ids to /v1/completions, "
        "without stop strings",
        param=param,
    )


def _check_prompt(prompt_ids: Sequence[int], request: TextRequest, model: ServedModel) -> None:
    if not prompt_ids:
        raise InvalidRequest("the prompt has no tokens", param=request.prompt_param)
    if len(prompt_ids) >= model.context_tokens:
        raise InvalidRequest(
            f"the prompt has {len(prompt_ids)} tokens, and the model's context of "
            f"{model.context_tokens} must hold at least one more",
            param=request.prompt_param,
            code="context_length_exceeded",
        )


def _check_vocabulary(token_ids: Iterable[int], text_model: TextModel, *, param: str) -> None:
    size, largest = text_model.vocabulary_size, max(token_ids, default=0)
    if size is not None and largest >= size:
        raise InvalidRequest(
            f"token id {largest} is outside of the model's vocabulary of {size}", param=param
        )
