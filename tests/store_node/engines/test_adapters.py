"""LoRA adapters beside a model's own weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pilotlight.store_node.engines import EngineSetup, Offer, Weights, Work
from pilotlight.store_node.engines.transformers import TransformersEngine
from pilotlight.store_node.errors import InvalidOption, UnsupportedModel, WeightsMismatch
from pilotlight.store_node.protocol import RequestId, Sampling
from pilotlight.store_node.testing import run_to_end

Checkpoints = Callable[[str], Path]
Setups = Callable[..., EngineSetup]
WeightsOf = Callable[..., Weights]
Tensors = dict[str, torch.Tensor]
Rewrite = Callable[[Path, Path, Callable[[Tensors], None]], Path]

# Module, inputs and outputs of what is adapted.
_MODULES: Mapping[str, tuple[tuple[str, int, int], ...]] = {
    "llama": (
        ("model.layers.0.self_attn.q_proj", 32, 32),
        ("model.layers.1.self_attn.k_proj", 32, 16),
        ("model.layers.1.mlp.down_proj", 64, 32),
    ),
    "gpt2": (("transformer.h.0.attn.c_attn", 32, 96), ("transformer.h.1.mlp.c_proj", 128, 32)),
}
_RANK = 3
_CONFIG = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 6, "target_modules": ["q_proj"]}


def _matrices(architecture: str) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    for module, n_in, n_out in _MODULES[architecture]:
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(
            _RANK, n_in, generator=generator
        )
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(
            n_out, _RANK, generator=generator
        )
    return tensors


def _write(directory: Path, tensors: Tensors, **config: object) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({**_CONFIG, **config}))
    return directory


def _bind(
    setup: EngineSetup, weights: Weights, adapter: Path | None = None
) -> tuple[TransformersEngine, Offer]:
    engine = TransformersEngine()
    engine.prepare(dataclasses.replace(setup, adapter=adapter))
    return engine, engine.bind(weights)


def _answer(engine: TransformersEngine) -> list[int]:
    sampling = Sampling(temperature=0.0, max_tokens=20)
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=(5, 6, 7),
        emitted_ids=(),
        sampling=sampling,
    )
    return run_to_end(engine, [work])[work.request_id].token_ids


@pytest.fixture
def setup_with(checkpoint: Checkpoints, make_setup: Setups) -> Callable[..., EngineSetup]:
    """Return a function from an architecture to the setup of a replica with an adapter."""

    def make(directory: Path, **options: str) -> EngineSetup:
        return make_setup(
            directory, dtype="float64", engine_options={"adapter": "french", **options}
        )

    return make


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),  # 6 / 3
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"q_proj": 3, "c_attn|c_proj|k_proj|down_proj": 3}}, 1.0),  # 3 / 3
        # The first key that fits counts.
        ({"alpha_pattern": {".*": 3, "q_proj|c_attn": 9}}, 1.0),
    ],
    ids=["plain", "rank-stabilised", "pattern", "patterns"],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapted_model_answers_as_one_whose_weights_were_merged(
    tmp_path: Path,
    checkpoint: Checkpoints,
    setup_with: Setups,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
    architecture: str,
    config: dict[str, object],
    scale: float,
) -> None:
    matrices = _matrices(architecture)

    def merge(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name] = tensors[name].double()
        for module, _, _ in _MODULES[architecture]:
            a = matrices[f"base_model.model.{module}.lora_A.weight"].double()
            b = matrices[f"base_model.model.{module}.lora_B.weight"].double()
            change = scale * b @ a
            name = f"{module}.weight"
            name = name if name in tensors else name.removeprefix("transformer.")
            tensors[name] += change if tensors[name].shape == change.shape else change.T

    (tmp_path / "merged").mkdir()
    merged = rewrite(checkpoint(architecture), tmp_path / "merged", merge)
    expected, _ = _bind(make_setup(merged, dtype="float64"), stored_weights(merged))
    adapter = _write(tmp_path / "french", matrices, **config)
    directory = checkpoint(architecture)

    engine, _ = _bind(setup_with(directory), stored_weights(directory), adapter)

    assert _answer(engine) == _answer(expected)
    plain, _ = _bind(make_setup(directory, dtype="float64"), stored_weights(directory))
    assert _answer(engine) != _answer(plain)


def test_two_adapters_are_two_variants(
    tmp_path: Path, checkpoint: Checkpoints, setup_with: Setups, stored_weights: WeightsOf
) -> None:
    directory, matrices = checkpoint("llama"), _matrices("llama")
    adapters = [
        _write(tmp_path / "one", matrices),
        _write(tmp_path / "same", matrices),
        _write(tmp_path / "stronger", matrices, lora_alpha=7),
        _write(tmp_path / "other", {name: -tensor for name, tensor in matrices.items()}),
    ]

    variants = [
        _bind(setup_with(directory), stored_weights(directory), adapter)[1].variant
        for adapter in adapters
    ]

    assert variants[0] == variants[1]
    assert len(set(variants)) == 3


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"peft_type": "IA3"}, "'IA3', not LORA"),
        ({"use_dora": True}, "has use_dora=True"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save="),
        ({"layer_replication": [[0, 2]]}, "has layer_replication="),
        ({"alora_invocation_tokens": [3]}, "has alora_invocation_tokens="),
        ({"init_lora_weights": "pissa_niter_4"}, "other weights than the model's own"),
        ({"alpha_pattern": {"(": 3}}, "is no expression"),
        ({"r": "three"}, "describes no LoRA adapter"),
    ],
    ids=[
        "type",
        "dora",
        "biases",
        "whole-modules",
        "layers",
        "invoked",
        "pissa",
        "expression",
        "nonsense",
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    tmp_path: Path,
    checkpoint: Checkpoints,
    setup_with: Setups,
    config: dict[str, object],
    rule: str,
) -> None:
    adapter = _write(tmp_path / "french", _matrices("llama"), **config)
    setup = dataclasses.replace(setup_with(checkpoint("llama")), adapter=adapter)

    with pytest.raises(UnsupportedModel, match=rule):
        TransformersEngine().prepare(setup)


def test_a_directory_without_a_configuration_is_no_adapter(
    tmp_path: Path, checkpoint: Checkpoints, setup_with: Setups
) -> None:
    setup = dataclasses.replace(setup_with(checkpoint("llama")), adapter=tmp_path)

    with pytest.raises(UnsupportedModel, match=r"adapter_config\.json can't be read"):
        TransformersEngine().prepare(setup)


def test_an_adapter_that_is_not_there_is_named(checkpoint: Checkpoints, setup_with: Setups) -> None:
    with pytest.raises(InvalidOption, match="adapter='french': there is none of that name"):
        TransformersEngine().prepare(setup_with(checkpoint("llama")))


def _rename(tensors: Tensors) -> Any:
    return {name.replace("layers.0", "layers.9"): tensor for name, tensor in tensors.items()}


def _widen(tensors: Tensors) -> Any:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    return {**tensors, name: torch.zeros(_RANK, 33)}


def _flatten(tensors: Tensors) -> Any:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    empty = {f"{name}A.weight": torch.zeros(0, 32), f"{name}B.weight": torch.zeros(32, 0)}
    return {**tensors, **empty}


def _orphan(tensors: Tensors) -> Any:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    return {each: tensor for each, tensor in tensors.items() if each != name}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_rename, r"1 not in the model: model\.layers\.9\.self_attn\.q_proj"),
        (_widen, r"q_proj \(adapted as \[32, 33\]\)"),
        (_orphan, r"q_proj \(no pair of matrices\)"),
        (_flatten, r"q_proj \(no pair of matrices\)"),
    ],
    ids=["unknown-module", "shape", "orphan", "rank-0"],
)
def test_matrices_that_do_not_fit_are_named(
    tmp_path: Path,
    checkpoint: Checkpoints,
    setup_with: Setups,
    stored_weights: WeightsOf,
    change: Callable[[Tensors], Any],
    rule: str,
) -> None:
    adapter = _write(tmp_path / "french", change(_matrices("llama")))

    with pytest.raises(WeightsMismatch, match=rule):
        _bind(setup_with(checkpoint("llama")), stored_weights(checkpoint("llama")), adapter)


def test_modules_that_multiply_by_no_matrix_can_not_be_adapted(
    tmp_path: Path, checkpoint: Checkpoints, setup_with: Setups, stored_weights: WeightsOf
) -> None:
    name = "base_model.model.model.embed_tokens.lora_"
    tensors = {f"{name}A.weight": torch.zeros(2, 32), f"{name}B.weight": torch.zeros(96, 2)}
    adapter = _write(tmp_path / "french", tensors)

    with pytest.raises(UnsupportedModel, match=r"adapts model\.embed_tokens"):
        _bind(setup_with(checkpoint("llama")), stored_weights(checkpoint("llama")), adapter)
