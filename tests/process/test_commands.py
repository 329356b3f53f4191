from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from pilotlight.process.commands import ADDRESS, BYTES, SECONDS, CommandError, output_option
from pilotlight.process.ports import Address
from pilotlight.process.quantities import ByteCount, Seconds


@click.command()
@click.option("--pool", type=BYTES, default="1GiB")
@click.option("--idle", type=SECONDS, default=60.0)
@click.option("--listen", type=ADDRESS, default="127.0.0.1:0")
@output_option
def verb(pool: ByteCount, idle: Seconds, listen: Address, output: str) -> None:
    if pool == 0:
        raise CommandError("a pool of nothing")
    click.echo(f"{pool} {idle} {listen} {output}")


def test_options_read_sizes_durations_and_addresses() -> None:
    result = CliRunner().invoke(
        verb, ["--pool", "2MiB", "--idle", "5m", "--listen", ":8000", "-o", "json"]
    )

    assert result.output == "2097152 300.0 127.0.0.1:8000 json\n"


def test_defaults_go_through_the_same_types() -> None:
    assert CliRunner().invoke(verb, []).output == "1073741824 60.0 127.0.0.1:0 table\n"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--pool", "lots", "expected a size such as 8GiB or 500MB, got 'lots'"),
        ("--idle", "long", "expected a duration such as 250ms, 60s or 5m, got 'long'"),
        ("--listen", "here", "expected HOST:PORT, got 'here'"),
        ("-o", "xml", "'xml' is not one of"),
    ],
)
def test_a_bad_value_is_a_usage_error(option: str, value: str, words: str) -> None:
    result = CliRunner().invoke(verb, [option, value])

    assert result.exit_code == 2
    assert words in result.output


def test_a_command_error_is_one_line_and_exit_code_1() -> None:
    result = CliRunner().invoke(verb, ["--pool", "0"])

    assert (result.exit_code, result.output) == (1, "Error: a pool of nothing\n")
