"""ControlPlane.Generate: the gRPC door to the text generator."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pilotlight.scheduler.errors import InvalidRequest
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_request import (
    ChatMessage,
    Conversation,
    Prompt,
    TextRequest,
)
from pilotlight.scheduler.gateway.text.transcript import ScoredToken as ScoredText
from pilotlight.scheduler.gateway.text.transcript import TextPiece
from pilotlight.scheduler.protocol.control_plane_pb2 import (
    GenerateRequest,
    GenerateResponse,
    ScoredToken,
    TokenDetail,
    Usage,
)


async def generate_responses(
    generator: TextGenerator, request: GenerateRequest
) -> AsyncGenerator[GenerateResponse, None]:
    """Run one call of the rpc; closing the generator cancels its request.

    Raises:
        SchedulerError: what the caller maps to a status.
    """
    request_id = request.request_id or generator.new_request_id()
    text_request = _text_request(request, request_id)
    async with aclosing(generator.generate(text_request)) as pieces:
        async for piece in pieces:
            yield _response(piece, request_id)


def _response(piece: TextPiece, request_id: str) -> GenerateResponse:
    response = GenerateResponse(
        request_id=request_id,
        text=piece.text,
        token_ids=piece.token_ids,
        index=piece.index,
        details=[
            TokenDetail(token=_scored(detail.token), top=map(_scored, detail.top))
            for detail in piece.details
        ],
    )
    if piece.finish_reason is not None:
        response.finish_reason = piece.finish_reason.value
    if piece.usage is not None:
        response.usage.CopyFrom(
            Usage(
                prompt_tokens=piece.usage.prompt_tokens,
                completion_tokens=piece.usage.completion_tokens,
            )
        )
    return response


def _scored(token: ScoredText) -> ScoredToken:
    return ScoredToken(text=token.text, raw=token.raw, logprob=token.logprob)


def _text_request(request: GenerateRequest, request_id: str) -> TextRequest:
    return TextRequest(
        model=request.model,
        prompt=_prompt(request),
        max_tokens=request.max_tokens or None,
        temperature=request.temperature if request.HasField("temperature") else 1.0,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        top_k=request.top_k,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty or 1.0,
        logit_bias=dict(request.logit_bias),
        seed=request.seed if request.HasField("seed") else None,
        n=request.n or 1,
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        deadline_seconds=request.deadline_seconds or None,
        request_id=request_id,
    )


def _prompt(request: GenerateRequest) -> Prompt:
    match request.WhichOneof("prompt"):
        case "text":
            return request.text
        case "tokens":
            return tuple(request.tokens.ids)
        case "chat":
            messages = request.chat.messages
            return Conversation(
                messages=tuple(
                    ChatMessage(role=message.role, content=message.content) for message in messages
                )
            )
        case _:
            raise InvalidRequest("a prompt is needed: chat, text or tokens", param="prompt")
