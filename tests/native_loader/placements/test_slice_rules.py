from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from transformers import AutoConfig

from pilotlight.native_loader import SliceRefused
from pilotlight.native_loader.placements.slice_rules import SliceRules
from pilotlight.native_loader.placements.slices import Slice

WHOLE = None


def plan_of(model_type: str) -> dict[str, str]:
    plan = AutoConfig.for_model(model_type).base_model_tp_plan
    assert plan
    return plan


def rows(begin: int, end: int) -> Slice:
    return Slice(dim=0, ranges=((begin, end),))


def columns(begin: int, end: int) -> Slice:
    return Slice(dim=1, ranges=((begin, end),))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        # Llama, Mistral, Qwen, Gemma.
        ("model.embed_tokens.weight", (8, 6), rows(4, 8)),
        ("model.layers.0.self_attn.q_proj.weight", (8, 6), rows(4, 8)),
        ("model.layers.0.self_attn.k_proj.bias", (8,), rows(4, 8)),
        ("model.layers.0.self_attn.o_proj.weight", (6, 8), columns(4, 8)),
        ("model.layers.0.self_attn.o_proj.bias", (8,), WHOLE),
        ("model.layers.0.self_attn.q_norm.weight", (8,), WHOLE),
        ("model.layers.0.mlp.up_proj.weight", (8, 6), rows(4, 8)),
        ("model.layers.0.mlp.down_proj.weight", (6, 8), columns(4, 8)),
        ("model.layers.0.input_layernorm.weight", (8,), WHOLE),
        ("model.rotary_emb.inv_freq", (8,), WHOLE),
        ("lm_head.weight", (8, 6), rows(4, 8)),
        # A vocabulary that does not divide.
        ("model.embed_tokens.weight", (7, 6), WHOLE),
        ("lm_head.bias", (7,), WHOLE),
        ("q_proj.weight", (8, 6), rows(4, 8)),
        # Fused gate and up: the slice of each.
        ("m.mlp.gate_up_proj.weight", (8, 6), Slice(dim=0, ranges=((2, 4), (6, 8)))),
        # Mixtral and other experts; their router.
        ("m.layers.0.block_sparse_moe.experts.3.w1.weight", (8, 6), rows(4, 8)),
        ("m.layers.0.block_sparse_moe.experts.3.w2.weight", (6, 8), columns(4, 8)),
        ("m.layers.0.block_sparse_moe.gate.weight", (8, 6), WHOLE),
        ("m.layers.0.mlp.gate.weight", (8, 6), WHOLE),
        # DeepSeek's compressed attention.
        ("m.layers.0.self_attn.kv_a_proj_with_mqa.weight", (7, 5), WHOLE),
        ("m.layers.0.self_attn.kv_b_proj.weight", (8, 5), rows(4, 8)),
        # GPT-2, whose matrices are transposed.
        (
            "transformer.h.0.attn.c_attn.weight",
            (4, 12),
            Slice(dim=1, ranges=((2, 4), (6, 8), (10, 12))),
        ),
        ("h.0.attn.c_attn.bias", (12,), Slice(dim=0, ranges=((2, 4), (6, 8), (10, 12)))),
        ("transformer.h.0.attn.c_proj.weight", (4, 4), rows(2, 4)),
        ("transformer.h.0.attn.c_proj.bias", (4,), WHOLE),
        ("transformer.h.0.mlp.c_fc.weight", (4, 16), columns(8, 16)),
        ("transformer.h.0.mlp.c_proj.weight", (16, 4), rows(8, 16)),
        ("transformer.wpe.weight", (5, 3), WHOLE),
        # OPT, GPT-NeoX, GPT-J, Phi.
        ("model.decoder.layers.0.self_attn.out_proj.weight", (6, 8), columns(4, 8)),
        ("model.decoder.layers.0.fc1.bias", (8,), rows(4, 8)),
        ("model.decoder.embed_positions.weight", (5, 3), WHOLE),
        ("gpt_neox.layers.0.attention.query_key_value.weight", (12, 4), rows(6, 12)),
        ("gpt_neox.layers.0.attention.dense.weight", (6, 8), columns(4, 8)),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", (8, 6), rows(4, 8)),
        ("gpt_neox.embed_in.weight", (8, 6), rows(4, 8)),
        ("embed_out.weight", (8, 6), rows(4, 8)),
        ("model.layers.0.self_attn.dense.weight", (6, 8), columns(4, 8)),
        # Scales beside quantised matrices: of blocks, of rows, of all.
        ("m.self_attn.q_proj.weight_scale_inv", (4, 3), rows(2, 4)),
        ("m.self_attn.o_proj.weight_scale_inv", (3, 4), columns(2, 4)),
        ("m.self_attn.q_proj.weight_scale", (8, 1), rows(4, 8)),
        ("m.self_attn.o_proj.weight_scale", (8, 1), WHOLE),
        ("m.self_attn.q_proj.weight_scale", (), WHOLE),
        ("m.self_attn.q_proj.weight_scale", (1,), WHOLE),
        ("m.self_attn.q_proj.input_scale", (1,), WHOLE),
        ("m.self_attn.o_proj.weight_scale_2", (), WHOLE),
        ("scalar", (), WHOLE),
    ],
)
def test_knows_the_common_families(name: str, shape: Sequence[int], expected: Slice | None) -> None:
    assert SliceRules().slice_of(name, shape, 1, 2) == expected


