"""The committed corpus: for each target a file of inputs, one a line, in hexadecimal.

`corpus.py unpack DIRECTORY` writes them as libFuzzer takes them, a file each, into
`DIRECTORY/seeds/TARGET`. `corpus.py choose DIRECTORY` writes the corpus anew, from what
`.ci/fuzz DIRECTORY TIME` has learned: of the short inputs that together reach the most, some
of every length.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_CORPUS = Path(__file__).parent / "corpus"
_MOST_BYTES = 96
_MOST_INPUTS = 150


def unpack(directory: Path) -> None:
    """Write each input of each target into a file of its own."""
    for packed in _CORPUS.glob("*.txt"):
        place = directory / "seeds" / packed.stem
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for number, line in enumerate(packed.read_text().splitlines()):
            (place / f"{number:03d}").write_bytes(bytes.fromhex(line))


def choose(directory: Path) -> None:
    """Write the corpus of each target anew."""
    for program in sorted((directory / "build" / "fuzz").glob("fuzz_*")):
        target = program.name.removeprefix("fuzz_")
        chosen = directory / "chosen" / target
        shutil.rmtree(chosen, ignore_errors=True)
        chosen.mkdir(parents=True)
        subprocess.run(
            [
                program,
                "-set_cover_merge=1",
                f"-max_len={_MOST_BYTES}",
                "-verbosity=0",
                chosen,
                directory / "corpus" / target,
            ],
            check=True,
        )
        inputs = sorted((path.read_bytes() for path in chosen.iterdir()), key=_by_length)
        step = -(-len(inputs) // _MOST_INPUTS)
        lines = [data.hex() for data in inputs[::step]]
        (_CORPUS / f"{target}.txt").write_text("\n".join(lines) + "\n")


def _by_length(data: bytes) -> tuple[int, bytes]:
    return len(data), data


if __name__ == "__main__":
    {"unpack": unpack, "choose": choose}[sys.argv[1]](Path(sys.argv[2]))
