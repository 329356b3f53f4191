from __future__ import annotations

from pilotlight.native_loader.packing.tensor_order import packed_order


def test_follows_the_forward_pass() -> None:
    names = [
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.10.mlp.weight",
        "model.layers.2.mlp.weight",
        "model.layers.2.attn.weight",
        "model.embed_tokens.weight",
    ]

    assert packed_order(dict.fromkeys(names, 512)) == [
        "model.embed_tokens.weight",
        "model.layers.2.attn.weight",
        "model.layers.2.mlp.weight",
        "model.layers.10.mlp.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]


def test_knows_the_names_of_other_architectures() -> None:
    names = ["transformer.h.0.w", "transformer.ln_f.w", "transformer.wpe.w", "transformer.wte.w"]

    order = packed_order(dict.fromkeys(names, 256))

    assert order == [
        "transformer.wpe.w",
        "transformer.wte.w",
        "transformer.h.0.w",
        "transformer.ln_f.w",
    ]


def test_puts_odd_sizes_last_by_falling_power_of_two() -> None:
    # 12 is divisible by 4, 8 by 8, 96 by 32, 3 by 1; 0 is a multiple of 256.
    sizes = {"twelve": 12, "eight": 8, "ninety_six": 96, "three": 3, "zero": 0, "page": 4096}

    assert packed_order(sizes) == ["page", "zero", "ninety_six", "eight", "twelve", "three"]
