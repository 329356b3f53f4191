"""A chunk pool that keeps accounts and refuses every wrong move."""

from __future__ import annotations

from pilotlight.store_node.protocol import Reference


class StrictPool:
    """Stands for the chunk pool where no bytes are needed."""

    def __init__(self, total_chunks: int) -> None:
        self.total_chunks = total_chunks
        self.cached: dict[Reference, set[int]] = {}
        self.bound: dict[Reference, set[int]] = {}
        self._free = set(range(total_chunks))

    @property
    def n_free(self) -> int:
        """Chunks that nobody has."""
        return len(self._free)

    def allocate(self, reference: Reference, n_chunks: int) -> None:
        """Take free chunks."""
        assert reference not in self.cached, f"{reference} has chunks already"
        assert reference not in self.bound, f"{reference} has chunks already"
        assert 0 < n_chunks <= len(self._free), f"{n_chunks} of {len(self._free)} free chunks"
        self.cached[reference] = {self._free.pop() for _ in range(n_chunks)}

    def bind(self, reference: Reference) -> None:
        """Move cached chunks to the bound account."""
        self.bound[reference] = self.cached.pop(reference)

    def unbind(self, reference: Reference) -> None:
        """Move bound chunks to the cached account."""
        self.cached[reference] = self.bound.pop(reference)

    def release(self, reference: Reference) -> None:
        """Give cached chunks back."""
        self._free |= self.cached.pop(reference)

    def check_integrity(self) -> None:
        """Assert that every chunk is in exactly one place."""
        groups = [self._free, *self.cached.values(), *self.bound.values()]
        assert sum(map(len, groups)) == self.total_chunks
        assert set().union(*groups) == set(range(self.total_chunks))
