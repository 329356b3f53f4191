from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pilotlight.native_loader import (
    Checkpoint,
    LoaderError,
    ModelMismatch,
    NotACheckpoint,
    from_pretrained,
)
from pilotlight.native_loader.models import adopt
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
from pilotlight.native_loader.packing.source_kinds import open_source

_SMALL: Mapping[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        **_SMALL,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    },
    "qwen2": {**_SMALL, "use_sliding_window": False},
    "qwen3": {**_SMALL, "head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {**_SMALL, "head_dim": 8},
    "phi3": _SMALL,
    "gpt_neox": _SMALL,
    "gpt2": {
        "vocab_size": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": {
        **{key: _SMALL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")},
        **{"num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    },
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mixtral": {**_SMALL, "num_local_experts": 2},
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
IDS = torch.arange(3, 19)[None]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "transformers")


def saved(
    directory: Path, model_type: str, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})
    model = of_config(AutoModelForCausalLM, config).to(dtype)
    model.save_pretrained(directory)
    return directory


def of_config(auto_class: Any, config: Any) -> Any:
    return auto_class.from_config(config)


def is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def theirs(directory: Path, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, **options)


def assert_same(ours: PreTrainedModel, expected: PreTrainedModel) -> None:
    assert type(ours) is type(expected)
    assert ours.dtype == expected.dtype
    assert not ours.training
    mine, other = ours.state_dict(), expected.state_dict()
    assert mine.keys() == other.keys()
    for name, tensor in other.items():
        assert mine[name].dtype == tensor.dtype, name
        assert torch.equal(mine[name], tensor), name
    buffers = dict(expected.named_buffers())
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_model_is_the_one_that_transformers_loads(tmp_path: Path, model_type: str) -> None:
    directory = saved(tmp_path, model_type)

    ours = from_pretrained(directory)

    assert_same(ours, theirs(directory))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3"])
def test_weights_lie_where_they_were_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    directory = saved(tmp_path, model_type, torch.bfloat16)
    addresses: set[int] = set()

    from pilotlight.native_loader.weights import AttachedWeights

    tensors_of = AttachedWeights.tensors

    def noted(self: AttachedWeights) -> dict[str, torch.Tensor]:
        tensors = tensors_of(self)
        addresses.update(tensor.data_ptr() for tensor in tensors.values())
        return tensors

    monkeypatch.setattr(AttachedWeights, "tensors", noted)

    model = from_pretrained(directory)

    assert model.dtype == torch.bfloat16
    assert {parameter.data_ptr() for parameter in model.parameters()} <= addresses


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3"])
def test_a_tied_head_is_its_embedding(tmp_path: Path, model_type: str) -> None:
    directory = saved(tmp_path, model_type)

    model = from_pretrained(directory)

    assert is_tied(model)


@pytest.mark.parametrize("plan", ["one", "layers=2", "tensor-parallel=2"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "phi3"])
def test_packed_checkpoints_are_the_same_model(tmp_path: Path, model_type: str, plan: str) -> None:
    directory = saved(tmp_path / "source", model_type)

    pack(open_source(directory), tmp_path / "packed", plan=PackPlan.parse(plan))

    expected = theirs(directory)
    assert_same(from_pretrained(tmp_path / "packed"), expected)
    if plan != "tensor-parallel=2":
        assert_same(theirs(tmp_path / "packed"), expected)


@pytest.mark.integration
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3"])
def test_pickled_weights_are_the_same_model_once_packed(tmp_path: Path, model_type: str) -> None:
    directory = saved(tmp_path / "source", model_type)
    expected = theirs(directory)
    (directory / "model.safetensors").unlink()
    torch.save(expected.state_dict(), directory / "pytorch_model.bin")

    packed = pack(open_source(directory), tmp_path / "packed")

    assert packed.aliases.keys() == ({"lm_head.weight"} if model_type != "llama" else set())
    assert_same(from_pretrained(tmp_path / "packed"), expected)
    assert_same(theirs(tmp_path / "packed"), expected)


def test_another_dtype_is_made_on_request(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")

    ours = from_pretrained(directory, dtype=torch.bfloat16)

    assert_same(ours, theirs(directory, dtype=torch.bfloat16))


def test_options_go_on_to_transformers(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")

    model = from_pretrained(directory, attn_implementation="eager")

    assert model.config._attn_implementation == "eager"


def test_the_generation_config_is_the_checkpoints(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_new_tokens": 7}))

    model: Any = from_pretrained(directory)

    assert model.generation_config.max_new_tokens == 7
    assert model.generate(IDS, do_sample=False, min_new_tokens=7).shape == (1, IDS.shape[1] + 7)


def test_another_head_is_loaded_by_its_class(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **_SMALL, num_labels=3)
    model = of_config(AutoModelForSequenceClassification, config)
    model.save_pretrained(tmp_path)

    ours = from_pretrained(tmp_path, model_class=type(model))

    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, model.eval()(IDS).logits)


def test_missing_weights_are_an_error_and_not_random(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))

    with pytest.raises(ModelMismatch, match=r"lacks 9 of the weights: model\.layers\.2\.input"):
        from_pretrained(directory)


def test_weights_of_another_shape_are_an_error(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 65}))
    shapes = r"lm_head\.weight is \[64, 32\], not \[65, 32\], model\.embed_tokens\.weight is"

    with pytest.raises(ModelMismatch, match=rf"2 weights are of another shape: {shapes}"):
        from_pretrained(directory)


def test_another_shape_is_made_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 65}))

    model: Any = from_pretrained(directory, ignore_mismatched_sizes=True)

    assert model.lm_head.weight.shape == (65, 32)


