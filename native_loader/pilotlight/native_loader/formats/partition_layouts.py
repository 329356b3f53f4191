"""How a checkpoint will lie in the files of a packed one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pilotlight.native_loader.formats.header import LENGTH_BYTES
from pilotlight.native_loader.formats.parts import TensorEntry
from pilotlight.native_loader.formats.sliced import slice_size_bytes
from pilotlight.native_loader.formats.weight_files import SINGLE_NAME
from pilotlight.native_loader.packing.pack_plans import PackPlan, PlanKind
from pilotlight.native_loader.packing.sources import Source
from pilotlight.native_loader.packing.tensor_order import packed_order
from pilotlight.native_loader.placements.layers import split_layers
from pilotlight.native_loader.placements.slice_rules import SliceRules
from pilotlight.native_loader.placements.slices import Slice

DATA_ALIGNMENT_BYTES = 4096
"""Where a partition's data starts: direct reads, pages and devices agree on it."""
ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLayout:
    """One partition, before it is written."""

    file: str
    header: bytes
    tensors: Mapping[str, TensorEntry]
    """As they will lie in the partition, in the order of their bytes."""
    slices: Mapping[str, Slice]
    """Of those tensors that it has only a slice of."""

    @property
    def size_bytes(self) -> int:
        """Return the size of the file."""
        return len(self.header) + sum(entry.size_bytes for entry in self.tensors.values())


def lay_out(source: Source, plan: PackPlan, rules: SliceRules) -> list[PartitionLayout]:
    """Return the partitions that a plan asks for.

    Raises:
        SliceRefused: a tensor can't be cut as the plan asks.
        TooManyPartitions: there are fewer layers than partitions.
    """
    names = _file_names(source, plan)
    if plan.kind is PlanKind.TENSOR_PARALLEL:
        return [_sliced_partition(source, number, names, rules) for number in range(len(names))]
    sizes = {name: tensor.size_bytes for name, tensor in source.tensors.items()}
    held: Sequence[frozenset[str]] = [frozenset(sizes)]
    if plan.kind is PlanKind.LAYERS:
        # What is used under two names is stored once, with the first of the two.
        held = split_layers(source.path, sizes, {}, plan.n_partitions)
    return [
        _partition(source, number, name, {each: sizes[each] for each in of}, {}, {})
        for number, (name, of) in enumerate(zip(names, held, strict=True))
    ]


def _file_names(source: Source, plan: PackPlan) -> list[str]:
    n = plan.n_partitions
    if plan.kind is PlanKind.TENSOR_PARALLEL:
        return [f"tensor-parallel-{number:05d}-of-{n:05d}.safetensors" for number in _count(n)]
    if plan.kind is PlanKind.LAYERS:
        return [f"model-{number:05d}-of-{n:05d}.safetensors" for number in _count(n)]
    return [ADAPTER_NAME if ADAPTER_CONFIG_NAME in source.execution_files else SINGLE_NAME]


def _count(n: int) -> range:
    return range(1, n + 1)


def _sliced_partition(
    source: Source, number: int, names: Sequence[str], rules: SliceRules
) -> PartitionLayout:
    slices: dict[str, Slice] = {}
    sizes: dict[str, int] = {}
    for name, tensor in source.tensors.items():
        cut = rules.slice_of(name, tensor.shape, number, len(names))
        if cut is not None:
            slices[name] = cut
        sizes[name] = slice_size_bytes(name, tensor.dtype, tensor.shape, cut)
    told = {"pilotlight.partition": f"{number + 1} of {len(names)}, tensor-parallel"}
    return _partition(source, number, names[number], sizes, slices, told)


def _partition(
    source: Source,
    number: int,
    file: str,
    sizes: Mapping[str, int],
    slices: Mapping[str, Slice],
    metadata: Mapping[str, str],
) -> PartitionLayout:
    shapes = {
        name: slices[name].shape_of(source.tensors[name].shape)
        if name in slices
        else source.tensors[name].shape
        for name in packed_order(sizes)
    }
    aliases = {alias: name for alias, name in source.aliases.items() if name in sizes}
    header = _header(source, shapes, sizes, {"format": "pt"} | dict(metadata) | aliases)
    offset = len(header)
    tensors: dict[str, TensorEntry] = {}
    for name, shape in shapes.items():
        tensors[name] = TensorEntry(
            file=number,
            offset=offset,
            size_bytes=sizes[name],
            dtype=source.tensors[name].dtype,
            shape=shape,
        )
        offset += sizes[name]
    return PartitionLayout(file=file, header=header, tensors=tensors, slices=slices)


def _header(
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, int],
    metadata: Mapping[str, str],
) -> bytes:
    first = {"format": metadata["format"]}
    document: dict[str, object] = {"__metadata__": first | dict(sorted(metadata.items()))}
    begin = 0
    for name, shape in shapes.items():
        end = begin + sizes[name]
        document[name] = {
            "dtype": source.tensors[name].dtype,
            "shape": shape,
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % DATA_ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
