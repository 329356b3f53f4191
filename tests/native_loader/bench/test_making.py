from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pilotlight.native_loader import Checkpoint, CorruptCheckpoint, load
from pilotlight.native_loader.bench.ablations import tensor_ranges
from pilotlight.native_loader.bench.checkpoints import Source
from pilotlight.native_loader.bench.making import write_converted, write_drawn
from pilotlight.native_loader.bench.one_load import (
    Loading,
    Tensors,
    digest_of,
    digest_of_tensor,
    flat,
    measure,
)
from pilotlight.native_loader.bench.recipes import SHORT_ADAPTERS, TINY, Layout, Recipe

FEW = replace(SHORT_ADAPTERS, count=2, layers=1, hidden=64)


def digest(tensors: Tensors) -> str:
    return digest_of([digest_of_tensor(name, flat(each)) for name, each in tensors.items()])


@pytest.mark.parametrize("layout", [Layout.SINGLE, Layout.SHARDED])
def test_weights_follow_from_the_recipe_whatever_the_layout(layout: Layout, tmp_path: Path) -> None:
    drawn = write_drawn(TINY, layout, tmp_path / layout)
    again = write_drawn(TINY, Layout.SINGLE, tmp_path / "again")

    tensors = load(tmp_path / layout)
    assert drawn == again == digest(tensors)
    assert tensors.keys() == TINY.tensors.keys()
    assert all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())


@pytest.mark.parametrize("layout", [Layout.PACKED, Layout.PICKLED])
def test_other_layouts_hold_the_same_tensors(layout: Layout, tmp_path: Path) -> None:
    drawn = write_drawn(TINY, Layout.SINGLE, tmp_path / TINY.name)

    write_converted(TINY, layout, tmp_path / TINY.name, tmp_path / TINY.folder(layout))

    source = Source.of(TINY, layout, tmp_path)
    (file,) = source.files
    assert source.size_bytes == file.stat().st_size >= TINY.size_bytes
    if layout is Layout.PICKLED:
        assert digest(torch.load(file, weights_only=True)) == drawn
    else:
        assert digest(load(file.parent)) == drawn


def test_adapters_are_many_checkpoints(tmp_path: Path) -> None:
    drawn = write_drawn(FEW, Layout.SINGLE, tmp_path / FEW.name)

    source = Source.of(FEW, Layout.SINGLE, tmp_path)
    each = [load(folder) for folder, _ in source.groups]
    digests = [digest_of_tensor(name, flat(t)) for loaded in each for name, t in loaded.items()]
    assert len(source.groups) == len(source.files) == 2
    assert digest_of(digests) == drawn


def test_adapters_are_pickled_one_by_one(tmp_path: Path) -> None:
    write_drawn(FEW, Layout.SINGLE, tmp_path / FEW.name)

    write_converted(FEW, Layout.PICKLED, tmp_path / FEW.name, tmp_path / FEW.folder(Layout.PICKLED))

    names = [file.name for file in Source.of(FEW, Layout.PICKLED, tmp_path).files]
    assert names == ["adapter_model.bin"] * 2


def test_the_ranges_are_where_the_tensors_lie(tmp_path: Path) -> None:
    write_drawn(TINY, Layout.SINGLE, tmp_path / TINY.name)
    (file,) = Source.of(TINY, Layout.SINGLE, tmp_path).files

    ranges = {tuple(map(int, text.split(":"))) for text in tensor_ranges(file)}

    entries = Checkpoint.open(tmp_path / TINY.name).tensors.values()
    assert ranges == {(entry.offset, entry.size_bytes) for entry in entries}


class TestDigest:
    SIZES = (0, 5, 4096, 3 * 4096 + 17)

    @pytest.fixture(params=SIZES)
    def data(self, request: pytest.FixtureRequest) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, (request.param,), generator=generator, dtype=torch.uint8)

    def test_a_changed_byte_a_name_or_a_length_shows(self, data: torch.Tensor) -> None:
        original = digest_of_tensor("a", flat(data))

        assert original == digest_of_tensor("a", flat(data.clone()))
        assert original != digest_of_tensor("b", flat(data))
        assert original != digest_of_tensor("a", flat(torch.cat([data, data.new_zeros(1)])))
        for place in {0, len(data) - 1} if len(data) else ():
            changed = data.clone()
            changed[place] ^= 1
            assert original != digest_of_tensor("a", flat(changed))

    def test_pages_and_tensors_that_were_swapped_show(self) -> None:
        pages = torch.arange(4096 * 2, dtype=torch.int32).view(torch.uint8).reshape(8, 4096)
        swapped = pages[[1, 0, *range(2, 8)]]
        first, second = flat(pages), flat(swapped)

        assert digest_of_tensor("a", first) != digest_of_tensor("a", second)
        straight = digest_of([digest_of_tensor("a", first), digest_of_tensor("b", second)])
        crossed = digest_of([digest_of_tensor("a", second), digest_of_tensor("b", first)])
        assert straight != crossed


def test_a_measurement_touches_digests_and_counts(tmp_path: Path) -> None:
    drawn = write_drawn(FEW, Layout.SINGLE, tmp_path / FEW.name)
    source = Source.of(FEW, Layout.SINGLE, tmp_path)
    loading = Loading(lambda group: load(group["directory"]))
    loading.facts["bottleneck"] = "none"

    result = measure(loading, source.asked())

    assert result["digest"] == drawn
    assert result["size_bytes"] == FEW.size_bytes
    assert 0 < result["load_seconds"] < result["total_seconds"]
    assert len(result["each_seconds"]) == 2
    assert result["bottleneck"] == "none"


def test_a_loader_s_error_is_not_swallowed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    loading = Loading(lambda group: load(group["directory"]))

    with pytest.raises(CorruptCheckpoint):
        measure(loading, [{"directory": str(tmp_path), "files": []}])


def test_recipes_of_both_kinds_are_recipes() -> None:
    both: list[Recipe] = [TINY, FEW]

    assert [recipe.dtype for recipe in both] == ["BF16", "F16"]
