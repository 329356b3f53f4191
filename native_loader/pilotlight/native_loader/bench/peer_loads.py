"""One load by another library, in a fresh process.

It is run as a file by an interpreter that has the library and nothing of ours:
`python -I peer_loads.py QUESTION`; all but the loaders is `one_load`'s.
"""
# pyright: basic, reportMissingImports=false
# The peers come without types.

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotlight.native_loader.bench.one_load import Group, Loading, Tensors, serve
else:
    # No package is there to import it from.
    _spec = importlib.util.spec_from_file_location(
        "one_load", Path(__file__).with_name("one_load.py")
    )
    _one_load = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_one_load)
    Loading, serve = _one_load.Loading, _one_load.serve


def _load_safetensors(group: Group, device: str) -> Tensors:
    from safetensors.torch import load_file

    return _united(load_file(file, device=device) for file in group["files"])


def _load_pickle(group: Group, device: str, *, is_mapped: bool) -> Tensors:
    import torch

    return _united(
        torch.load(file, map_location=device, weights_only=True, mmap=is_mapped)
        for file in group["files"]
    )


def _load_transformers(group: Group, device: str) -> Tensors:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(group["directory"], dtype="auto")
    tensors: Tensors = (model if device == _CPU else model.to(device)).state_dict()
    return tensors


def _load_fastsafetensors(group: Group, device: str) -> Tensors:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader: Any = SafeTensorsFileLoader(SingleGroup(), device, nogds=True)
    loader.add_filenames({0: group["files"]})
    buffer = loader.copy_files_to_device()
    # The tensors lie in the buffer, which goes with these two.
    _KEPT.append((loader, buffer))
    return {name: buffer.get_tensor(name) for name in buffer.key_to_rank_lidx}


def _load_tensorizer(group: Group, device: str) -> Tensors:
    from tensorizer import TensorDeserializer

    (file,) = group["files"]
    loaded: Any = TensorDeserializer(file, device=device)
    _KEPT.append(loaded)
    return {name: loaded[name] for name in loaded}


def _load_runai(group: Group, device: str) -> Tensors:
    return dict(_stream_runai([group], device))


def _stream_runai(groups: Sequence[Group], device: str) -> list[tuple[str, Any]]:
    from runai_model_streamer import SafetensorsStreamer

    files = [file for group in groups for file in group["files"]]
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, device=device)
        return [(name, tensor) for name, tensor in streamer.get_tensors()]


def _load_all_runai(groups: Sequence[Group], device: str) -> list[Tensors]:
    """Load all files at once, which is what the streamer is for."""
    # Adapters have the same names, so each tensor is an answer of its own.
    return [{name: tensor} for name, tensor in _stream_runai(groups, device)]


_CPU = "cpu"
_RUNAI = "runai"
_KEPT: list[Any] = []

_LOADS: Mapping[str, Callable[..., Tensors]] = {
    "safetensors": _load_safetensors,
    "torch": partial(_load_pickle, is_mapped=False),
    "torch-mmap": partial(_load_pickle, is_mapped=True),
    "transformers": _load_transformers,
    _RUNAI: _load_runai,
    "runai-one-by-one": _load_runai,
    "fastsafetensors": _load_fastsafetensors,
    "tensorizer": _load_tensorizer,
}
LOADERS = tuple(_LOADS)


def peer_loading(question: Mapping[str, Any]) -> Loading:
    """Return the loader that a question names, for the device that it names."""
    name, device = question["loader"], question["device"]
    load_all = partial(_load_all_runai, device=device) if name == _RUNAI else None
    return Loading(partial(_LOADS[name], device=device), load_all)


def _united(parts: Any) -> Tensors:
    return {name: tensor for part in parts for name, tensor in part.items()}


def main() -> None:
    """Load with the peer that the question names."""
    serve(json.loads(sys.argv[1]), peer_loading)


if __name__ == "__main__":
    main()
