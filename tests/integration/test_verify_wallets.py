"""`verify` and the wallets drawn on for what is billed elsewhere: clean whatever they are called, red when wrong."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import PushRefused
from drawdown.schema.database import read, write
from drawdown.worker import corrections, credit
from drawdown.worker.features import map_size
from drawdown.worker.notices import apply_notices
from drawdown.worker.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

ORG = "acme:redrawn:back"
FEATURES = {"back": 300, "redrawn": 301, "compute_1gb": 1024}
KEYS = {feature: f"usage:{ORG}:{T0}:{feature}" for feature in FEATURES}


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """What one organisation used of each feature is accepted elsewhere, and drawn from its wallet."""
    made = Fleet(engine, extra={"fake": FakeProvider(capabilities(balance_in_ledger=True))})
    made.assign(ORG, provider="fake")
    for feature, memory_mb in FEATURES.items():
        if feature != "compute_1gb":
            write(engine, partial(_new_feature, feature=feature, memory_mb=memory_mb, fleet=made))
        made.sample(ORG, T0 + 1, memory_mb=memory_mb)
    write(engine, lambda c: credit.grant(c, ORG, 100_000, made.said, key="g", plan=None))
    made.tick_windows(2)
    return made


def _new_feature(connection: sa.Connection, *, feature: str, memory_mb: int, fleet: Fleet) -> None:
    map_size(connection, feature, fleet.said, kind="exact", memory_mb=memory_mb, unit="s", from_ms=T0)
    credit.set_rate(connection, feature, 7, 1, fleet.said, from_ms=None)


def breaches(fleet: Fleet) -> list[tuple[int, str | None, str]]:
    return [(one.invariant, one.org_id, one.text) for one in read(fleet.engine, verify).breaches]


def test_names_that_read_like_what_was_given_back_are_only_names(fleet: Fleet) -> None:
    """Drawn, given back, drawn anew and given back again: each wallet key is taken for its own push."""
    keys = list(KEYS.values())
    drawn = "SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'"
    assert (breaches(fleet), fleet.one(drawn)) == ([], 180)
    for _ in range(2):
        write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(key, "no") for key in keys], T0))
        assert (breaches(fleet), fleet.one(drawn)) == ([], 0)
        write(fleet.engine, lambda c: corrections.resolve_accepted(c, keys, fleet.said, "billed by hand"))
        assert (breaches(fleet), fleet.one(drawn)) == ([], 180)
    entries = fleet.rows("SELECT key FROM ledger_entries WHERE kind = 'usage'")
    ends = {str(key).split(f":{T0}:")[1] for (key,) in entries}
    assert {"back", "back:back", "back:redrawn:back", "redrawn", "redrawn:back", "redrawn:redrawn:redrawn"} <= ends
