"""`verify` and the wallets drawn on for what is billed elsewhere: clean whatever they are called, red when wrong."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import PushRefused
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.features.actions import map_size
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.breaking_books import moved
from tests.integration.verifying import tamper, tamper_by
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
    write(engine, lambda c: credit.grant(c, ORG, 100_000, made.by, key="g", plan=None))
    made.tick_windows(2)
    return made


def _new_feature(connection: sa.Connection, *, feature: str, memory_mb: int, fleet: Fleet) -> None:
    map_size(connection, feature, fleet.by, kind="exact", memory_mb=memory_mb, unit="s", from_ms=T0)
    credit.set_rate(connection, feature, 7, 1, fleet.by, from_ms=None)


def breaches(fleet: Fleet) -> list[tuple[int, str | None, str]]:
    return [(one.invariant, one.org_id, one.text) for one in read(fleet.engine, verify).breaches]


def test_verify_of_wallet_keys_that_resemble_refunds_is_clean(fleet: Fleet) -> None:
    """Drawn, given back, drawn anew and given back again: each wallet key is taken for its own push."""
    keys = list(KEYS.values())
    drawn = "SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'"
    assert (breaches(fleet), fleet.one(drawn)) == ([], 180)
    for _ in range(2):
        write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(key, "no") for key in keys], T0))
        assert (breaches(fleet), fleet.one(drawn)) == ([], 0)
        write(fleet.engine, lambda c: pushes.resolve_accepted(c, keys, fleet.by, "billed by hand"))
        assert (breaches(fleet), fleet.one(drawn)) == ([], 180)
    entries = fleet.rows("SELECT key FROM ledger_entries WHERE kind = 'usage'")
    ends = {str(key).split(f":{T0}:")[1] for (key,) in entries}
    assert {"back", "back:back", "back:redrawn:back", "redrawn", "redrawn:back", "redrawn:redrawn:redrawn"} <= ends


MIRROR = f"mirror:{KEYS['compute_1gb']}"
WALLET, REVENUE = f"wallet:{ORG}", "revenue:compute_1gb"
WRONG = {
    "another customer's wallet": (
        (
            "INSERT INTO ledger_accounts (account_id) VALUES ('wallet:zoe')",
            *moved(MIRROR, "wallet:zoe", WALLET),
            f"UPDATE ledger_entries SET from_account = 'wallet:zoe' WHERE key = '{MIRROR}'",
        ),
        "the wallet entries for it differ",
    ),
    "a cheaper feature": (
        (
            *moved(MIRROR, REVENUE, WALLET),
            f"UPDATE ledger_entries SET feature = 'back', to_account = 'revenue:back', amount_micro = 420 "
            f"WHERE key = '{MIRROR}'",
            *moved(MIRROR, WALLET, "revenue:back"),
        ),
        "the wallet entries for it differ",
    ),
    "another feature's revenue": (
        (
            f"UPDATE ledger_entries SET to_account = 'revenue:back' WHERE key = '{MIRROR}'",
            *moved(MIRROR, REVENUE, "revenue:back"),
        ),
        "the wallet entries for it differ",
    ),
    "another window": (
        (f"UPDATE ledger_entries SET ts = ts + {WINDOW_MS} WHERE key = '{MIRROR}'",),
        "the wallet entries for it differ",
    ),
    "another day, before it was sealed": (
        (f"UPDATE ledger_entries SET at_ms = at_ms - {DAY_MS + 1} WHERE key = '{MIRROR}'",),
        "the wallet entries for it differ",
    ),
    "another day, after it was settled": (
        (f"UPDATE ledger_entries SET at_ms = at_ms + {DAY_MS + 1} WHERE key = '{MIRROR}'",),
        "the wallet entries for it differ",
    ),
    "another quantity": (
        (
            *moved(MIRROR, REVENUE, WALLET),
            f"UPDATE ledger_entries SET quantity = 6, amount_micro = 600 WHERE key = '{MIRROR}'",
            *moved(MIRROR, WALLET, REVENUE),
        ),
        "was charged for 6",
    ),
}


def test_verify_wrong_wallet_entry_of_push_is_reported(fleet: Fleet) -> None:
    with fleet.engine.connect() as connection:
        for name, (statements, text) in WRONG.items():
            tamper_by(connection, *statements)
            found = verify(connection).breaches
            assert [(one.invariant, one.org_id) for one in found] == [(2, ORG)], name
            assert text in found[0].text, name
            connection.rollback()


def test_clock_set_back_between_seal_and_settlement_is_not_reported(fleet: Fleet) -> None:
    """A person had the push sent before it was due by the clock of its seal."""
    key = KEYS["compute_1gb"]
    tamper(fleet, f"UPDATE pushes SET sealed_at_ms = sealed_at_ms + {3 * DAY_MS} WHERE key = '{key}'")
    assert [text for _, _, text in breaches(fleet) if "the wallet entries for it differ" in text] == []


def test_verify_usage_charged_days_before_its_window_is_reported(fleet: Fleet) -> None:
    early = 2 * DAY_MS
    tamper(
        fleet,
        f"UPDATE ledger_entries SET at_ms = at_ms - {early} WHERE key = '{MIRROR}'",
        f"UPDATE pushes SET sealed_at_ms = sealed_at_ms - {early}, settled_ms = settled_ms - {early} "
        f"WHERE key = '{KEYS['compute_1gb']}'",
        f"UPDATE seals SET at_ms = at_ms - {early}",
    )
    texts = [text for _, _, text in breaches(fleet)]
    assert any("before its usage at" in text for text in texts), texts


def test_verify_refund_that_differs_from_charge_is_reported(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(KEYS["compute_1gb"], "no")], T0))
    write(fleet.engine, lambda c: credit.set_rate(c, "compute_1gb", 50, 1, fleet.by, from_ms=T0))
    assert breaches(fleet) == []
    back = f"{MIRROR}:back"
    tamper(
        fleet,
        *moved(back, REVENUE, WALLET),
        f"UPDATE ledger_entries SET amount_micro = -3000 WHERE key = '{back}'",
        *moved(back, WALLET, REVENUE),
    )
    priced = f"the ledger charged -3000 for -60 as {back}, which does not match a rate of the feature"
    assert sorted(breaches(fleet)) == sorted(
        [(2, ORG, f"the refund {back} moved -3000, but the charge was 6000"), (2, ORG, priced)]
    )


def test_verify_push_missing_in_day_old_wallet_is_reported(fleet: Fleet) -> None:
    """Not before, for the clocks of two hosts may differ; and not without a rate."""
    assert breaches(fleet) == []
    fleet.sample(ORG, fleet.clock.at_ms + DAY_MS + 1)
    fleet.tick(fleet.clock.at_ms + DAY_MS + 3 * WINDOW_MS)
    late = str(fleet.one("SELECT MAX(key) FROM ledger_entries WHERE kind = 'usage'"))
    for key in (late, MIRROR):
        tamper(fleet, *moved(key, REVENUE, WALLET), f"DELETE FROM ledger_entries WHERE key = '{key}'")
    said = f"{late.removeprefix('mirror:')} is accepted, but the wallet of {ORG} was not charged for it"
    assert breaches(fleet) == [(2, ORG, said)]
    tamper(fleet, "DELETE FROM ledger_rates WHERE feature = 'compute_1gb'")
    assert [text.split(",")[0] for _, _, text in breaches(fleet)] == ["rate compute_1gb from 0 is none"]
