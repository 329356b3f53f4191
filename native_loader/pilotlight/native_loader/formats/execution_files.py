"""The small files beside the weights: configuration, tokenizer, chat template."""

from __future__ import annotations

import os
import re
from fnmatch import translate
from pathlib import Path

from pilotlight.native_loader.formats.confinement import Roots

_PATTERNS = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "*.spm",
    "spiece.model",
    "sentencepiece*.model",
    "preprocessor_config.json",
    "processor_config.json",
)
_IS_WANTED = re.compile("|".join(translate(pattern) for pattern in _PATTERNS)).match


def find_execution_files(directory: Path, roots: Roots) -> tuple[str, ...]:
    """Return the names of a checkpoint's execution files, sorted; never weights.

    Raises:
        OutsideRoots: one of them is a link that leads outside.
    """
    with os.scandir(directory) as entries:
        found = [entry for entry in entries if _IS_WANTED(entry.name) and entry.is_file()]
    for entry in found:
        if entry.is_symlink():
            roots.check(Path(entry.path))
    return tuple(sorted(entry.name for entry in found))
