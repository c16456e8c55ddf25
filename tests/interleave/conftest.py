"""One server and its stage for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interleave.explore import Explorer


@pytest.fixture(scope="session")
def explorer() -> Iterator[Explorer]:
    made = Explorer()
    yield made
    made.close()
