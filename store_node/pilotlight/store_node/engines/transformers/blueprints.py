"""Models without weights, which can be built before anybody asks for them."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from pilotlight.store_node.engines.transformers.attention import ATTENTION
from pilotlight.store_node.engines.transformers.configuration import choose_dtype, read_model_config
from pilotlight.store_node.engines.transformers.manners import Manner, manner_of
from pilotlight.store_node.engines.transformers.model import build_model

# A zygote's models cost memory and each fork the copying of page tables.
_MOST_KEPT = 64

_AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model on the meta device, and how it is to be computed."""

    config: PreTrainedConfig
    model: PreTrainedModel
    manner: Manner
    has_stated_dtype: bool
    """False where the configuration leaves the dtype to the weights."""
    runs_custom_code: bool


_kept: OrderedDict[bytes, Blueprint] = OrderedDict()


def keep_blueprint(directory: Path) -> Blueprint:
    """Draw that of a checkpoint for whoever takes it, here or in a process forked from this.

    Raises:
        UnsupportedModel: its configuration is absent, malformed, or needs what is not here.
    """
    key = _key(directory)
    if key not in _kept:
        _kept[key] = _read_and_draw(directory, dtype=_AUTO, allow_custom_code=False)
    _kept.move_to_end(key)
    while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def take_blueprint(directory: Path, *, dtype: str, allow_custom_code: bool) -> Blueprint:
    """Return that of a checkpoint: the kept one if there is one, which then is the caller's.

    Raises:
        UnsupportedModel: its configuration is absent, malformed, or needs what is not here.
    """
    key = _key(directory)
    # What is kept was built without a checkpoint's own code.
    is_kept = dtype in ("", _AUTO) and not (allow_custom_code and b"auto_map" in key)
    return (_kept.pop(key, None) if is_kept else None) or _read_and_draw(
        directory, dtype=dtype, allow_custom_code=allow_custom_code
    )


def draw_blueprint(
    config: PreTrainedConfig, dtype: torch.dtype | None, *, allow_custom_code: bool = False
) -> Blueprint:
    """Build a model; where no dtype is given, in the library's own.

    Raises:
        UnsupportedModel: it can't be built so, or can't be run a token at a time.
    """
    # Of a checkpoint's own code nothing is known.
    manner = Manner.WHOLE if allow_custom_code else manner_of(config)
    model = build_model(
        config,
        torch.get_default_dtype() if dtype is None else dtype,
        attention=ATTENTION if manner is Manner.PACKED else None,
        allow_custom_code=allow_custom_code,
    )
    return Blueprint(
        config=config,
        model=model,
        manner=manner,
        has_stated_dtype=dtype is not None,
        runs_custom_code=allow_custom_code,
    )


def redraw_blueprint(blueprint: Blueprint, dtype: torch.dtype) -> Blueprint:
    """Build the same model in another dtype."""
    return draw_blueprint(blueprint.config, dtype, allow_custom_code=blueprint.runs_custom_code)


def _read_and_draw(directory: Path, *, dtype: str, allow_custom_code: bool) -> Blueprint:
    config = read_model_config(directory, allow_custom_code=allow_custom_code)
    brings_code = allow_custom_code and hasattr(config, "auto_map")
    return draw_blueprint(config, choose_dtype(dtype, config), allow_custom_code=brings_code)


def _key(directory: Path) -> bytes:
    """Return what decides a model: all of its configuration, whose absence is found out later."""
    try:
        return (directory / "config.json").read_bytes()
    except OSError:
        return b""
