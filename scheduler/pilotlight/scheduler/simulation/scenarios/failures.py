"""The section `failures`: what goes wrong, and when."""

from __future__ import annotations

from typing import TypeAlias

from pilotlight.scheduler.simulation.scenarios.section import Amount, Positive, Section


class NodeLoss(Section, frozen=True, kw_only=True, tag_field="kind", tag="lose_node"):
    """A node dies with all that runs there."""

    at_seconds: Amount
    node: str
    back_after_seconds: Positive | None = None
    """It returns with empty memory; null = never."""


class CutOff(Section, frozen=True, kw_only=True, tag_field="kind", tag="cut_off"):
    """The link between a node and its controller is lost for a while; the node goes on."""

    at_seconds: Amount
    node: str
    seconds: Positive


class SlowChannel(Section, frozen=True, kw_only=True, tag_field="kind", tag="slow_channel"):
    """A disk or another channel is slower, or carries nothing, for a while."""

    at_seconds: Amount
    channel: str
    factor: Amount
    """Of its bandwidth that is left."""
    seconds: Positive | None = None
    """null = for good."""


Failure: TypeAlias = NodeLoss | CutOff | SlowChannel
