"""Independent direct readers of the same bytes: what the disk gives at best.

Ours are C, compiled where the bench keeps its things, and read into memory of the
files' size that is there beforehand; a small buffer that is used again stays in the
processor's cache and flatters the disk. fio, which has only such buffers, is
measured beside them where it is installed, and stands for them where no compiler is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.process.bench.errors import BenchFailed

MIB = 1 << 20

SETTINGS: Sequence[tuple[int, int]] = ((4, MIB), (8, MIB))
"""Blocks in flight, and bytes of a block: the best is the limit."""

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2", "-pthread")
_HEADER = "reading.h"


class NoCompiler(BenchFailed):
    """There is no C compiler, or it does not compile."""


def compiled(source: str, directory: Path) -> Path:
    """Return a program made of one of this package's C files, once for each version of it.

    Raises:
        NoCompiler: as it says.
    """
    file = Path(__file__).with_name(source)
    texts = [part.read_bytes() for part in (file, file.with_name(_HEADER))]
    stamp = hashlib.sha256(b"".join(texts)).hexdigest()[:12]
    program = directory / f"{file.stem}-{stamp}"
    if program.exists():
        return program
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoCompiler(f"no C compiler ({', '.join(_COMPILERS)}) is installed")
    directory.mkdir(parents=True, exist_ok=True)
    partial = program.with_suffix(".partial")
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(partial), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoCompiler(f"{compiler} does not compile {source}: {done.stderr.strip()[-200:]}")
    os.replace(partial, program)
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReader:
    """Our program, with one setting."""

    program: Path
    threads: int
    block_bytes: int

    @property
    def name(self) -> str:
        """Return the setting as people write it: "raw 4 x 1 MiB"."""
        return f"raw {self.threads} x {self.block_bytes // MIB} MiB"

    def command(self, files: Sequence[Path], *, is_each: bool = False) -> list[str]:
        """Return what reads files, all at once or one after another."""
        how = "each" if is_each else "all"
        settings = [str(self.threads), str(self.block_bytes), how]
        return [str(self.program), *settings, *map(str, files)]


def raw_readers(directory: Path) -> list[RawReader]:
    """Return our readers, one for each setting.

    Raises:
        NoCompiler: there can be none.
    """
    program = compiled("raw_reader.c", directory)
    return [
        RawReader(program=program, threads=threads, block_bytes=block_bytes)
        for threads, block_bytes in SETTINGS
    ]
