"""The parts of a start, and its rivals, each measured with nothing beside it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from pilotlight.native_loader import Checkpoint
from pilotlight.process.bench.children import Child, child_environ
from pilotlight.process.page_cache import bring_into_page_cache, drop_from_page_cache
from pilotlight.store_node.bench import children
from pilotlight.store_node.bench.loaded import Loaded
from pilotlight.store_node.bench.messages import (
    BindAlone,
    BoundAlone,
    BytesRead,
    LoadAlone,
    LoadedAlone,
    Token,
)
from pilotlight.store_node.bench.raw_read import RawRead, RawReader
from pilotlight.store_node.bench.samples import Rival
from pilotlight.store_node.protocol import Tier

PROMPT_IDS = tuple(range(3, 67))
"""64 tokens that every model has."""


def files_of(checkpoint: Checkpoint) -> list[Path]:
    """Return a checkpoint's weight files."""
    return [file.path for file in checkpoint.files]


async def bind_alone(
    checkpoint: Checkpoint, held: Loaded, *, forks: Child, threads: int
) -> BoundAlone:
    """Prepare, bind and compute the first token in a new process.

    Raises:
        BenchFailed: our engine can't run it.
    """
    question = BindAlone(
        directory=str(checkpoint.path),
        pool=f"/proc/{os.getpid()}/fd/{held.fd}",
        layout=held.layout,
        prompt_ids=PROMPT_IDS,
        threads=threads,
    )
    return await forks.ask(question, BoundAlone)


class Alone:
    """Measures one checkpoint, which is held in memory meanwhile."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        held: Loaded,
        reader: RawReader,
        *,
        forks: Child,
        threads: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._directory = str(checkpoint.path)
        self._files = files_of(checkpoint)
        self._held = held
        self._reader = reader
        self._forks = forks
        self._threads = threads

    def read(self) -> RawRead:
        """Read the files as fast as the disk gives them."""
        drop_from_page_cache(self._files)
        return self._reader.read()

    async def bind(self) -> BoundAlone:
        """Prepare, bind and compute the first token in a new process."""
        return await bind_alone(
            self._checkpoint, self._held, forks=self._forks, threads=self._threads
        )

    async def imported(self, tier: Tier) -> Rival:
        """Have `from_pretrained` do it in a process whose imports are done."""
        self._place(tier)
        question = LoadAlone(directory=self._directory, prompt_ids=PROMPT_IDS)
        answer = await self._forks.ask(question, LoadedAlone)
        return Rival(
            tier=tier,
            is_imported=True,
            seconds=answer.seconds,
            bytes_read=answer.bytes_read,
            token_id=answer.token_id,
        )

    async def fresh(self, tier: Tier) -> Rival:
        """Have `from_pretrained` do it in a new process, whose imports count."""
        self._place(tier)
        arguments = (self._directory, json.dumps(PROMPT_IDS))
        began = time.monotonic()
        async with children.running(
            "from_pretrained", *arguments, environ=child_environ(self._threads)
        ) as child:
            token = await child.receive(Token)
            seconds = time.monotonic() - began
            read = await child.receive(BytesRead)
        return Rival(
            tier=tier,
            is_imported=False,
            seconds=seconds,
            bytes_read=read.n_bytes,
            token_id=token.token_id,
        )

    def _place(self, tier: Tier) -> None:
        """Bring the files to where the tier stands for: only the disk, or the page cache."""
        if tier is Tier.SSD:
            drop_from_page_cache(self._files)
        else:
            bring_into_page_cache(self._files)
