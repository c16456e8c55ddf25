"""Some of the pairs of `make interleave`, chosen because they differ: each lost usage, credit or a halt once."""

from __future__ import annotations

import pytest

from tests.interleave.explore import Explorer
from tests.interleave.registry import PARTIES
from tests.whole import share

pytestmark = pytest.mark.xdist_group("interleave")

PAIRS = (
    ("seal", "cli.declared:run org resume"),
    ("host inserts late", "seal"),
    ("take_batch", "seal"),
    ("cli.declared:run sample withdraw what was rejected", "cli.declared:run org override"),
    ("host wakes a sandbox", "due_halts"),
    ("server.api.request_batching:_decide", "cli.nouns.executions:settle acme"),
    ("server.api.request_batching:_decide money", "server.api.request_batching:_decide other money"),
    ("server.api.request_batching:_decide other money", "server.api.request_batching:_decide money"),
    ("cli.nouns.guard:consume", "cli.nouns.guard:consume another"),
    ("cli.declared:run settlement payout", "cli.declared:run settlement reverse"),
)
"""Of the seal and the locks of people, hosts, batches, verdicts, halts, runs, the guard and suppliers. `make test` runs
the least costly of people, hosts and halts; `make interleave` runs all pairs that there are."""
DAILY = (PAIRS[0], PAIRS[1], PAIRS[4])
REACHED = share(tuple(PARTIES)[::4], whole=tuple(PARTIES))
"""Each party has a stage of its own, for 0.1 CPU s. `make interleave` brings all of them about."""


def test_stage_reaches_each_listed_transaction(explorer: Explorer) -> None:
    """What the stage no longer brings about would be explored by nobody, and not be missed."""
    unreached = {}
    for name in REACHED:
        try:
            PARTIES[name].ready(explorer.stage())
        except Exception as error:  # each of them is told
            unreached[name] = error
    assert unreached == {}


@pytest.mark.parametrize(("first", "second"), share(DAILY, whole=PAIRS))
def test_transaction_pair_in_any_interleaving_is_correct(explorer: Explorer, first: str, second: str) -> None:
    seen = list(explorer.pair(first, second))
    assert seen, "they have nothing in common: this pair shows nothing"
    assert [f"{one.case}: {one.wrong}" for one in seen if one.wrong] == []
