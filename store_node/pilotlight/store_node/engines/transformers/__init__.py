"""The `transformers` engine: causal language models as that library builds them.

Nothing here imports torch before an engine is preloaded or prepared.
"""

from __future__ import annotations

from pilotlight.store_node.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
