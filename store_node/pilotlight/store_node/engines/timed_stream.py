"""One request of the `timed` engine."""

from __future__ import annotations

from pilotlight.store_node.engines.engine import Emission, Extension, WorkFailure
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.token_hash import TokenHash
from pilotlight.store_node.protocol.values import RequestId, TokenLogprobs


class Stream:
    """Where a request is: its tokens, their hash, and how many of them are computed."""

    def __init__(self, progress: Progress, state: TokenHash, *, now: float) -> None:
        self.progress = progress
        self.ready_at = now
        """When it was last given tokens; no pass computes them that began before."""
        self.n_computed = 0
        self._state = state
        self._admitted_at = now
        self._has_emitted = False
        state.extend(progress.ids)

    @property
    def request_id(self) -> RequestId:
        """Whose it is."""
        return self.progress.work.request_id

    @property
    def n_due(self) -> int:
        """Tokens that were given and are not computed."""
        return self.progress.position - self.n_computed

    def extend(self, extension: Extension, *, now: float) -> None:
        """Add what another place emitted, or raise WorkRefused."""
        self.progress.extend(extension)
        self._state.extend(extension.emitted_ids)
        self.ready_at = now

    def next_token(self, *, now: float) -> Emission:
        """Emit a token; all before it is then computed."""
        progress = self.progress
        self.n_computed = progress.position
        seq, token_id = progress.seq, self._state.next_id()
        self._state.extend((token_id,))
        progress.accept(token_id)
        is_first, self._has_emitted = not self._has_emitted, True
        return Emission(
            request_id=self.request_id,
            attempt=progress.attempt,
            seq=seq,
            token_ids=(token_id,),
            logprobs=_logprobs(token_id, progress.work.sampling.logprobs),
            finish_reason=progress.finish_reason,
            prefill_seconds=now - self._admitted_at if is_first else 0.0,
        )

    def notice(self, *, failure: WorkFailure | None = None) -> Emission:
        """Emit no token, but where the request is: prepared, failed or at its end."""
        progress = self.progress
        return Emission(
            request_id=self.request_id,
            attempt=progress.attempt,
            seq=progress.seq,
            token_ids=(),
            finish_reason=progress.finish_reason,
            is_prepared=progress.is_held,
            failure=failure,
        )


def _logprobs(token_id: int, n_top: int | None) -> tuple[TokenLogprobs, ...]:
    """Say that the token was certain, which it was."""
    if n_top is None:
        return ()
    ids, logprobs = ((token_id,), (0.0,)) if n_top else ((), ())
    return (TokenLogprobs(logprob=0.0, top_ids=ids, top_logprobs=logprobs),)