@pytest.mark.parametrize(
    ("name", "shape", "rule"),
    [
        ("m.self_attn.qkv_proj.weight", (12, 4), "it is fused"),
        ("transformer.h.0.self_attention.query_key_value.weight", (12, 4), "it is fused"),
        ("transformer.blocks.0.attn.Wqkv.weight", (12, 4), "it is fused"),
        # GPT-BigCode's is no transposed one.
        ("transformer.h.0.attn.c_attn.weight", (6, 4), "it is fused"),
        ("transformer.h.0.attn.c_attn.weight", (4, 4, 12), "it is fused"),
        ("something.else.weight", (4, 4), "no rule says how"),
        ("m.layers.0.mlp.experts.gate_up_proj", (2, 8, 8), "no rule says how"),
        ("m.layers.0.mlp.experts.down_proj", (2, 8, 8), "no rule says how"),
        ("m.q_proj.qweight", (4, 4), "nothing is known of 'qweight' tensors"),
        ("m.q_proj.weight", (5, 4), r"column: dimension 0 of \[5, 4\] does not divide by 2"),
        ("m.mlp.gate_up_proj.weight", (6, 4), r"of \[6, 4\] in 2 parts does not divide by 2"),
    ],
)
def test_refuses_what_it_can_not_know(name: str, shape: Sequence[int], rule: str) -> None:
    with pytest.raises(SliceRefused, match=rule) as caught:
        SliceRules().slice_of(name, shape, 0, 2)

    assert caught.value.tensor == name


@pytest.mark.parametrize(
    ("config", "name", "devices", "rule"),
    [
        ({"num_key_value_heads": 2}, "m.k_proj.weight", 4, "2 key/value heads do not divide by 4"),
        ({"num_key_value_heads": 2}, "m.v_proj.bias", 4, "2 key/value heads"),
        ({"num_attention_heads": 2}, "m.k_proj.weight", 4, "2 key/value heads"),
        ({"num_attention_heads": 6}, "m.q_proj.weight", 4, "6 attention heads do not divide by 4"),
        ({"n_head": 2}, "h.0.attn.c_attn.bias", 4, "2 attention heads"),
        ({"text_config": {"num_key_value_heads": 2}}, "m.k_proj.weight", 4, "2 key/value heads"),
    ],
)
def test_heads_are_not_cut_through(
    config: Mapping[str, Any], name: str, devices: int, rule: str
) -> None:
    with pytest.raises(SliceRefused, match=rule):
        SliceRules.of_config(config).slice_of(name, (48,), 0, devices)


