"""A worker's end, as its process sees it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pilotlight.store_node.engines import Emission, EngineSetup, Extension, Offer, Weights, Work
from pilotlight.store_node.protocol import RequestId
from pilotlight.store_node.workers.framing import FrameDecoder
from pilotlight.store_node.workers.messages import Failed, FromWorker
from pilotlight.store_node.workers.session import run_worker


class Emits:
    """Emits for ever; the node goes before it reads the second emission."""

    node: socket.socket

    @classmethod
    def version(cls) -> str:
        return "1"

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None: ...

    def prepare(self, setup: EngineSetup) -> None: ...

    def bind(self, weights: Weights) -> Offer:
        raise NotImplementedError

    def admit(self, work: Work) -> None: ...

    def extend(self, extension: Extension) -> None: ...

    def cancel(self, request_id: RequestId) -> None: ...

    def step(self) -> Sequence[Emission]:
        self.node.close()
        return (Emission(request_id=RequestId("a"), attempt=1, seq=0, token_ids=(1,)),)

    @property
    def is_busy(self) -> bool:
        return True


class Breaks(Emits):
    def step(self) -> Sequence[Emission]:
        super().step()
        raise BrokenPipeError("the engine's own")


def test_a_worker_whose_node_goes_while_it_emits_ends_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Emits.node, worker = socket.socketpair()

    with worker:
        assert run_worker(worker, Emits) == 0

    assert capsys.readouterr() == ("", "")


def test_an_engine_that_breaks_while_the_node_goes_is_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Breaks.node, worker = socket.socketpair()

    with worker:
        assert run_worker(worker, Breaks) == 1

    assert capsys.readouterr().err.endswith("BrokenPipeError: the engine's own\n")


class LacksMemory(Breaks):
    def step(self) -> Sequence[Emission]:
        torch.empty(2**50)
        raise AssertionError


def test_memory_that_torch_does_not_get_is_told_as_such() -> None:
    node, worker = socket.socketpair()

    with node, worker:
        assert run_worker(worker, LacksMemory) == 1

        told = list(FrameDecoder[FromWorker](FromWorker).feed(node.recv(65_536)))
    assert [message.code for message in told if isinstance(message, Failed)] == ["out_of_memory"]
