"""The engine options of `transformers`."""

from __future__ import annotations

from typing import Annotated

import msgspec

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class TransformersOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment can say to the engine."""

    adapter: str = ""
    """A LoRA adapter as PEFT stores it: its directory, named as checkpoints are."""
    prefill_chunk: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 256
    """Tokens of prompts that a step computes at most, beside a token of each stream."""
    kv_tokens: _Tokens = 0
    """Tokens of all requests at once, each counted with all that it may come to; 0: as many
    as the replica's requests can use, where an eighth of the free memory holds them."""
    kv_block_tokens: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 16
    """KV memory is given out in blocks of so many tokens."""
