"""Engine options, which come as text."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from pilotlight.store_node.engines.options import read_options
from pilotlight.store_node.errors import InvalidOption


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    decode_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    concurrency: int = 1
    is_loud: bool = False


def test_text_becomes_what_the_field_says() -> None:
    options = read_options({"decode_seconds": "0.25", "is_loud": "true"}, _Options)

    assert options == _Options(decode_seconds=0.25, is_loud=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode_second": "1"}, "unknown engine option 'decode_second'; did you mean 'decode_s"),
        ({"zzz": "1"}, "unknown engine option 'zzz'; known: decode_seconds, concurrency, is_loud"),
        ({"concurrency": "many"}, "engine option concurrency='many': Expected `int`, got `str`"),
        ({"decode_seconds": "-1"}, "engine option decode_seconds='-1': Expected `float` >= 0.0"),
    ],
    ids=["typo", "stranger", "text", "below"],
)
def test_what_is_wrong_is_said_with_the_option(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        read_options(options, _Options)

    assert str(refused.value).startswith(message)
