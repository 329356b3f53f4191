"""`pilotlight inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.native_loader.commands.reporting import PATH, one_line_errors
from pilotlight.process import tables
from pilotlight.process.commands import output_option

if TYPE_CHECKING:
    from pilotlight.native_loader.formats.checkpoint import Checkpoint

_CHECKPOINT_COLUMNS = (
    tables.text("path"),
    tables.text("format"),
    tables.size("size_bytes"),
    tables.number("tensors"),
    tables.text("dtypes"),
    tables.number("files"),
    tables.number("chunks"),
    tables.size("unaligned_bytes", "UNALIGNED"),
    tables.number("tensors_aligned_to_256", "ALIGNED TO 256"),
    tables.text("content_id", "CONTENT", wide_only=True),
    tables.text("layout_id", "LAYOUT", wide_only=True),
    tables.text("aliases", wide_only=True),
    tables.text("execution_files", wide_only=True),
)
_TENSOR_COLUMNS = (
    tables.text("name", "TENSOR"),
    tables.text("dtype"),
    tables.text("shape"),
    tables.size("size_bytes"),
    tables.text("file", wide_only=True),
    tables.number("offset", wide_only=True),
    tables.number("alignment_bytes", "ALIGNED TO", wide_only=True),
)


@click.command()
@click.argument("path", type=PATH)
@click.option("--tensors", is_flag=True, help="List every tensor, in the order of their bytes.")
@output_option
def inspect(path: Path, tensors: bool, output: tables.OutputFormat) -> None:
    """Show what the checkpoint PATH holds; only headers are read.

    UNALIGNED is the size of tensors that are copied when loaded, because they do
    not start at a multiple of their item size.

    \b
    Example:
      pilotlight inspect ~/models/llama-8b
      pilotlight inspect --tensors -o json ~/models/llama-8b
    """
    from pilotlight.native_loader.formats.checkpoint import Checkpoint

    with one_line_errors():
        checkpoint = Checkpoint.open(path)
    if tensors:
        tables.write_rows(_tensor_rows(checkpoint), _TENSOR_COLUMNS, format=output)
    else:
        tables.write_rows([_checkpoint_row(checkpoint)], _CHECKPOINT_COLUMNS, format=output)


def _checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    from pilotlight.native_loader.formats.dtypes import is_aligned

    entries = checkpoint.tensors.values()
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "size_bytes": checkpoint.size_bytes,
        "tensors": len(entries),
        "dtypes": sorted({entry.dtype for entry in entries}),
        "files": len(checkpoint.files),
        "chunks": checkpoint.n_chunks,
        "unaligned_bytes": sum(
            entry.size_bytes for entry in entries if not is_aligned(entry.offset, entry.dtype)
        ),
        "tensors_aligned_to_256": sum(entry.offset % 256 == 0 for entry in entries),
        "content_id": checkpoint.content_id,
        "layout_id": checkpoint.layout_id,
        "aliases": [f"{alias} = {name}" for alias, name in checkpoint.aliases.items()],
        "execution_files": list(checkpoint.execution_files),
    }


def _tensor_rows(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "size_bytes": entry.size_bytes,
            "file": checkpoint.files[entry.file].path.name,
            "offset": entry.offset,
            "alignment_bytes": entry.offset & -entry.offset,
        }
        for name, entry in checkpoint.tensors.items()
    ]
