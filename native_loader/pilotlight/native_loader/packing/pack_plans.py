"""What a packed checkpoint is cut into: one partition, slices, or ranges of layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class PlanKind(StrEnum):
    """How tensors are dealt to partitions."""

    ONE = "one"
    """All in one."""
    TENSOR_PARALLEL = "tensor-parallel"
    """A slice of every matrix in each, and all of what is not sliced."""
    LAYERS = "layers"
    """Consecutive layers in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """How a checkpoint is cut into partitions, one for each device."""

    kind: PlanKind = PlanKind.ONE
    n_partitions: int = 1

    def __str__(self) -> str:
        return self.kind if self.kind is PlanKind.ONE else f"{self.kind}={self.n_partitions}"

    @classmethod
    def parse(cls, text: str) -> PackPlan:
        """Return the plan of a text: "one", "tensor-parallel=4", "layers=2".

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"(one)|(tensor-parallel|layers)=([1-9]\d{0,3})", text)
        if match is None:
            raise ValueError(f"{text!r} is no plan: one, tensor-parallel=N or layers=N")
        if match[1]:
            return cls()
        return cls(kind=PlanKind(match[2]), n_partitions=int(match[3]))
