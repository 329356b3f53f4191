"""The tokens of one request, whatever places they come from, each exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pilotlight.store_node.protocol import TokenBatch


@dataclass(slots=True)
class TokenLog:
    """Emitted ids and the attempt that may add to them."""

    attempt: int = 0
    emitted_ids: list[int] = field(default_factory=list[int])

    def begin_attempt(self) -> int:
        """Return the number of the next attempt; tokens of earlier ones are now old."""
        self.attempt += 1
        return self.attempt

    def take(self, batch: TokenBatch) -> TokenBatch | None:
        """Return what is new in a batch; None where nothing is.

        Raises:
            ValueError: tokens are missing before it.
        """
        if batch.attempt != self.attempt:
            return None
        known = len(self.emitted_ids) - batch.seq
        if known < 0:
            raise ValueError(f"tokens {len(self.emitted_ids)} to {batch.seq - 1} are missing")
        fresh = batch.token_ids[known:]
        if not fresh and batch.finish_reason is None:
            return None
        self.emitted_ids.extend(fresh)
        if not known:
            return batch
        return replace(
            batch, seq=batch.seq + known, token_ids=fresh, logprobs=batch.logprobs[known:]
        )
