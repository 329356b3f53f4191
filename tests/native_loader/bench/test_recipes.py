from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.native_loader.bench.recipes import (
    ADAPTERS,
    EVERY,
    LARGE,
    SHORT,
    SMALL,
    TINY,
    Adapters,
    Layout,
    Llama,
    header_of,
    is_made,
    mark_of,
    missing_bytes,
    recipe_of,
    stamp_of,
)


def test_checkpoints_have_the_sizes_that_their_names_say() -> None:
    assert 2.55e9 < LARGE.size_bytes < 2.65e9
    assert 240e6 < SMALL.size_bytes < 260e6
    assert (ADAPTERS.count, round(ADAPTERS.size_bytes / ADAPTERS.count / 1e6)) == (100, 10)


@pytest.mark.parametrize("recipe", [LARGE, SMALL, SHORT, TINY], ids=lambda recipe: recipe.name)
def test_shards_hold_every_tensor_once_in_order(recipe: Llama) -> None:
    shards = recipe.shards(Layout.SHARDED)

    assert [name for shard in shards for name in shard] == list(recipe.tensors)
    assert 1 < len(shards) <= recipe.n_shards
    assert all(shards)
    assert recipe.shards(Layout.SINGLE) == [list(recipe.tensors)]


def test_the_configuration_fits_the_tensors() -> None:
    for recipe in (LARGE, SMALL, SHORT, TINY):
        heads = recipe.config["num_key_value_heads"]
        rows, _ = recipe.tensors["model.layers.0.self_attn.k_proj.weight"]
        assert heads * recipe.config["head_dim"] == rows


def test_every_layout_has_a_folder_of_its_own() -> None:
    folders = [recipe.folder(layout) for recipe in EVERY for layout in Layout]

    assert len(set(folders)) == len(folders)
    assert [recipe_of(recipe.name) for recipe in EVERY] == list(EVERY)


def test_a_header_lays_tensors_one_after_another() -> None:
    assert header_of("BF16", {"a": (2, 3), "b": (4,)}) == {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": (2, 3), "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": (4,), "data_offsets": [12, 20]},
    }


def test_what_another_recipe_has_made_is_made_anew(tmp_path: Path) -> None:
    wanted = [(TINY, Layout.SINGLE), (TINY, Layout.PACKED)]
    (tmp_path / TINY.folder(Layout.SINGLE)).mkdir()
    mark = mark_of(TINY, Layout.SINGLE, tmp_path)

    assert missing_bytes(wanted, tmp_path) == 2 * TINY.size_bytes
    mark.write_text(f"{stamp_of(replace(TINY, layers=2), Layout.SINGLE)}\ndigest\n")
    assert not is_made(TINY, Layout.SINGLE, tmp_path)
    mark.write_text(f"{stamp_of(TINY, Layout.SINGLE)}\ndigest\n")
    assert is_made(TINY, Layout.SINGLE, tmp_path)
    assert missing_bytes(wanted, tmp_path) == TINY.size_bytes
    (tmp_path / TINY.folder(Layout.SINGLE)).rmdir()
    assert not is_made(TINY, Layout.SINGLE, tmp_path)


def test_adapters_have_the_names_that_peft_gives() -> None:
    some = Adapters(name="some", count=2, layers=1, hidden=16, rank=4)

    assert some.numbers == ["000", "001"]
    assert some.tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] == (4, 16)
    assert some.tensors["base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight"] == (16, 4)
