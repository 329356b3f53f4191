"""What users tell the `timed` engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from pilotlight.store_node.engines.config_file import first_count
from pilotlight.store_node.engines.engine import Offer
from pilotlight.store_node.engines.timed_faults import FaultOptions
from pilotlight.store_node.engines.token_hash import MAX_TOKEN_ID, TokenHash
from pilotlight.store_node.errors import InvalidOption
from pilotlight.store_node.protocol.values import ReplicaSpec, Sampling

_FALLBACK_VOCABULARY = 32_000
_FALLBACK_CONTEXT_TOKENS = 4096

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class TimedOptions(FaultOptions, frozen=True, kw_only=True):
    """The engine options of `timed`: its pace, its limits, and failures on demand.

    A prefill of n tokens takes `prefill_seconds + n * prefill_seconds_per_token`;
    one token for each of n requests `decode_seconds + n * decode_seconds_per_request`.
    A measured profile takes the place of all four.
    """

    prefill_seconds: Seconds = 0.002
    """Of every prompt, in seconds."""
    prefill_seconds_per_token: Seconds = 0.000_01
    """Of every token of it."""
    decode_seconds: Seconds = 0.002
    """Of every token that requests get together."""
    decode_seconds_per_request: Seconds = 0.000_1
    """Of every request that gets one."""
    profile_file: str = ""
    """A CSV file of measured times; a relative path begins at the checkpoint's folder."""
    profile_model: str = ""
    """Which of the file's models."""
    profile_gpu: str = ""
    """Which of its GPUs."""
    slow_factor: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    """All times are multiplied by it."""
    prefill_chunk: Count = 0
    """Tokens of prompts computed beside each token of the others; 0: whole prompts, alone."""
    concurrency: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """Requests at once; 0: as many as the replica is to run."""
    context_tokens: Count = 0
    """0: what the replica asks for, else what config.json says."""
    kv_tokens: Count = 0
    """Tokens of all requests at once, each counted with all that it may emit; 0: no limit."""
    kv_block_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 1
    """A request holds whole blocks of so many tokens."""
    vocabulary: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN_ID)] = 0
    """0: what config.json says."""
    salt: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Keys the tokens; empty: the model's name, so that a wrong route shows."""

    def resolve(self, spec: ReplicaSpec, config: Mapping[str, Any]) -> TimedOptions:
        """Fill in what is left open, from the replica's spec and config.json."""
        return msgspec.structs.replace(
            self,
            concurrency=self.concurrency or max(1, spec.concurrency),
            context_tokens=self.context_tokens
            or spec.context_tokens
            or first_count(config, "max_position_embeddings", "n_positions")
            or _FALLBACK_CONTEXT_TOKENS,
            vocabulary=self.vocabulary or first_count(config, "vocab_size") or _FALLBACK_VOCABULARY,
            salt=self.salt or spec.model,
        )

    def offer(self) -> Offer:
        """Return what a replica with these options can do; nothing may be left open.

        Raises:
            InvalidOption: the KV memory holds not one block.
        """
        n_blocks = self.kv_tokens // self.kv_block_tokens
        if self.kv_tokens and not n_blocks:
            raise InvalidOption(
                f"engine option kv_tokens={self.kv_tokens} is less than one block of"
                f" {self.kv_block_tokens} tokens"
            )
        return Offer(
            concurrency=self.concurrency,
            context_tokens=self.context_tokens,
            dtype="none",
            kv_tokens=n_blocks * self.kv_block_tokens or None,
            kv_block_tokens=self.kv_block_tokens,
            variant=f"vocabulary {self.vocabulary}, salt {self.salt}",
        )

    def token_hash(self, sampling: Sampling) -> TokenHash:
        """Return what a request's tokens come from; greedy ones come from no seed."""
        seed = sampling.seed if sampling.temperature > 0 else 0
        return TokenHash(salt=self.salt, seed=seed, vocabulary=self.vocabulary)
