"""Who may command this node: the latest leader, and each command once."""

from __future__ import annotations

from collections import OrderedDict

from pilotlight.store_node.protocol import CommandHeader, Incarnation
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal

MOST_KNOWN_KEYS = 4_096
"""Idempotency keys remembered. A controller repeats a command within seconds, or never."""


class Fence:
    """The highest epoch seen, and the answers to the last commands."""

    def __init__(self, incarnation: Incarnation) -> None:
        self._incarnation = incarnation
        self._epoch = 0
        self._answers: OrderedDict[str, Refusal | None] = OrderedDict()

    @property
    def epoch(self) -> int:
        """The highest epoch seen."""
        return self._epoch

    def see(self, epoch: int) -> None:
        """Note a leader's epoch."""
        self._epoch = max(self._epoch, epoch)

    def check(self, epoch: int, incarnation: Incarnation) -> Refusal | None:
        """Return why a message with that epoch and incarnation is refused; note its epoch."""
        if incarnation != self._incarnation:
            return Refusal(
                code=ErrorCode.WRONG_INCARNATION,
                message=f"this node's incarnation is {self._incarnation}, not {incarnation!r}",
            )
        if epoch < self._epoch:
            return Refusal(
                code=ErrorCode.STALE_EPOCH,
                message=f"epoch {epoch} is over; this node follows epoch {self._epoch}",
            )
        self.see(epoch)
        return None

    def check_command(self, header: CommandHeader) -> Refusal | None:
        """Return why a command is refused, whatever it says."""
        if refusal := self.check(header.epoch, header.incarnation):
            return refusal
        if not header.idempotency_key:
            return Refusal(
                code=ErrorCode.INVALID_REQUEST, message="a command needs an idempotency_key"
            )
        return None

    def knows(self, key: str) -> bool:
        """Whether a command of that key was answered."""
        return key in self._answers

    def recall(self, key: str) -> Refusal | None:
        """Return the first answer to a command of that key."""
        self._answers.move_to_end(key)
        return self._answers[key]

    def remember(self, key: str, answer: Refusal | None) -> None:
        """Keep the answer to a command."""
        self._answers[key] = answer
        while len(self._answers) > MOST_KNOWN_KEYS:
            self._answers.popitem(last=False)
