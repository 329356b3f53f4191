"""Adapters: small weights beside a model's own, attached without changing those.

LoRA as the PEFT library stores it: `adapter_config.json`, and for each adapted
module a pair of matrices by which `scale * (x @ A.T) @ B.T` is added to what the
module computes. Merging them into the weights would copy what every other
replica of the model shares.
"""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pilotlight.native_loader import LoaderError, load
from pilotlight.store_node.errors import UnsupportedModel, WeightsMismatch

_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": "a", ".lora_B.weight": "b"}
_NAME_LENGTH = 16


class _LoraConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What of PEFT's configuration decides the numbers."""

    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = {}
    init_lora_weights: Any = True
    bias: str = "none"
    # Each of these is something else than adding a product of two matrices.
    use_dora: Any = None
    use_qalora: Any = None
    lora_bias: Any = None
    modules_to_save: Any = None
    layer_replication: Any = None
    target_parameters: Any = None
    trainable_token_indices: Any = None
    alora_invocation_tokens: Any = None


# Those that leave the model's own weights as they are; others take something out of them first.
_INNOCENT_INITS = ("gaussian", "eva", "orthogonal")
_UNKNOWN = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The matrices of one module: [rank, in] and [out, rank]."""

    a: torch.Tensor
    b: torch.Tensor


class Adapter:
    """A LoRA adapter, read from its directory."""

    def __init__(self, directory: Path) -> None:
        """Read it.

        Raises:
            UnsupportedModel: it is no LoRA adapter, or of a kind that is not known here.
            WeightsMismatch: one of a pair of matrices is missing.
        """
        self._name = directory.name
        self._config = _read_config(directory)
        try:
            tensors = load(directory)
        except LoaderError as error:
            raise UnsupportedModel(f"adapter {self._name!r} can't be read: {error}") from error
        self._pairs = _pairs_of(self._name, tensors)
        self.variant = _digest(directory, tensors)
        """Names the adapter by its content."""

    def attach(self, model: PreTrainedModel) -> None:
        """Have the modules of a model, whose weights are there, add what is adapted.

        Raises:
            WeightsMismatch: the model has no such modules, or of another shape.
            UnsupportedModel: they are no matrices.
        """
        modules = dict(model.named_modules())
        if unknown := [name for name in self._pairs if name not in modules]:
            raise WeightsMismatch(unexpected=unknown)
        if others := [name for name in self._pairs if not _is_linear(modules[name])]:
            raise UnsupportedModel(
                f"adapter {self._name!r} adapts {', '.join(others)}, which multiply by no matrix"
            )
        misshaped = [
            f"{name} (adapted as {_shape(pair)})"
            for name, pair in self._pairs.items()
            if _shape(pair) not in _shapes(modules[name])
        ]
        if misshaped:
            raise WeightsMismatch(misshaped=misshaped)
        for name, pair in self._pairs.items():
            _add(modules[name], pair, self._scale(name, pair.a.shape[0]), model)

    def _scale(self, module: str, rank: int) -> float:
        config = self._config
        # Keys are the ends of names, or expressions for them; the first that fits counts.
        fitting = (
            value
            for key, value in config.alpha_pattern.items()
            if re.match(rf"(.*\.)?({key})$", module)
        )
        alpha = next(fitting, config.lora_alpha)
        return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear | Conv1D)


def _shape(pair: _Pair) -> list[int]:
    return [pair.b.shape[0], pair.a.shape[1]]


def _shapes(module: Any) -> tuple[list[int], ...]:
    """Return the shape of a module's matrix, which GPT-2's layers keep the other way round."""
    shape = list(module.weight.shape)
    return (shape[::-1],) if isinstance(module, Conv1D) else (shape,)


def _add(module: torch.nn.Module, pair: _Pair, scale: float, model: PreTrainedModel) -> None:
    a, b = (each.to(model.device, model.dtype) for each in (pair.a, pair.b))

    def add(
        _: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        return output + linear(linear(inputs[0], a), b) * scale

    module.register_forward_hook(add)


def _read_config(directory: Path) -> _LoraConfig:
    path = directory / _CONFIG
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_LoraConfig)
    except OSError as error:
        raise UnsupportedModel(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path} describes no LoRA adapter: {error}") from error
    if problem := _problem_of(config):
        raise UnsupportedModel(f"adapter {directory.name!r} {problem}, which can't be attached")
    return config


def _problem_of(config: _LoraConfig) -> str:
    if config.peft_type != "LORA":
        return f"is of type {config.peft_type!r}, not LORA"
    if config.bias != "none":
        return f"has biases ({config.bias})"
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in _INNOCENT_INITS:
        return f"goes with other weights than the model's own (init_lora_weights={init})"
    for name in _UNKNOWN:
        if value := getattr(config, name):
            return f"has {name}={value!r}"
    for key in config.alpha_pattern:
        try:
            re.compile(key)
        except re.error as error:
            return f"names modules by {key!r}, which is no expression ({error})"
    return ""


def _pairs_of(adapter: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, _Pair]:
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        suffix = next((each for each in _SUFFIXES if name.endswith(each)), None)
        if suffix is None or tensor.dim() != 2:
            raise UnsupportedModel(f"adapter {adapter!r} holds {name}, which can't be attached")
        module = name.removeprefix(_PREFIX).removesuffix(suffix)
        matrices.setdefault(module, {})[_SUFFIXES[suffix]] = tensor
    broken = [
        module
        for module, pair in matrices.items()
        if len(pair) != 2 or not 0 < pair["a"].shape[0] == pair["b"].shape[1]
    ]
    if broken:
        raise WeightsMismatch(misshaped=[f"{module} (no pair of matrices)" for module in broken])
    return {module: _Pair(a=pair["a"], b=pair["b"]) for module, pair in matrices.items()}


def _digest(directory: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256((directory / _CONFIG).read_bytes())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return f"adapter-{digest.hexdigest()[:_NAME_LENGTH]}"
