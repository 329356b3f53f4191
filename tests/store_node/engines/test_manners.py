"""Finding out how models may be computed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pilotlight.store_node.engines.transformers import attention, manners
from pilotlight.store_node.engines.transformers.manners import Manner, manner_of
from pilotlight.store_node.engines.transformers.small import small_config
from pilotlight.store_node.errors import UnsupportedModel


def _config(architecture: str, **values: Any) -> PreTrainedConfig:
    make: Any = CONFIG_MAPPING[architecture]
    config: PreTrainedConfig = make(**values)
    return config


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests found out."""
    monkeypatch.setattr(manners, "_known", dict[str, Manner | None]())


@pytest.mark.parametrize(
    "architecture",
    [
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "opt",
        "gpt2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi",
        "phi3",
        "mixtral",
        "gpt_neox",
        "gpt_oss",
        "deepseek_v3",
        "olmo2",
        "cohere2",
    ],
)
def test_models_that_leave_attention_to_the_interface_are_packed(architecture: str) -> None:
    assert manner_of(_config(architecture)) is Manner.PACKED


@pytest.mark.parametrize("architecture", ["bloom", "mpt", "llama4_text", "qwen3_next", "gptj"])
def test_models_that_do_not_are_computed_one_by_one(architecture: str) -> None:
    assert manner_of(_config(architecture)) is Manner.CHUNKED


@pytest.mark.parametrize("architecture", ["jamba", "zamba2", "codegen"])
def test_models_whose_state_takes_no_chunks_are_given_whole_prompts(architecture: str) -> None:
    assert manner_of(_config(architecture)) is Manner.WHOLE


@pytest.mark.parametrize("architecture", ["recurrent_gemma"])
def test_models_that_no_request_could_be_resumed_with_are_refused(architecture: str) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="no request could be resumed"):
            manner_of(_config(architecture))


def test_a_part_of_a_larger_model_is_made_small_too() -> None:
    assert manner_of(_config("gemma3")) is Manner.PACKED


def test_attention_that_asks_for_what_is_unknown_is_not_packed() -> None:
    # Its sparse layers choose blocks, of which a short text has too few.
    assert manner_of(_config("minimax_m3_vl_text")) is not Manner.PACKED


def test_positions_that_depend_on_the_longest_text_are_pinned_or_not_packed() -> None:
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 64,
        "long_factor": [4.0] * 64,
    }
    llama = _config("llama", rope_parameters=scaling)
    phimoe = _config("phimoe", rope_parameters={**scaling, "short_mscale": 1.0, "long_mscale": 1.4})

    assert manner_of(llama) is Manner.PACKED
    assert manner_of(phimoe) is not Manner.PACKED


def test_a_mistake_in_attention_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mask = attention.Share.mask

    def one_too_far(share: Any, like: Any, *, window: int | None) -> Any:
        return mask(share, like, window=window and window + 1)

    monkeypatch.setattr(attention.Share, "mask", one_too_far)

    assert manner_of(_config("llama")) is Manner.PACKED
    assert manner_of(_config("mistral")) is Manner.CHUNKED
    assert "mistral is computed in the manner 'chunked'" in caplog.text


def test_what_was_found_is_remembered_by_kind_whatever_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert manner_of(_config("llama", num_hidden_layers=3)) is Manner.PACKED
    monkeypatch.setattr(manners, "_try", None)

    config = _config("llama", num_hidden_layers=30, intermediate_size=4444)
    assert manner_of(config) is Manner.PACKED


def test_a_small_model_has_each_kind_of_layer_once() -> None:
    config = _config("gemma3_text", num_hidden_layers=12)

    small = small_config(config)

    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert small.num_hidden_layers == 2
    assert small.sliding_window == 4
    assert small.head_dim == config.head_dim


def test_a_small_model_keeps_heads_that_share_keys_apart_from_those_that_do_not() -> None:
    shared = small_config(_config("llama", num_attention_heads=32, num_key_value_heads=8))
    own = small_config(_config("llama", num_attention_heads=32, num_key_value_heads=32))

    assert (shared.num_attention_heads, shared.num_key_value_heads) == (2, 1)
    assert (own.num_attention_heads, own.num_key_value_heads) == (2, 2)
