"""What the tests of the documentation share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.docs.workbench import Workbench


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """Yield what runs pages; what it has started ends with the last of them."""
    bench = Workbench(tmp_path_factory.mktemp("docs"))
    yield bench
    bench.close()
