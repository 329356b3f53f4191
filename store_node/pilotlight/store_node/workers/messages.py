"""What a node, its zygotes and its workers tell each other."""

from __future__ import annotations

import msgspec

from pilotlight.native_loader import WeightLayout
from pilotlight.store_node.engines.engine import Emission, Extension, Offer, Work
from pilotlight.store_node.protocol.values import ReplicaSpec, RequestId


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The root of all messages; on the wire the class's name tells which it is."""


class Preload(Message, frozen=True):
    """To a zygote, first of all: import this engine."""

    target: str
    """"module:class"."""
    checkpoints: tuple[str, ...]
    """Directories."""


class Learn(Message, frozen=True):
    """To a zygote: make ready for one more checkpoint. Answered by Learned."""

    checkpoint: str
    """A directory."""


class Learned(Message, frozen=True):
    """From a zygote: it is ready for the checkpoint, or as ready as it can be."""


class Preloaded(Message, frozen=True):
    """From a zygote: it can fork from now on."""

    seconds: float


class Fork(Message, frozen=True):
    """To a zygote: make a worker; its end of a socket pair comes along."""

    worker_id: str
    log_path: str


class Forked(Message, frozen=True):
    """From a zygote: a worker is there; its pidfd comes along."""

    worker_id: str
    pid: int
    seconds: float


class ForkFailed(Message, frozen=True):
    """From a zygote: a worker could not be made."""

    worker_id: str
    reason: str


class Exited(Message, frozen=True):
    """From a zygote: a worker has ended and is reaped. One of the numbers is set."""

    worker_id: str
    exit_code: int | None
    signal: int | None


class Warm(Message, frozen=True):
    """From a worker: it waits for its first command."""


class Prepare(Message, frozen=True):
    """To a worker: do all that needs no weights. Answered by Prepared."""

    call: int
    spec: ReplicaSpec
    directory: str
    threads: int
    adapter: str | None
    allow_custom_code: bool


class Prepared(Message, frozen=True):
    """From a worker: what `Prepare` asked for took this long."""

    call: int
    seconds: float


class Bind(Message, frozen=True):
    """To a worker: attach the weights; the pool's descriptor comes along. Answered by Bound."""

    call: int
    layout: WeightLayout


class Bound(Message, frozen=True):
    """From a worker: what its engine offers, and how long attaching took."""

    call: int
    offer: Offer
    seconds: float


class Admit(Message, frozen=True):
    """To a worker: run an attempt. Answered by Admitted or Refused."""

    call: int
    work: Work


class Extend(Message, frozen=True):
    """To a worker: more tokens of a held attempt. Answered by Admitted or Refused."""

    call: int
    extension: Extension


class Admitted(Message, frozen=True):
    """From a worker: its engine has taken the attempt, or its extension."""

    call: int


class Refused(Message, frozen=True):
    """From a worker: its engine has not taken the attempt, or its extension."""

    call: int
    code: str
    message: str


class Cancel(Message, frozen=True):
    """To a worker: forget a request. Not answered."""

    request_id: RequestId


class Emitted(Message, frozen=True):
    """From a worker: new tokens."""

    emissions: tuple[Emission, ...]


class Failed(Message, frozen=True):
    """From a worker or a zygote, last of all: why it ends."""

    code: str
    message: str


ToZygote = Preload | Learn | Fork
FromZygote = Preloaded | Learned | Forked | ForkFailed | Exited | Failed
ToWorker = Prepare | Bind | Admit | Extend | Cancel
FromWorker = Warm | Prepared | Bound | Admitted | Refused | Emitted | Failed
