"""Loading one safetensors file as the `safetensors` library does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.loading import load_weights

if TYPE_CHECKING:
    import torch


def load_file(
    filename: str | os.PathLike[str], device: str | int = "cpu"
) -> dict[str, torch.Tensor]:
    """Load one safetensors file, in place of `safetensors.torch.load_file`.

    Names, dtypes and shapes are the same, and an int is a CUDA device as there. What
    differs is how the bytes come: at the bandwidth of the disk, into memory of their own.
    F6, which PyTorch has no type for, and F4 with an odd last dimension become bytes here
    and an error there. Metadata must be an object of text; there it may be null too. A file
    that is missing is a FileNotFoundError in both; one that breaks a rule of the format, a
    `SafetensorError` there, is a CorruptCheckpoint here.

    Raises:
        NoSuchCheckpoint: there is no such file.
        LoaderError: one of those that `load` raises.
    """
    checkpoint = Checkpoint.open_file(Path(filename))
    name = f"cuda:{device}" if isinstance(device, int) else str(device)
    weights, _ = load_weights(checkpoint, name)
    tensors = weights.tensors()
    weights.close()
    return tensors
