"""Checkpoints and clusters of real processes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.testing.harness import make_checkpoint

END = "<|end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

_ENGINES = Path(__file__).parent / "engines"
"""A folder for PYTHONPATH in which entry points are found, as of an installed package."""

_REPORT = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_REPORT, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report_line(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return what shows a line when all tests have ended, also where they pass."""
    return pytestconfig.stash.setdefault(_REPORT, []).append


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model root with four checkpoints of one chunk, "a" to "d"."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abcd"):
        make_checkpoint(root / name, seed=seed)
    return root


@pytest.fixture(scope="session")
def spoken_model(models: Path) -> Path:
    """Return a tiny Llama with a tokenizer and a chat template, below the model root."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: number for number, token in enumerate([END, *sorted(alphabet)])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    make_model: Any = AutoModelForCausalLM
    fast: Any = PreTrainedTokenizerFast
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(7)
    folder = models / "spoken"
    make_model.from_config(config, dtype=torch.float32).save_pretrained(folder)
    fast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, chat_template=TEMPLATE
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Yield a cluster without processes, for one test."""
    with new_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Yield a cluster without processes, for the tests of one module."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@contextmanager
def new_cluster(folder: Path) -> Generator[LocalCluster]:
    """Yield a cluster; nothing may be left of it in the end."""
    with LocalCluster(folder, environ={"PYTHONPATH": str(_ENGINES)}) as cluster:
        yield cluster
    cluster.wait_for(lambda: not cluster.leftovers(), "all processes to end", seconds=5.0)
