"""Where a node listens, and whether others can reach it there."""

from __future__ import annotations

from pilotlight.process.ports import Address, parse_address
from pilotlight.store_node.errors import InvalidSettings
from pilotlight.store_node.settings import NodeSettings

_WILDCARDS = ("0.0.0.0", "::")


def listen_address(settings: NodeSettings) -> Address:
    """Return where a node is to listen.

    Raises:
        InvalidSettings, InvalidAddress: it can't be met.
    """
    address = parse_address(settings.listen)
    if address.host in _WILDCARDS and not settings.advertise:
        raise InvalidSettings(
            f"a node that listens on {address.host} needs advertise:"
            " HOST:PORT at which the controller and gateways reach it"
        )
    if settings.advertise:
        parse_address(settings.advertise)
    return address
