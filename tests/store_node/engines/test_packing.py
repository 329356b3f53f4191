"""Finding out which models are computed in one row."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pilotlight.store_node.engines.transformers import attention, packing
from pilotlight.store_node.engines.transformers.packing import can_pack
from pilotlight.store_node.engines.transformers.small import small_config


def _config(architecture: str, **values: Any) -> PreTrainedConfig:
    make: Any = CONFIG_MAPPING[architecture]
    config: PreTrainedConfig = make(**values)
    return config


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests found out."""
    monkeypatch.setattr(packing, "_known", dict[str, bool]())


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
    assert can_pack(_config(architecture))


@pytest.mark.parametrize("architecture", ["bloom", "mpt", "llama4_text", "qwen3_next", "gptj"])
def test_models_that_do_not_are_computed_one_by_one(architecture: str) -> None:
    assert not can_pack(_config(architecture))


def test_a_mistake_in_attention_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mask = attention.Share.mask

    def one_too_far(share: Any, like: Any, *, window: int | None, repeats: int) -> Any:
        return mask(share, like, window=window and window + 1, repeats=repeats)

    monkeypatch.setattr(attention.Share, "mask", one_too_far)

    assert can_pack(_config("llama"))
    assert not can_pack(_config("mistral"))
    assert "mistral is computed one by one" in caplog.text


def test_what_was_found_is_remembered_by_kind_whatever_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert can_pack(_config("llama", num_hidden_layers=3))
    monkeypatch.setattr(packing, "_try", None)

    assert can_pack(_config("llama", num_hidden_layers=30, intermediate_size=4444))


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
