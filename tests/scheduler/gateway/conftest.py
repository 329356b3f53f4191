"""Small tokenizers of each kind, and a gateway over a scripted backend."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from pilotlight.process.ports import Address
from pilotlight.scheduler.gateway.http.app import HttpApp
from pilotlight.scheduler.gateway.http.limits import HttpLimits
from pilotlight.scheduler.gateway.http.server import HttpServer
from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.testing import ScriptedBackend, inline_renderer
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer, load_tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog didn't care; it was asleep!",
    "A model that nobody has used for an hour should answer in about the time physics needs.",
    "naïve café, Straße, smørrebrød, ünïcödé, 日本語のテキスト, 你好世界, привет мир",
    "emoji 🎉🚀👩‍👩‍👧 and flags 🇩🇪🇯🇵, maths ∑∫√, quotes “so”",
    "def f(x):\n    return x + 1\n\n\n\tindented\ttabs  and   spaces",
] * 8

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

ServeHttp = Callable[..., Awaitable[HttpServer]]


@pytest.fixture(scope="session")
def model_directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of execution files, by the kind of their tokenizer."""
    root = tmp_path_factory.mktemp("models")
    builders = {
        "byte-level": _byte_level(),
        "byte-fallback": _byte_fallback(),
        "metaspace": _metaspace(),
        "wordpiece": _wordpiece(),
    }
    directories: dict[str, Path] = {}
    for name, tokenizer in builders.items():
        directory = root / name
        directory.mkdir()
        tokenizer.save(str(directory / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 1024,
        }
        size = tokenizer.get_vocab_size()
        eos = tokenizer.token_to_id("</s>")
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        (directory / "config.json").write_text(json.dumps({"vocab_size": size, "eos_token_id": 7}))
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos]}))
        directories[name] = directory
    return directories


@pytest.fixture(scope="session")
def tokenizers(model_directories: dict[str, Path]) -> dict[str, Tokenizer]:
    """Return the same tokenizers as the library reads them."""
    return {
        name: Tokenizer.from_file(str(directory / "tokenizer.json"))
        for name, directory in model_directories.items()
    }


@pytest.fixture(scope="session")
def text_tokenizers(model_directories: dict[str, Path]) -> dict[str, TextTokenizer]:
    """Return the same tokenizers as the gateway reads them."""
    loaded = {name: load_tokenizer(directory) for name, directory in model_directories.items()}
    return {name: tokenizer for name, tokenizer in loaded.items() if tokenizer is not None}


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def generator(
    backend: ScriptedBackend, registry: CollectorRegistry
) -> AsyncIterator[TextGenerator]:
    async with TextModels(renderer=inline_renderer()) as models:
        yield TextGenerator(
            backend, models=models, metrics=GatewayMetrics(registry), rng=random.Random(1)
        )


@pytest.fixture
async def serve(generator: TextGenerator) -> AsyncIterator[ServeHttp]:
    """Return what starts a server on a free port, with limits as told."""
    async with AsyncExitStack() as stack:

        async def start(
            limits: HttpLimits | None = None, readiness: Callable[[], str | None] = lambda: None
        ) -> HttpServer:
            app = HttpApp(generator, readiness=readiness, limits=limits)
            server = HttpServer(app, Address(host="127.0.0.1", port=0))
            await server.start()
            stack.push_async_callback(server.stop, grace_seconds=0.0)
            return server

        yield start


SPECIAL = ["<unk>", "<s>", "</s>"]


def _byte_level() -> Tokenizer:
    """Return a tokenizer like GPT-2's, Llama 3's or Qwen's, which begins prompts with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """Return a tokenizer like Llama 2's: unknown characters become byte tokens."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!'éï":
        vocabulary[character] = len(vocabulary)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("o", "g"), ("▁", "▁")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    """Return a tokenizer like T5's, which ends prompts with </s>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    """Return a tokenizer like BERT's, with nothing around prompts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