def test_a_checkpoint_without_a_config_is_no_model(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    (directory / "config.json").unlink()

    with pytest.raises(NotACheckpoint, match=r"holds no config\.json"):
        from_pretrained(directory)


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ("{", r"config\.json: "),
        ("{}", r"config\.json: "),
        ('{"model_type": "no-such-model"}', "no-such-model"),
        ('{"model_type": "clip"}', "'clip' model, which is no causal language model"),
    ],
)
def test_a_config_that_says_nothing_is_one_line(tmp_path: Path, config: str, rule: str) -> None:
    directory = saved(tmp_path, "llama")
    (directory / "config.json").write_text(config)

    with pytest.raises(LoaderError, match=rule) as caught:
        from_pretrained(directory)

    assert "\n" not in str(caught.value)


def test_weights_take_the_place_of_what_stood_in_for_them(tmp_path: Path) -> None:
    directory = saved(tmp_path, "qwen3")
    expected = theirs(directory)
    tensors = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    del tensors["lm_head.weight"]
    stand_ins = {name: torch.full_like(tensor, 9.0) for name, tensor in tensors.items()}
    model = type(expected).from_pretrained(None, config=expected.config, state_dict=stand_ins)

    assert adopt(model, stand_ins, tensors)

    assert_same(model, expected)
    addresses = {tensor.data_ptr() for tensor in tensors.values()}
    assert {parameter.data_ptr() for parameter in model.parameters()} == addresses
    assert is_tied(model)


def test_nothing_is_adopted_where_the_library_makes_tensors_of_its_own(tmp_path: Path) -> None:
    directory = saved(tmp_path, "mixtral")
    checkpoint = Checkpoint.open(directory)
    expected = theirs(directory)
    stand_ins = {name: torch.zeros(entry.shape) for name, entry in checkpoint.tensors.items()}
    model = type(expected).from_pretrained(None, config=expected.config, state_dict=stand_ins)

    assert not adopt(model, stand_ins, {name: each + 1 for name, each in stand_ins.items()})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_act": "nope"}, "nope"),
        ({"dtype": "nope"}, "nope"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
    ],
)
def test_values_that_transformers_can_not_use_name_the_config(
    tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    directory = saved(tmp_path, "llama")
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    with pytest.raises(NotACheckpoint, match=rf"config\.json: .*{reason}") as caught:
        from_pretrained(directory)

    assert "\n" not in str(caught.value)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    directory = saved(tmp_path, "llama")
    (directory / "generation_config.json").write_text("{bad")

    with pytest.raises(NotACheckpoint, match=r"generation_config\.json: "):
        from_pretrained(directory)


def test_an_option_that_transformers_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="with the options bogus: TypeError"):
        from_pretrained(saved(tmp_path, "llama"), bogus=1)
