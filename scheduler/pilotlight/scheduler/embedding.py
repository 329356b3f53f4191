"""The scheduler inside another program: events in, commands out, no process, no network."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pilotlight.estimators import Estimator, StartEstimator
from pilotlight.process.plugins import load_plugin
from pilotlight.scheduler.core import Core, CoreSettings, Model
from pilotlight.scheduler.core.actions import AnyAction, Persist, RequestPlan, Send
from pilotlight.scheduler.core.events import (
    AnyEvent,
    DemandChanged,
    ModelDeployed,
    NodeJoined,
    Persisted,
    PlanProposed,
    Restored,
)
from pilotlight.scheduler.policies import Policy
from pilotlight.store_node.protocol import (
    Channel,
    ChannelId,
    CheckpointStatus,
    Engine,
    Incarnation,
    ModelId,
    NodeId,
    NodeReport,
    NodeResources,
    Reference,
)

ENGINE = "embedded"


class EmbeddedScheduler:
    """A core with its policy, for programs that carry out its commands themselves.

    `demand` and `handle` return what is to be done: commands to nodes (`Send`), to
    be answered with `Acked`, `Refused` or `Lost`, what routers should know
    (`Announce`), and when to come back (`SetTimer`, to be answered with
    `TimerFired`; without it no keep-alive ends). Plans are asked for and committed
    on the way, since no state is kept elsewhere. What nodes do is told with
    `NodeUpdated`. Not thread-safe.

    Raises:
        PluginError: no policy of that name is installed.
    """

    def __init__(
        self,
        policy: str = "serverlessllm",
        *,
        estimator: Estimator | None = None,
        settings: CoreSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        make_policy: Any = load_plugin("pilotlight.policies", policy)
        self._policy: Policy = make_policy()
        self._clock = clock
        self.core = Core(estimator=estimator or StartEstimator(), settings=settings)
        self.handle(Restored(epoch=1, models=(), replicas=()))

    def deploy(self, name: str, *, size_bytes: int, **limits: Any) -> list[AnyAction]:
        """Make a model known; `limits` are further fields of `Model`."""
        fields: dict[str, Any] = {"engine": ENGINE, "context_tokens": 1, **limits}
        model = Model(
            name=ModelId(name),
            reference=Reference(name),
            layout_id=name,
            size_bytes=size_bytes,
            **fields,
        )
        return self.handle(ModelDeployed(model=model))

    def join(
        self,
        node: str,
        *,
        devices: int,
        ssd: Iterable[str] = (),
        dram: Iterable[str] = (),
        disk_bytes_per_second: float,
        dram_bytes: int = 0,
    ) -> list[AnyAction]:
        """Let a node join, with the deployed models that it holds on SSD and in DRAM."""
        in_dram = set(dram)
        disk = Channel(
            channel_id=ChannelId(f"disk@{node}"),
            kind="disk",
            bytes_per_second=disk_bytes_per_second,
            latency_seconds=0.0,
            measured=True,
        )
        held = sorted({*ssd, *in_dram})
        report = NodeReport(
            node_id=NodeId(node),
            incarnation=Incarnation(f"{node}-1"),
            address=node,
            epoch=1,
            resources=NodeResources(
                devices=devices,
                device_kind="embedded",
                device_bytes=0,
                dram_bytes=dram_bytes,
                channels=(disk,),
            ),
            engines=(Engine(name=ENGINE, version="1"),),
            checkpoints=tuple(self._copy(name, in_dram=name in in_dram) for name in held),
            warm_workers={ENGINE: devices},
        )
        return self.handle(NodeJoined(report=report))

    def demand(self, model: str, waiting: int) -> list[AnyAction]:
        """Say how many requests wait for a model; return what is to be done about it."""
        oldest = self._clock() if waiting else None
        return self.handle(
            DemandChanged(model=ModelId(model), waiting=waiting, oldest_arrival=oldest)
        )

    def handle(self, event: AnyEvent) -> list[AnyAction]:
        """Give the core an event; return all that follows from it."""
        inbox: deque[AnyEvent] = deque([event])
        outbox: list[AnyAction] = []
        while inbox:
            for action in self.core.handle(inbox.popleft(), self._clock()):
                match action:
                    case RequestPlan():
                        inbox.append(self._plan(action))
                    case Persist():
                        inbox.append(Persisted(token=action.token))
                    case _:
                        outbox.append(action)
        return outbox

    def commands(self, actions: Iterable[AnyAction]) -> list[Send]:
        """Return the commands among some actions."""
        return [action for action in actions if isinstance(action, Send)]

    def _plan(self, action: RequestPlan) -> PlanProposed:
        snapshot = self.core.snapshot(self._clock())
        plan = self._policy.plan(snapshot, self.core.estimator)
        return PlanProposed(plan_id=action.plan_id, policy=self._policy.name, plan=plan)

    def _copy(self, name: str, *, in_dram: bool) -> CheckpointStatus:
        size_bytes = self.core.state.models[ModelId(name)].size_bytes
        return CheckpointStatus(
            reference=Reference(name),
            path=name,
            layout_id=name,
            size_bytes=size_bytes,
            dram_bytes=size_bytes if in_dram else 0,
        )
