"""What a zygote does once, so that no replica forked from it does it again."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pilotlight.store_node.engines.engine import EngineSetup, Work
from pilotlight.store_node.engines.transformers.blueprints import (
    Blueprint,
    draw_blueprint,
    keep_blueprint,
)
from pilotlight.store_node.engines.transformers.bounds import OutOfTime, bounded
from pilotlight.store_node.engines.transformers.configuration import one_line
from pilotlight.store_node.engines.transformers.options import TransformersOptions
from pilotlight.store_node.engines.transformers.replica import Replica
from pilotlight.store_node.engines.transformers.small import check_small, small_config
from pilotlight.store_node.errors import UnsupportedModel
from pilotlight.store_node.protocol.values import (
    ModelId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    RequestId,
    Sampling,
)

_log = logging.getLogger(__name__)

# What one checkpoint's configuration may cost the process that all workers come from.
_MOST_SECONDS = 10.0
_MOST_BYTES = 1 << 30

_SAMPLINGS = (
    Sampling(max_tokens=3, top_p=0.9, logprobs=1, presence_penalty=0.5),
    Sampling(max_tokens=3, temperature=0.0),
)


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


def warm_up(checkpoints: Sequence[Path]) -> None:
    """Import the models of these checkpoints, build them, and have tiny ones answer requests.

    What is left for a replica is to attach its weights, and for its first request
    to touch them. One thread does it all, for threads don't survive a fork. What
    can't be done so is left out, and those replicas start slower.
    """
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped there
    set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped there
    for directory in checkpoints:
        try:
            with bounded(seconds=_MOST_SECONDS, memory_bytes=_MOST_BYTES):
                _answer_once(keep_blueprint(directory))
        except (UnsupportedModel, OutOfTime) as error:
            _log.warning("%s is left out: %s", directory.name, error)
        # A configuration may not bear being made small, and the library raises anything then.
        except Exception as error:
            _log.warning("no tiny %s could be run: %s", directory.name, one_line(error))


_answered: set[str] = set()


def _answer_once(blueprint: Blueprint) -> None:
    """Have a tiny model of the same kind answer requests, if none has yet."""
    config = small_config(blueprint.config)
    kind = config.to_json_string(use_diff=False)
    if kind in _answered:
        return
    _answered.add(kind)
    small = draw_blueprint(config, torch.float32)
    check_small(small.model)
    replica = Replica(small, _setup(), TransformersOptions(), clock=time.monotonic)
    replica.bind(_ZeroWeights(small.model))
    for number, sampling in enumerate(_SAMPLINGS):
        replica.loop.admit(
            Work(
                request_id=RequestId(f"warm-up-{number}"),
                attempt=1,
                prompt_ids=(1, 2, 3),
                emitted_ids=(),
                sampling=sampling,
            )
        )
    while replica.is_busy:
        replica.loop.step()


def _setup() -> EngineSetup:
    spec = ReplicaSpec(
        replica_id=ReplicaId("warm-up"),
        model=ModelId("warm-up"),
        reference=Reference("warm-up"),
        dtype="float32",
        concurrency=len(_SAMPLINGS),
    )
    return EngineSetup(spec=spec, directory=Path(), threads=1)
