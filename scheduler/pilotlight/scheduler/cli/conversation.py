"""What was said so far, and the next answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb
    from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc


@dataclass(slots=True, kw_only=True)
class Conversation:
    """One conversation with a model, printed as it comes."""

    model: str
    raw: bool
    sampling: Mapping[str, Any]
    """Fields of the rpc's request; None = as the gateway has it."""
    system: str | None = None
    _said: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def say(self, stub: rpc.ControlPlaneStub, text: str) -> None:
        """Send a line and print the answer."""
        answer: list[str] = []
        try:
            for response in stub.Generate(self._request(text)):
                answer.append(response.text)
                click.echo(response.text, nl=False)
        finally:
            # What follows, an error too, has its own line.
            if answer:
                click.echo()
        self._said += [("user", text), ("assistant", "".join(answer))]

    def _request(self, text: str) -> pb.GenerateRequest:
        from pilotlight.scheduler.protocol import control_plane_pb2 as pb

        request = pb.GenerateRequest(model=self.model, **self.sampling)
        if self.raw:
            request.text = text
            return request
        system = [("system", self.system)] if self.system else []
        for role, content in [*system, *self._said, ("user", text)]:
            request.chat.messages.add(role=role, content=content)
        return request
