"""The node's SSD tier: which copies of checkpoints there are, and which may be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pilotlight.store_node.protocol import ChannelId, Reference
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCopy:
    """A checkpoint as it lies below a model root."""

    reference: Reference
    path: str
    identity: str
    """Changes whenever a file may have changed; unlike the layout id it sees new bytes
    of the same shape."""
    ssd_channel: ChannelId
    layout_id: str = ""
    content_id: str = ""
    size_bytes: int = 0
    n_chunks: int = 0
    tensors: int = 0
    architecture: str = ""
    context_tokens: int = 0
    dtype: str = ""
    execution_files: tuple[str, ...] = ()
    problem: str = ""
    """Why the scan found it unusable; empty = it did not."""


class Copies:
    """All copies that the last scan found, with what loads have taught about them."""

    def __init__(self) -> None:
        self._copies: dict[Reference, CheckpointCopy] = {}
        self._quarantined: dict[Reference, str] = {}
        self._digests: dict[Reference, str] = {}

    def __iter__(self) -> Iterator[CheckpointCopy]:
        return iter(self._copies.values())

    def get(self, reference: Reference) -> CheckpointCopy | None:
        """Return the copy of that name, usable or not."""
        return self._copies.get(reference)

    def quarantine_of(self, reference: Reference) -> str:
        """Return why a copy is not used; empty = it is."""
        copy = self._copies.get(reference)
        return (copy.problem if copy else "") or self._quarantined.get(reference, "")

    def digest_of(self, reference: Reference) -> str:
        """Return the digest of a copy's bytes; empty before its first read."""
        return self._digests.get(reference, "")

    def find(self, reference: Reference, *, layout_id: str = "") -> CheckpointCopy | Refusal:
        """Return a copy that may be used, or why there is none."""
        copy = self._copies.get(reference)
        if copy is None:
            return Refusal(
                code=ErrorCode.UNKNOWN_CHECKPOINT,
                message=f"no checkpoint {reference!r} lies below the model roots of this node",
            )
        if reason := self.quarantine_of(reference):
            return Refusal(code=ErrorCode.QUARANTINED, message=f"{reference!r}: {reason}")
        if layout_id and layout_id != copy.layout_id:
            return Refusal(
                code=ErrorCode.LAYOUT_CHANGED,
                message=f"{reference!r} has layout {copy.layout_id[:12]} on this node,"
                f" not {layout_id[:12]}",
            )
        return copy

    def replace(self, copies: Sequence[CheckpointCopy]) -> list[Reference]:
        """Take a new scan; return the references that came, went or changed."""
        found = {copy.reference: copy for copy in copies}
        changed = [
            reference
            for reference in sorted(found.keys() | self._copies.keys())
            if found.get(reference) != self._copies.get(reference)
        ]
        for reference in changed:
            if not self._is_same(found.get(reference), self._copies.get(reference)):
                self._quarantined.pop(reference, None)
                self._digests.pop(reference, None)
        self._copies = dict(sorted(found.items()))
        return changed

    def quarantine(self, reference: Reference, reason: str) -> None:
        """Use this copy no more until its files change."""
        self._quarantined[reference] = reason

    def learn_digest(self, reference: Reference, *, identity: str, bytes_digest: str) -> None:
        """Keep what a load found the bytes of that copy to be."""
        copy = self._copies.get(reference)
        if copy is not None and copy.identity == identity:
            self._digests[reference] = bytes_digest

    @staticmethod
    def _is_same(left: CheckpointCopy | None, right: CheckpointCopy | None) -> bool:
        return left is not None and right is not None and left.identity == right.identity
