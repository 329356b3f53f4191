"""Building a model without weights."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

import inspect

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pilotlight.store_node.engines.transformers.configuration import BUILDING_ERRORS, one_line
from pilotlight.store_node.errors import UnsupportedModel


def build_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    *,
    attention: str | None = None,
    allow_custom_code: bool = False,
    device: str = "meta",
) -> PreTrainedModel:
    """Build a model on the meta device, but for the buffers that no checkpoint holds.

    On another device all of it is computed, weights by the library's own chance.

    `attention` names an implementation that is registered; None leaves it to the library.

    Raises:
        UnsupportedModel: it can't be built so, or can't be run a token at a time.
    """
    try:
        with torch.device(device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # untyped there
                config,
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=allow_custom_code,
            )
    except BUILDING_ERRORS as error:
        raise UnsupportedModel(
            f"no {config.model_type} model of that shape: {one_line(error)}"
        ) from error
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UnsupportedModel(f"{type(model).__name__} keeps no keys and values of its past")
    if device == "meta":
        _compute_buffers(model)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]  # untyped there
    return model


def _compute_buffers(model: PreTrainedModel) -> None:
    """Fill the non-persistent buffers: rotary frequencies, masks, scales.

    They follow from the configuration, and every model of the library knows how
    to compute its own: `from_pretrained` has them computed by the same call.
    """
    owners = set[torch.nn.Module]()
    for name, buffer in list(model.named_non_persistent_buffers(remove_duplicate=False)):
        owner = model.get_submodule(name.rpartition(".")[0])
        unfilled = torch.full_like(buffer, _unlikely(buffer.dtype), device="cpu")
        setattr(owner, name.rpartition(".")[2], unfilled)
        owners.add(owner)
    _initialise(model, owners)
    if _unfilled(model):
        # Some are computed by the code of a module further up.
        _initialise(model, set(model.modules()))
    if left := _unfilled(model):
        raise UnsupportedModel(f"nothing computes the buffers {', '.join(left[:5])}")


def _initialise(model: PreTrainedModel, modules: set[torch.nn.Module]) -> None:
    for module in model.modules():
        # The library's mark for "leave its parameters alone".
        vars(module)["_is_hf_initialized"] = module not in modules
    model.initialize_weights()  # type: ignore[no-untyped-call]  # untyped there


def _unfilled(model: PreTrainedModel) -> list[str]:
    return [name for name, buffer in model.named_non_persistent_buffers() if _is_unfilled(buffer)]


def _unlikely(dtype: torch.dtype) -> float | int | bool:
    """Return a value that no buffer is meant to be full of."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return False if dtype is torch.bool else torch.iinfo(dtype).min


def _is_unfilled(buffer: torch.Tensor) -> bool:
    if buffer.numel() == 0 or buffer.dtype is torch.bool:
        return False
    first = buffer.reshape(-1)[0]
    unlikely = _unlikely(buffer.dtype)
    return bool(first.isnan() if isinstance(unlikely, float) else first == unlikely)
