"""The reference: from_pretrained and one forward pass, in a process with nothing else.

Run as a program it does one of two things. `fresh FOLDER` loads and answers once;
its parent times the whole process. `forks` imports everything, then forks a child
for each folder it reads from stdin, times that child, and writes the seconds.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def first_token(folder: str, prompt_ids: Sequence[int]) -> int:
    """Load a checkpoint as transformers does; return the greedy first token."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids]), use_cache=True).logits
    return int(logits[0, -1].argmax())


def _fresh(folder: str, prompt_ids: Sequence[int]) -> None:
    _answer({"token": first_token(folder, prompt_ids)})
    # Its parent's clock has stopped with the line above.
    _answer({"bytes_read": _bytes_read()})


def _forks(architectures: Sequence[str]) -> None:
    import importlib

    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    for name in architectures:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    _answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _tell_failure(_timed, request["folder"], request["prompt_ids"])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            _answer({"error": f"its process ended with {os.waitstatus_to_exitcode(status)}"})


def _timed(folder: str, prompt_ids: Sequence[int]) -> None:
    began = time.monotonic()
    token = first_token(folder, prompt_ids)
    seconds = time.monotonic() - began
    _answer({"token": token, "seconds": seconds, "bytes_read": _bytes_read()})


def _tell_failure(work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    # Whatever it is, whoever waits for an answer gets one.
    except Exception as exc:
        _answer({"error": repr(exc)})


def _answer(content: dict[str, Any]) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


def _bytes_read() -> int:
    from pilotlight.process.page_cache import bytes_read

    return bytes_read(os.getpid())


if __name__ == "__main__":
    if sys.argv[1] == "fresh":
        _tell_failure(_fresh, sys.argv[2], json.loads(sys.argv[3]))
    else:
        _forks(sys.argv[2:])
