from __future__ import annotations

from pilotlight.scheduler.core.actions import RouteAdded
from pilotlight.scheduler.gateway.routing.routes import Route, RouteTable
from pilotlight.store_node.protocol import Incarnation, ModelId, NodeId, ReplicaId

M = ModelId("m")


def route_to(replica: str, *, concurrency: int = 1, model: ModelId = M) -> RouteAdded:
    return RouteAdded(
        replica=ReplicaId(replica),
        model=model,
        node=NodeId("n1"),
        incarnation=Incarnation("n1-1"),
        address="n1:9000",
        concurrency=concurrency,
        context_tokens=1024,
        compatibility=None,
        epoch=1,
    )


def chosen(table: RouteTable, now: float = 0.0) -> Route:
    route = table.choose(M, now)
    assert route is not None
    return route


def test_a_model_without_replicas_has_no_route() -> None:
    assert RouteTable().choose(M, 0.0) is None


def test_a_full_replica_is_not_chosen() -> None:
    table = RouteTable()
    table.add(route_to("r1", concurrency=2))
    route = chosen(table)

    table.enter(route)
    table.enter(route)
    before = table.choose(M, 0.0)
    table.leave(route)

    assert before is None
    assert table.choose(M, 0.0) is route


def test_a_suspended_replica_is_not_chosen_until_then() -> None:
    table = RouteTable()
    table.add(route_to("r1"))
    chosen(table).suspended_until = 5.0

    assert table.choose(M, 4.9) is None
    assert table.choose(M, 5.0) is not None


def test_news_of_a_replica_end_its_suspension() -> None:
    table = RouteTable()
    table.add(route_to("r1"))
    chosen(table).suspended_until = 5.0

    table.add(route_to("r1", concurrency=3))

    assert chosen(table).update.concurrency == 3


def test_a_removed_replica_is_remembered_while_requests_run_there() -> None:
    table = RouteTable()
    table.add(route_to("r1"))
    route = chosen(table)
    table.enter(route)

    table.remove(ReplicaId("r1"))
    during = (table.choose(M, 0.0), list(table))
    table.leave(route)

    assert during == (None, [route])
    assert list(table) == []


def test_a_replica_that_comes_back_has_what_runs_there() -> None:
    table = RouteTable()
    table.add(route_to("r1"))
    route = chosen(table)
    table.enter(route)

    table.remove(ReplicaId("r1"))
    table.add(route_to("r1"))
    during = table.choose(M, 0.0)
    table.leave(route)

    assert during is None
    assert table.choose(M, 0.0) is route


def test_removing_what_is_not_there_is_harmless() -> None:
    table = RouteTable()
    table.add(route_to("r1"))
    table.enter(chosen(table))

    table.remove(ReplicaId("r1"))
    table.remove(ReplicaId("r1"))
    table.remove(ReplicaId("r2"))

    assert len(list(table)) == 1
