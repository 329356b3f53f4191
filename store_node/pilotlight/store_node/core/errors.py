"""Errors of the node core: each one is a defect, never somebody's bad input."""

from __future__ import annotations

from pilotlight.store_node.errors import StoreNodeError


class BrokenInvariant(StoreNodeError, AssertionError):
    """The core's state contradicts itself."""


class InvalidTransition(StoreNodeError, AssertionError):
    """A replica was to enter a state that can't follow its present one."""
