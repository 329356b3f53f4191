"""The controller's gRPC server: nodes, users, health and reflection."""
# pyright: basic
# grpc_health and grpc_reflection come without types.

from __future__ import annotations

from contextlib import AsyncExitStack

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pilotlight.process.errors import AddressUnavailable
from pilotlight.process.ports import Address, require_free
from pilotlight.scheduler.driver.control_plane import ControlPlane
from pilotlight.scheduler.driver.registry import NodeRegistry
from pilotlight.scheduler.protocol import control_plane_pb2, control_plane_pb2_grpc
from pilotlight.store_node.protocol import store_node_pb2, store_node_pb2_grpc
from pilotlight.store_node.protocol.channels import OPTIONS

STOP_SECONDS = 1.0

_SERVICES = (
    control_plane_pb2.DESCRIPTOR.services_by_name["ControlPlane"].full_name,
    store_node_pb2.DESCRIPTOR.services_by_name["NodeRegistry"].full_name,
)


async def serve_grpc(
    address: Address, *, users: ControlPlane, nodes: NodeRegistry, stack: AsyncExitStack
) -> Address:
    """Serve until the stack unwinds; return where.

    Raises:
        AddressUnavailable: another process listens there, or it may not be used.
    """
    require_free(address)
    server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
    control_plane_pb2_grpc.add_ControlPlaneServicer_to_server(users, server)
    store_node_pb2_grpc.add_NodeRegistryServicer_to_server(nodes, server)
    # The module has it; its stubs do not.
    checks = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as exc:
        raise AddressUnavailable(str(address), "gRPC can't listen there") from exc
    await server.start()
    stack.push_async_callback(server.stop, STOP_SECONDS)
    for service in ("", *_SERVICES):
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    stack.push_async_callback(checks.enter_graceful_shutdown)
    return Address(host=address.host, port=port)
