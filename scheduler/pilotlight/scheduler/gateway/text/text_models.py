"""The text sides of the models in use, loaded once each."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from pilotlight.scheduler.errors import ModelUnavailable, UnreadableExecutionFile
from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.scheduler.gateway.text.template_renderer import TemplateRenderer
from pilotlight.scheduler.gateway.text.text_model import TextModel, load_text_model
from pilotlight.scheduler.gateway.text.text_request import ChatMessage

T = TypeVar("T")

_THREADS = 2
"""Large prompts are encoded with the interpreter released, two at a time."""

_Key = tuple[str, str]


class TextModels:
    """Keeps the text sides of the models last used; belongs to one event loop.

    A tokenizer with 128 k tokens takes some 100 MB, hence the bound. A file
    that could not be read is tried again with the next request.

    Use it as an asynchronous context manager, for the process that renders chat
    templates: entering it starts that process, and leaving it ends all work.
    """

    def __init__(self, *, capacity: int = 32, renderer: TemplateRenderer | None = None) -> None:
        self._capacity = capacity
        self._renderer = renderer or TemplateRenderer()
        self._models: OrderedDict[_Key, asyncio.Future[TextModel]] = OrderedDict()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pilotlight-text")

    async def __aenter__(self) -> TextModels:
        await self._renderer.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for loading in self._models.values():
            loading.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._renderer.__aexit__(kind, error, trace)

    async def get(self, model: ServedModel) -> TextModel:
        """Return a model's text side; any number of callers at once share one load.

        Raises:
            ModelUnavailable: one of its execution files is broken.
        """
        key = (model.name, model.version)
        loading = self._models.get(key)
        if loading is None:
            loading = self._start(key, model)
        self._models.move_to_end(key)
        try:
            # One caller that leaves must not take the load from the others.
            return await asyncio.shield(loading)
        except UnreadableExecutionFile as exc:
            raise ModelUnavailable(model.name, str(exc)) from exc

    async def run(self, work: Callable[[], T]) -> T:
        """Run some work on text outside of the event loop's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def render(
        self, model: ServedModel, text_model: TextModel, messages: Sequence[ChatMessage]
    ) -> str:
        """Return the prompt that a model's chat template makes of a conversation.

        Raises:
            InvalidRequest: the template refuses these messages, or takes too much.
            ModelUnavailable: it has no template that can be rendered.
        """
        assert text_model.template is not None, "it has a template"
        assert text_model.tokenizer is not None, "templates are for tokenizers"
        try:
            return await self._renderer.render(
                text_model.template,
                special_tokens=text_model.tokenizer.special_tokens,
                messages=messages,
            )
        except UnreadableExecutionFile as exc:
            raise ModelUnavailable(model.name, str(exc)) from exc

    def _start(self, key: _Key, model: ServedModel) -> asyncio.Future[TextModel]:
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(self._threads, load_text_model, model.directory)
        self._models[key] = loading
        loading.add_done_callback(lambda done: self._forget_failure(key, done))
        if len(self._models) > self._capacity:
            self._models.popitem(last=False)
        return loading

    def _forget_failure(self, key: _Key, loading: asyncio.Future[TextModel]) -> None:
        has_failed = loading.cancelled() or loading.exception() is not None
        if has_failed and self._models.get(key) is loading:
            del self._models[key]
