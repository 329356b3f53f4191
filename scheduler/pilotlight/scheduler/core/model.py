"""A deployed model, as the scheduler knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from pilotlight.store_node.protocol import ModelId, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a user deploys."""

    name: ModelId
    reference: Reference
    """The checkpoint's path relative to the model roots of the nodes that hold it."""
    layout_id: str
    content_id: str = ""
    """Empty where the checkpoint lies as it is and was never hashed."""
    size_bytes: int
    devices: int = 1
    """For each replica."""
    engine: str = "transformers"
    engine_options: Mapping[str, str] = field(default_factory=dict[str, str])
    dtype: str = "auto"
    min_replicas: int = 0
    max_replicas: int = 1
    concurrency: int = 0
    """Requests that one replica takes at once, at most; 0 = what the engine allows."""
    keep_alive_seconds: float | None = None
    """How long an idle replica stays; None = as long as its load takes."""
    priority: int = 0
    queue_limit: int = 256
    context_tokens: int = 0
    """0 = what the checkpoint's config says."""
    architecture: str = ""
    path: str = ""
    """As the user gave it."""
    deployed_at: float = 0.0
    """Seconds since 1970."""

    @property
    def deployment(self) -> str:
        """Return a name of all that a replica is made from: another one, another replica."""
        made_from = (
            self.reference,
            self.layout_id,
            self.content_id,
            self.devices,
            self.engine,
            sorted(self.engine_options.items()),
            self.dtype,
            self.context_tokens,
            self.concurrency,
        )
        return sha256(msgspec.json.encode(made_from)).hexdigest()[:16]
