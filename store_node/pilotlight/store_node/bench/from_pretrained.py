"""The rival of a start: `from_pretrained` and one forward pass.

Run as `python -m pilotlight.store_node.bench.from_pretrained PARENT_PID DIRECTORY IDS`
it does that once in a new process, imports included, of which hardly any are
ours; its parent has the clock.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pilotlight.process.lifeline import die_with_parent
from pilotlight.process.page_cache import bytes_read

if TYPE_CHECKING:
    import torch


def first_token(directory: str, prompt_ids: Sequence[int]) -> int:
    """Load a checkpoint as transformers does; return the greedy first token."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    auto: Any = AutoModelForCausalLM
    return int(last_logits(auto.from_pretrained(directory), prompt_ids).argmax())


def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits that follow the last token, by one plain forward pass."""
    import inspect

    import torch

    has_choice = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": 1} if has_choice else {}
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=True, **options).logits
    return logits[0, -1]


def main() -> None:
    """Say the token, then what was read from the disk for it."""
    parent_pid, directory, ids = sys.argv[1:]
    die_with_parent(int(parent_pid))
    _say("Token", "token_id", first_token(directory, json.loads(ids)))
    # The parent's clock has stopped with the line above.
    _say("BytesRead", "n_bytes", bytes_read(os.getpid()))


def _say(message: str, name: str, value: int) -> None:
    os.write(1, json.dumps({"type": message, name: value}).encode() + b"\n")


if __name__ == "__main__":
    main()
