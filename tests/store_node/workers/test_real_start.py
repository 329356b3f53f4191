"""The whole way of a start: a checkpoint on disk, the loader's pool, a worker, tokens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pilotlight.native_loader import Checkpoint, ChunkPool, Loader, WeightLayout
from pilotlight.store_node.engines import Emission, EngineSetup, Work
from pilotlight.store_node.errors import EngineFailed
from pilotlight.store_node.protocol import RequestId, Sampling
from pilotlight.store_node.workers import WorkerPool

pytestmark = pytest.mark.integration

TRANSFORMERS = "pilotlight.store_node.engines.transformers:TransformersEngine"

StartPool = Callable[..., Awaitable[WorkerPool]]
SetupFor = Callable[..., EngineSetup]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a Llama-like checkpoint in two shards."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(5)
    make_config: Any = CONFIG_MAPPING["llama"]
    make_model: Any = AutoModelForCausalLM.from_config
    config = make_config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    make_model(config).save_pretrained(folder, max_shard_size="400KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def layout_of() -> Iterator[Callable[[Path], tuple[ChunkPool, WeightLayout]]]:
    """Return what loads a checkpoint into a pool of its own."""
    pools: list[ChunkPool] = []

    def load(folder: Path) -> tuple[ChunkPool, WeightLayout]:
        checkpoint = Checkpoint.open(folder)
        pool = ChunkPool(checkpoint.n_chunks << 20, chunk_bytes=1 << 20)
        pools.append(pool)
        loader = Loader(pool)
        chunks = pool.allocate(checkpoint.n_chunks)
        loader.submit(checkpoint, chunks).result(timeout=30)
        loader.close()
        pool.bind(chunks)
        return pool, WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)

    yield load
    for pool in pools:
        pool.close()


async def test_a_started_replica_answers_as_generate_does(
    start_pool: StartPool,
    setup_for: SetupFor,
    directory: Path,
    layout_of: Callable[[Path], tuple[ChunkPool, WeightLayout]],
) -> None:
    pool = await start_pool(transformers=TRANSFORMERS, checkpoints=(directory,))
    zygote = pool.zygote_pids()["transformers"]
    arena, layout = layout_of(directory)
    worker = pool.take("transformers")
    emissions: list[Emission] = []
    has_ended = asyncio.Event()

    def keep(new: Any) -> None:
        emissions.extend(new)
        if emissions[-1].finish_reason is not None:
            has_ended.set()

    worker.on_emissions = keep
    await worker.prepare(setup_for(directory))
    bound = await worker.bind(arena.fd, layout)
    await worker.admit(
        Work(
            request_id=RequestId("a"),
            attempt=1,
            prompt_ids=(3, 1, 4, 1, 5),
            emitted_ids=(),
            sampling=Sampling(temperature=0.0, max_tokens=30),
        )
    )
    async with asyncio.timeout(30):
        await has_ended.wait()

    reference: Any = AutoModelForCausalLM.from_pretrained(directory)
    expected = reference.generate(
        torch.tensor([[3, 1, 4, 1, 5]]), max_new_tokens=30, do_sample=False, eos_token_id=None
    )
    answer = [token_id for emission in emissions for token_id in emission.token_ids]
    assert answer == expected[0, 5:].tolist()
    assert len(set(answer)) > 5
    assert bound.offer.copied_bytes == 0
    assert [emission.seq for emission in emissions] == list(range(30))
    assert os.listdir(f"/proc/{zygote}/task") == [str(zygote)]


async def test_weights_of_another_configuration_fail_the_start_by_name(
    start_pool: StartPool,
    setup_for: SetupFor,
    directory: Path,
    layout_of: Callable[[Path], tuple[ChunkPool, WeightLayout]],
    tmp_path: Path,
) -> None:
    pool = await start_pool(transformers=TRANSFORMERS)
    arena, layout = layout_of(directory)
    config = (directory / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    )
    worker = pool.take("transformers")
    await worker.prepare(setup_for(tmp_path))

    with pytest.raises(EngineFailed, match=r"9 missing: model\.layers\.4\.") as failed:
        await worker.bind(arena.fd, layout)

    assert failed.value.code == "weights_mismatch"
