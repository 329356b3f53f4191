"""Which copies of a checkpoint serve a model, and where they lie."""

from __future__ import annotations

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import ClusterState, Node
from pilotlight.store_node.protocol import CheckpointStatus

_SSD, _DRAM, _BOUND = int(Residency.SSD), int(Residency.DRAM), int(Residency.BOUND)
_PINNED, _LOADING = int(Residency.PINNED), int(Residency.LOADING)


def is_copy_of(model: Model, copy: CheckpointStatus) -> bool:
    """Return whether a copy is the model's checkpoint, as far as it says itself.

    Equal content ids prove it. Without them the same path below a model root and
    the same layout must do: headers and sizes agree, bytes are assumed to.
    """
    if model.content_id and copy.content_id:
        return model.content_id == copy.content_id
    return model.reference == copy.reference and model.layout_id == copy.layout_id


def copy_on(state: ClusterState, model: Model, node: Node) -> CheckpointStatus | None:
    """Return the copy that a node would start a model from; None where it has none.

    A copy whose bytes are known to differ from those that the model was first
    served with is none.
    """
    named = node.checkpoints.get(model.reference)
    if named is not None and _is_usable(state, model, named):
        return named
    others = node.checkpoints.values() if model.content_id else ()
    return next((copy for copy in others if _is_usable(state, model, copy)), None)


def residency_of(state: ClusterState, model: Model, node: Node) -> Residency:
    """Return where a node holds a model's checkpoint, whole and usable."""
    copy = copy_on(state, model, node)
    return residency_of_copy(copy, node) if copy else Residency(0)


def residency_of_copy(copy: CheckpointStatus, node: Node) -> Residency:
    """Return where a node holds a usable copy."""
    # Plain numbers, of which a snapshot needs many: enumerations are slow to combine.
    flags = _SSD
    if copy.dram_bytes + copy.bound_bytes >= copy.size_bytes:
        flags |= _DRAM
    if copy.bound_bytes:
        flags |= _BOUND
    if copy.pinned:
        flags |= _PINNED
    if any(load.reference == copy.reference for load in node.loads):
        flags |= _LOADING
    return Residency(flags)


def fault_of(state: ClusterState, model: Model, copy: CheckpointStatus) -> str:
    """Return what keeps a copy at a model's path from serving it; empty = nothing."""
    if copy.quarantine:
        return copy.quarantine
    if not is_copy_of(model, copy):
        return f"{copy.reference} is another checkpoint than was deployed; deploy it again"
    if _has_other_bytes(state, model, copy):
        return f"{copy.reference} has changed since it was first served; deploy it again"
    return ""


def learn_digest(state: ClusterState, model: Model, copy: CheckpointStatus) -> None:
    """Remember the bytes of a model if this copy is the first known one of it."""
    if not copy.bytes_digest or copy.quarantine:
        return
    if copy.layout_id == model.layout_id and is_copy_of(model, copy):
        state.digests.setdefault(model.name, copy.bytes_digest)


def _is_usable(state: ClusterState, model: Model, copy: CheckpointStatus) -> bool:
    is_copy = not copy.quarantine and is_copy_of(model, copy)
    return is_copy and not _has_other_bytes(state, model, copy)


def _has_other_bytes(state: ClusterState, model: Model, copy: CheckpointStatus) -> bool:
    digest = state.digests.get(model.name)
    # Digests of other layouts are of the same bytes in another order: not to be compared.
    is_comparable = bool(digest and copy.bytes_digest) and copy.layout_id == model.layout_id
    return is_comparable and copy.bytes_digest != digest
