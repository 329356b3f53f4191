"""Fetches checkpoints' execution files from nodes into local folders."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc

from pilotlight.scheduler.core.copies import copy_on
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import ClusterState, Node
from pilotlight.scheduler.errors import ModelUnavailable
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    ModelId,
    ReadExecutionFileRequest,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels

MOST_BYTES = 256 << 20
"""Of one checkpoint's execution files together; a large tokenizer takes 30 MB."""

FETCH_SECONDS = 60.0


class _Unacceptable(Exception):
    """A node sends what it should not."""


class ExecutionFiles:
    """Local copies of configs and tokenizers, one folder per deployment of a model."""

    def __init__(
        self, directory: Path, *, channels: Channels, state: Callable[[], ClusterState]
    ) -> None:
        self._directory = directory
        self._channels = channels
        self._state = state
        self._fetching: dict[ModelId, asyncio.Lock] = {}
        self._partial: set[str] = set()
        """Folders that are being filled."""

    def version(self, model: Model) -> str:
        """Return what changes when a model's files may have changed."""
        parts = (model.name, model.reference, model.layout_id, repr(model.deployed_at))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def directory(self, model: Model) -> Path:
        """Return where a model's files lie once fetched."""
        return self._directory / self.version(model)

    async def fetch(self, model: Model) -> Path:
        """Return the folder with a model's files, fetching them if need be.

        Raises:
            ModelUnavailable: no node that is up could send them.
        """
        target = self.directory(model)
        async with self._fetching.setdefault(model.name, asyncio.Lock()):
            if not target.exists():
                await self._fetch_from_any(model, target)
        return target

    def keep_only(self, models: Iterable[Model]) -> None:
        """Remove the folders of models that are deployed no more."""
        wanted = {self.version(model) for model in models} | self._partial
        if not self._directory.exists():
            return
        for folder in self._directory.iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)

    async def _fetch_from_any(self, model: Model, target: Path) -> None:
        state, reason = self._state(), "no node that holds it is up"
        for node in [node for node in state.nodes.values() if node.is_up]:
            copy = copy_on(state, model, node)
            if copy is None:
                continue
            try:
                await self._fetch_from(node, copy, target)
                return
            except grpc.aio.AioRpcError as error:
                reason = f"{node.id}: {error.details()}"
            except _Unacceptable as error:
                reason = f"{node.id}: {error}"
            except OSError as error:
                reason = f"{self._directory}: {error.strerror or error}"
        raise ModelUnavailable(model.name, f"its execution files can't be had: {reason}")

    async def _fetch_from(self, node: Node, copy: CheckpointStatus, target: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".fetch-", dir=self._directory))
        self._partial.add(partial.name)
        try:
            left = MOST_BYTES
            for name in copy.execution_files:
                left -= await self._fetch_file(node, copy, name, partial, most_bytes=left)
            os.rename(partial, target)
        finally:
            self._partial.discard(partial.name)
            shutil.rmtree(partial, ignore_errors=True)

    async def _fetch_file(
        self, node: Node, copy: CheckpointStatus, name: str, folder: Path, *, most_bytes: int
    ) -> int:
        if name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
            raise _Unacceptable(f"it offers a file called {name!r}")
        request = ReadExecutionFileRequest(reference=copy.reference, name=name)
        stub = store_node_pb2_grpc.StoreNodeStub(self._channels.get(node.address))
        call = stub.ReadExecutionFile(
            wire.to_message(request, store_node_pb2.ReadExecutionFileRequest),
            timeout=FETCH_SECONDS,
        )
        size = 0
        with (folder / name).open("wb") as file:
            async for block in call:
                size += file.write(block.data)
                if size > most_bytes:
                    raise _Unacceptable(f"its files are larger than {MOST_BYTES} bytes")
        return size
