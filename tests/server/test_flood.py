"""A fixed share of the long run `python -m tests.server.flood`."""

from __future__ import annotations

import asyncio

from tests.server.flood import flood, well
from tests.server.house import House


def test_flood_of_forged_requests_is_refused(lone: House) -> None:
    lone.customer("acme", 100)
    found = asyncio.run(flood(lone, 500, 50, seed=7))
    assert well(found, 50), found
