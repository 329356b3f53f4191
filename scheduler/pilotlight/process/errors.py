"""The errors of what every process does the same way."""

from __future__ import annotations


class ProcessError(Exception):
    """Root of what `pilotlight.process` raises."""


class SettingsError(ProcessError, ValueError):
    """Settings that make no sense: where they came from, the key, the rule."""

    def __init__(self, source: str, rule: str, *, key: str = "") -> None:
        super().__init__(": ".join(part for part in (source, key, rule) if part))
        self.source = source
        self.key = key
        self.rule = rule


class InvalidQuantity(ProcessError, ValueError):
    """A size or a duration that can't be read."""


class InvalidAddress(ProcessError, ValueError):
    """An address that is not HOST:PORT."""


class AddressUnavailable(ProcessError, OSError):
    """An address that can't be listened on, with the reason."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"can't listen on {address}: {reason}")
        self.address = address
        self.reason = reason


class PluginError(ProcessError, LookupError):
    """A plugin that is asked for by name and can't be had."""
