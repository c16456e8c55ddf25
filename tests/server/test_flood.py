"""A fixed share of the long run `python -m tests.server.flood`."""

from __future__ import annotations

import asyncio

from tests.server.flood import flood, well
from tests.server.house import House


def test_of_many_that_nobody_sent_none_is_taken(lone: House) -> None:
    lone.customer("acme", 100)
    found = asyncio.run(flood(lone, 500, 50, seed=7))
    assert well(found, 50), found
