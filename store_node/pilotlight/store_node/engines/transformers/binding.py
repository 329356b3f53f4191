"""Attaching a checkpoint's tensors to a model, by the names that `from_pretrained` accepts."""

# Transformers' loading code is half typed:
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    build_glob_alternation,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.loading_report import LoadStateDictInfo

from pilotlight.store_node.errors import WeightsMismatch

_Mapping = list[WeightConverter | WeightRenaming]


@dataclass(slots=True)
class _Assignment:
    """Which stored tensor goes where."""

    direct: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the model's names."""
    converted: dict[str, torch.Tensor] = field(default_factory=dict)
    """By the checkpoint's names: tensors which the model keeps in another shape."""
    unexpected: set[str] = field(default_factory=set)


def attach_weights(
    model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str]
) -> int:
    """Make `tensors` the model's weights; return the bytes that had to be copied.

    Tensors that fit are used where they lie. Copied are those stored in another
    dtype than the model's, and those that the library merges, such as experts.

    Raises:
        WeightsMismatch: tensors are missing, in excess, or of another shape.
    """
    expected = model.state_dict()
    mapping: _Mapping = [
        entry
        for entry in get_model_conversion_mapping(model)
        if isinstance(entry, WeightConverter | WeightRenaming)
    ]
    assignment = _assign(model, tensors, expected, mapping)
    _add_aliases(model, assignment, aliases, expected, mapping)
    if misshaped := _misshaped(assignment.direct, expected):
        raise WeightsMismatch(misshaped=misshaped)
    dtypes = _Dtypes(model)
    cast = {name: dtypes.cast(name, tensor) for name, tensor in assignment.direct.items()}
    model.load_state_dict(cast, strict=False, assign=True)
    unexpected = assignment.unexpected
    if assignment.converted:
        unexpected = unexpected | _convert(model, assignment.converted, mapping, dtypes)
    _tie_and_check(model, unexpected)
    model.requires_grad_(False)
    return _copied_bytes(model, tensors)


def _assign(
    model: PreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    mapping: _Mapping,
) -> _Assignment:
    assignment = _Assignment()
    for name, tensor in tensors.items():
        target, is_converted = _rename(model, name, expected, mapping)
        if is_converted:
            assignment.converted[name] = tensor
        elif target in expected and target not in assignment.direct:
            assignment.direct[target] = tensor
        else:
            assignment.unexpected.add(name)
    return assignment


def _rename(
    model: PreTrainedModel,
    name: str,
    expected: Mapping[str, torch.Tensor],
    mapping: _Mapping,
) -> tuple[str, bool]:
    """Return the model's name of a stored tensor, and whether it must be converted."""
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix = model.base_model_prefix
    target, source = rename_source_key(name, renamings, converters, prefix, dict(expected))
    if target not in expected and name in expected:
        return name, False
    return target, source is not None


def _add_aliases(
    model: PreTrainedModel,
    assignment: _Assignment,
    aliases: Mapping[str, str],
    expected: Mapping[str, torch.Tensor],
    mapping: _Mapping,
) -> None:
    """Give declared aliases their tensor, except those that the model ties itself."""
    tied = set(model.all_tied_weights_keys) | set(model.all_tied_weights_keys.values())
    for alias, stored in aliases.items():
        target, _ = _rename(model, alias, expected, mapping)
        source, _ = _rename(model, stored, expected, mapping)
        if target in expected and target not in tied and source in assignment.direct:
            assignment.direct.setdefault(target, assignment.direct[source])


def _misshaped(
    direct: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    return [
        f"{name} ({list(tensor.shape)} instead of {list(expected[name].shape)})"
        for name, tensor in direct.items()
        if tensor.shape != expected[name].shape
    ]


class _Dtypes:
    """What each tensor's dtype is to be: the model's, with the exceptions that it asks for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.plan = model._get_dtype_plan(model.dtype)
        self._built = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        self._exceptions = None
        if self.plan:
            self._exceptions, self._groups, _ = build_glob_alternation(list(self.plan))

    def cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        wanted = self._built[name]
        if self._exceptions is not None and (match := self._exceptions.search(name)):
            wanted = self.plan[self._groups[match.lastgroup or ""]]
        return tensor.to(wanted)


def _convert(
    model: PreTrainedModel,
    tensors: Mapping[str, torch.Tensor],
    mapping: _Mapping,
    dtypes: _Dtypes,
) -> set[str]:
    """Have the library reshape tensors into the model; return those it has no place for."""
    config = LoadStateDictConfig(dtype=model.dtype, dtype_plan=dtypes.plan, weight_mapping=mapping)
    info, _ = convert_and_load_state_dict_in_model(
        model=model, state_dict=dict(tensors), load_config=config, disk_offload_index=None
    )
    if info.mismatched_keys or info.conversion_errors:
        names = {str(key[0]) for key in info.mismatched_keys} | set(info.conversion_errors)
        raise WeightsMismatch(misshaped=names)
    return set(info.unexpected_keys)


def _tie_and_check(model: PreTrainedModel, unexpected: set[str]) -> None:
    info = LoadStateDictInfo(
        missing_keys=_without_data(model),
        unexpected_keys=unexpected,
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    # Drops what old checkpoints are known to hold in excess, such as causal masks.
    model._adjust_missing_and_unexpected_keys(info)
    missing = _without_data(model)
    if missing or info.unexpected_keys:
        raise WeightsMismatch(missing=missing, unexpected=info.unexpected_keys)


def _without_data(model: PreTrainedModel) -> set[str]:
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name for name, tensor in (*parameters, *buffers) if tensor.is_meta}


def _copied_bytes(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> int:
    stored = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return sum(
        tensor.nbytes
        for tensor in model.state_dict().values()
        if tensor.untyped_storage().data_ptr() not in stored
    )
