"""Runs a store node as `pilotlight node` does: `python -m pilotlight.store_node`."""

from __future__ import annotations

from pilotlight.store_node.command import node

if __name__ == "__main__":
    node(prog_name="pilotlight node")
