"""Who may run on a replica: slots, and KV memory."""

from __future__ import annotations

from pilotlight.store_node.engines.engine import Offer, Work, WorkRefused
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.protocol.values import RequestId


class Room:
    """The slots and the KV memory that a replica offers, and what requests hold of them.

    A request holds memory for all that it may come to, in whole blocks, from its
    admission to its end, so that nothing that was admitted ever runs out of it.
    """

    def __init__(self, offer: Offer, *, vocabulary: int) -> None:
        """Take the bounds that the replica has stated; token ids lie below `vocabulary`."""
        self._offer = offer
        self._vocabulary = vocabulary
        self._held: dict[RequestId, int] = {}
        self._n_held = 0

    def admit(self, work: Work) -> Progress:
        """Give a request its slot and its memory; return how far it is.

        Raises:
            WorkRefused: "invalid" or "too_long": it can never run here; "full": not now.
        """
        offer, request_id = self._offer, work.request_id
        if request_id in self._held:
            raise WorkRefused("invalid", f"request {request_id!r} is already running")
        progress = Progress(work, context_tokens=offer.context_tokens, vocabulary=self._vocabulary)
        n_tokens = offer.kv_need(len(work.prompt_ids), work.sampling.max_tokens)
        self._check(n_tokens)
        self._held[request_id] = n_tokens
        self._n_held += n_tokens
        return progress

    def tokens_of(self, request_id: RequestId) -> int:
        """Return for how many tokens a request holds memory."""
        return self._held[request_id]

    def release(self, request_id: RequestId) -> None:
        """Take back what a request holds, if it holds anything."""
        self._n_held -= self._held.pop(request_id, 0)

    def _check(self, n_tokens: int) -> None:
        slots, total = self._offer.concurrency, self._offer.kv_tokens
        if total is not None and n_tokens > total:
            raise WorkRefused("too_long", f"{n_tokens} tokens never fit into {total} of KV memory")
        if len(self._held) >= slots:
            raise WorkRefused("full", f"all {slots} slots are taken")
        if total is not None and self._n_held + n_tokens > total:
            raise WorkRefused(
                "full",
                f"{n_tokens} tokens don't fit beside {self._n_held} into {total} of KV memory",
            )
