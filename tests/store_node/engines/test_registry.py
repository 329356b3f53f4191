"""Finding engines by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pilotlight.store_node.engines import find_engine, installed_engines, load_engine
from pilotlight.store_node.errors import EngineUnavailable, UnknownEngine


def test_both_engines_are_installed() -> None:
    assert {"timed", "transformers"} <= set(installed_engines())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownEngine, match="did you mean 'transformers'"):
        find_engine("transformer")


@pytest.mark.parametrize("target", ["no_such_module:X", "json:NoSuchClass", "nonsense"])
def test_what_can_not_be_imported_is_named(target: str) -> None:
    with pytest.raises(EngineUnavailable) as unavailable:
        load_engine(target, distribution="somebodys-engines")

    assert target in str(unavailable.value)
    assert "somebodys-engines" in str(unavailable.value)


@pytest.mark.integration
def test_asking_for_versions_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "import pilotlight.store_node.workers\n"
        "from pilotlight.store_node.engines import find_engine, installed_engines\n"
        "print(*[find_engine(name).version() for name in installed_engines()], sep=', ')\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )

    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    assert output.splitlines()[-1] == "[]"
