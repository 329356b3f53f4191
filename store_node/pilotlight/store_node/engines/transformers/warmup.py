"""What a zygote does once, so that no replica forked from it does it again."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pilotlight.store_node.engines.engine import Work
from pilotlight.store_node.engines.transformers.configuration import one_line, settings_of
from pilotlight.store_node.engines.transformers.model import build_model
from pilotlight.store_node.engines.transformers.replica import Replica
from pilotlight.store_node.protocol.values import RequestId, Sampling

_log = logging.getLogger(__name__)

# Whatever of these a configuration has is made small; the names are those of
# the library's configurations, which have two or three for each size.
_SMALL_SIZES: Mapping[str, int] = {
    "d_model": 32,
    "ffn_dim": 64,
    "head_dim": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 32,
    "n_embd": 32,
    "n_head": 2,
    "n_heads": 2,
    "n_inner": 64,
    "n_layer": 2,
    "n_layers": 2,
    "n_positions": 64,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rotary_dim": 16,
    "vocab_size": 64,
    "word_embed_proj_dim": 32,
}

# A configuration that stays larger than this keeps its sizes under other names.
_MOST_PARAMETERS = 2_000_000

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class _ZeroWeights:
    """Weights of the right names and shapes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._tensors = {
            name: torch.zeros_like(tensor, device="cpu")
            for name, tensor in model.state_dict().items()
        }

    size_bytes = 0
    copied_bytes = 0
    aliases: Mapping[str, str] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._tensors


def warm_up(architectures: Sequence[str]) -> None:
    """Import the models of these types, and have a tiny one of each answer a request.

    What is left for the first request of a replica is to touch its weights. One
    thread does it all, for threads don't survive a fork. Those that can't be run
    so are left out, and their replicas start slower.
    """
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped there
    set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped there
    for architecture in architectures:
        try:
            if not _is_known(architecture):
                _log.warning("%s is no causal language model that transformers knows", architecture)
                continue
            _answer_once(architecture)
        # A configuration may not bear being made small, and the library raises anything then.
        except Exception as error:
            _log.warning("no tiny %s model could be run: %s", architecture, one_line(error))


def _is_known(architecture: str) -> bool:
    return (
        architecture in CONFIG_MAPPING
        and CONFIG_MAPPING[architecture] in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _answer_once(architecture: str) -> None:
    config = _small_config(architecture)
    settings = settings_of(config, dtype="float32", context_tokens=0)
    replica = Replica(settings, threads=1, clock=time.monotonic)
    replica.bind(_ZeroWeights(_build_small(config)))
    replica.loop.admit(
        Work(
            request_id=RequestId("warm-up"),
            attempt=1,
            prompt_ids=(1, 2, 3),
            emitted_ids=(),
            sampling=Sampling(max_tokens=2, top_p=0.9, logprobs=1),
        )
    )
    while replica.is_busy:
        replica.loop.step()


def _build_small(config: PreTrainedConfig) -> PreTrainedModel:
    model = build_model(config, torch.float32)
    if (n_parameters := model.num_parameters()) > _MOST_PARAMETERS:
        raise ValueError(f"the smallest known has {n_parameters} parameters")
    return model


def _small_config(architecture: str) -> PreTrainedConfig:
    configuration = cast(Callable[..., PreTrainedConfig], CONFIG_MAPPING[architecture])
    has = configuration().to_dict()
    sizes = {name: size for name, size in _SMALL_SIZES.items() if name in has}
    ids = {name: 0 for name in _SPECIAL_IDS if isinstance(has.get(name), int)}
    return configuration(**sizes, **ids)
