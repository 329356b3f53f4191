"""A gRPC server with health and reflection."""

# pyright: basic
# grpc_health and grpc_reflection come without types.
from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pilotlight.process.errors import AddressUnavailable
from pilotlight.process.ports import Address, require_free
from pilotlight.store_node.doors.service import StoreNodeService
from pilotlight.store_node.protocol import store_node_pb2, store_node_pb2_grpc
from pilotlight.store_node.protocol.channels import OPTIONS

_SERVICE = store_node_pb2.DESCRIPTOR.services_by_name["StoreNode"].full_name


class RpcServer:
    """Listens from `start` on; says NOT_SERVING before it ends."""

    def __init__(self, service: StoreNodeService) -> None:
        # Without SO_REUSEPORT, so that two nodes can't share a port without a word.
        self._server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
        # The module's `aio` is there at run time only.
        asynchronous: Any = health.aio  # pyright: ignore[reportAttributeAccessIssue]
        self._health = asynchronous.HealthServicer()
        store_node_pb2_grpc.add_StoreNodeServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, address: Address) -> Address:
        """Listen, and return where.

        Raises:
            AddressUnavailable: another process listens there, or it may not be used.
        """
        require_free(address)
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as exc:
            raise AddressUnavailable(str(address), "gRPC can't listen there") from exc
        await self._server.start()
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return Address(host=address.host, port=port)

    async def say_stopping(self) -> None:
        """Say NOT_SERVING from now on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, *, grace_seconds: float) -> None:
        """End; calls that run have `grace_seconds` to finish."""
        await self._server.stop(grace_seconds)
