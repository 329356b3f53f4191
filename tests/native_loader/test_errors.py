from __future__ import annotations

import copy
import errno
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.native_loader import LoaderError, errors

ARGUMENTS: dict[str, object] = {
    "path": Path("here"),
    "file": Path("here/model.safetensors"),
    "roots": [Path("there")],
    "number": errno.ENOMEM,
    "timeout": 1.5,
}
TEXTS = {"rule", "what", "action", "reason", "device", "call", "code", "tensor", "load_id"}


def made(type_: type[LoaderError]) -> LoaderError:
    """Return an error of that type with arguments that suit their names."""
    if type_.__init__ in (Exception.__init__, ValueError.__init__):
        return type_("a message")
    names = list(inspect.signature(type_.__init__).parameters)[1:]
    values = {
        name: ARGUMENTS.get(name, f"some {name}" if name in TEXTS else len(name)) for name in names
    }
    return type_(**values)


TYPES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, LoaderError)
]


def by_pickle(error: LoaderError) -> LoaderError:
    other = pickle.loads(pickle.dumps(error))
    assert isinstance(other, LoaderError)
    return other


@pytest.mark.parametrize("copied", [by_pickle, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("type_", TYPES)
def test_is_the_same_error_after_another_process_had_it(
    type_: type[LoaderError], copied: Callable[[LoaderError], LoaderError]
) -> None:
    error = made(type_)
    error.add_note("a note")

    other = copied(error)

    assert type(other) is type_
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert other.args == error.args
    assert getattr(other, "errno", None) == getattr(error, "errno", None)