def test_heads_that_divide_are_dealt() -> None:
    rules = SliceRules.of_config({"num_attention_heads": 8, "num_key_value_heads": 4})

    assert rules.slice_of("m.k_proj.weight", (16, 8), 3, 4) == rows(12, 16)


def test_a_config_says_how_fused_ones_are_cut() -> None:
    phi = SliceRules.of_config(
        {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2}
    )
    bloom = SliceRules.of_config({"model_type": "bloom", "n_head": 4})

    # Four queries, two keys, two values of three rows each.
    assert phi.slice_of("model.layers.0.self_attn.qkv_proj.weight", (24, 5), 1, 2) == Slice(
        dim=0, ranges=((6, 12), (15, 18), (21, 24))
    )
    name = "transformer.h.0.self_attention.query_key_value.weight"
    assert bloom.slice_of(name, (24, 5), 1, 2) == rows(12, 24)


@pytest.mark.parametrize("value", [True, -1, "8", None])
def test_a_config_that_makes_no_sense_says_nothing_of_heads(value: object) -> None:
    assert SliceRules.of_config({"num_attention_heads": value, "text_config": 3}).heads == 0


def test_a_plan_of_transformers_is_followed() -> None:
    config = AutoConfig.for_model("llama", num_attention_heads=4, num_key_value_heads=2)
    rules = SliceRules.of_plan(plan_of("llama"), config.to_dict())

    prefix = "model.layers.11"
    assert rules.slice_of(f"{prefix}.self_attn.q_proj.weight", (8, 6), 1, 2) == rows(4, 8)
    assert rules.slice_of(f"{prefix}.self_attn.o_proj.weight", (6, 8), 1, 2) == columns(4, 8)
    # What a plan does not name is replicated.
    assert rules.slice_of("model.embed_tokens.weight", (7, 5), 1, 2) is None
    assert rules.slice_of("scalar", (), 1, 2) is None
    with pytest.raises(SliceRefused, match="2 key/value heads"):
        rules.slice_of(f"{prefix}.self_attn.k_proj.weight", (8, 6), 1, 4)


def test_a_plan_of_experts_is_that_of_each_expert_too() -> None:
    rules = SliceRules.of_plan(plan_of("mixtral"), {})

    joined = "model.layers.0.mlp.experts.gate_up_proj"
    assert rules.slice_of(joined, (3, 8, 6), 1, 2) == Slice(dim=1, ranges=((2, 4), (6, 8)))
    joined = "model.layers.0.mlp.experts.down_proj"
    assert rules.slice_of(joined, (3, 6, 8), 1, 2) == Slice(dim=2, ranges=((4, 8),))
    single = "model.layers.0.mlp.experts.7"
    assert rules.slice_of(f"{single}.w1.weight", (8, 6), 1, 2) == rows(4, 8)
    assert rules.slice_of(f"{single}.down_proj.weight", (6, 8), 1, 2) == columns(4, 8)


def test_experts_that_all_share_are_modules() -> None:
    rules = SliceRules.of_plan(plan_of("deepseek_v3"), {})

    shared = "model.layers.3.mlp.shared_experts"
    assert rules.slice_of(f"{shared}.up_proj.weight", (8, 6), 1, 2) == rows(4, 8)
    assert rules.slice_of(f"{shared}.down_proj.weight", (6, 8), 1, 2) == columns(4, 8)


def test_a_style_of_something_else_is_refused() -> None:
    with pytest.raises(SliceRefused, match="style 'grouped_gemm' says nothing of equal slices"):
        SliceRules.of_plan({"layers.*.mlp.experts.gate_up_proj": "grouped_gemm"}, {})


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen3_moe", "gemma3_text", "phi3", "gpt_neox", "deepseek_v3"]
)
def test_plans_of_transformers_are_understood(model_type: str) -> None:
    plan = plan_of(model_type)

    assert len(SliceRules.of_plan(plan, {}).rules) > len(plan)
