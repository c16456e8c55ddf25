"""The ledger's own pushes, charged in place: the same as if they were sent, for less; and what is left to sending."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO, MOST_BALANCE_MICRO
from drawdown.ledger.rates import Rate
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.features import actions as features
from drawdown.worker.push import push as pushing
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.sent import nothing_in_place
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

TABLES = {
    "pushes": "window_ms, org_id, feature, revision, state, sent_qty, attempts, key, due_at_ms, settled_ms, "
    "first_attempt_ms, last_error",
    "attempts": "window_ms, org_id, feature, revision, attempt, started_ms, finished_ms, outcome, detail, sent_qty, "
    "attempts_then",
    "ledger_entries": "key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, "
    "reservation, lot",
    "ledger_accounts": "account_id, balance_micro, held_micro, next_due_ms",
    "orgs": "org_id, is_halted, halt_reason",
}
SIZES = (1024, 2048, 4096)


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return Fleet(engine)


def due(fleet: Fleet, *orgs: str) -> None:
    """A push of a minute of each, sealed and due."""
    fleet.assign(*orgs)
    for org in orgs:
        fleet.sample(org, T0 + 1, 60, 1024, sandbox=f"box of {org}")


def lived(fleet: Fleet, seed: int) -> dict[str, list[tuple[object, ...]]]:
    """Some windows of usage, late usage and usage that is withdrawn, with a lot that ends and one that starts."""
    rng = random.Random(seed)
    names = [f"org-{number}" for number in range(9)]
    fleet.assign(*names)
    for name in names[:6]:
        write(fleet.engine, lambda c, n=name: credit.grant(c, n, 5_000, fleet.by, key=f"g-{n}", plan=None))  # type: ignore[misc]
    for round_ in range(7):
        for name in names:
            late = rng.choice((0, 0, 0, 1, 2)) * WINDOW_MS
            at = max(T0 + round_ * WINDOW_MS - late + rng.randrange(WINDOW_MS), T0)
            fleet.sample(name, at, rng.choice((1, 59, 60, 300)), rng.choice(SIZES), sandbox=f"box of {name}")
        fleet.tick_windows(1)
    fleet.tick_windows(2)
    return {
        table: sorted(fleet.rows(f"SELECT {columns} FROM {table}"), key=_in_order) for table, columns in TABLES.items()
    }


def _in_order(row: tuple[object, ...]) -> list[str]:
    return [str(int(one) if isinstance(one, bool) else one) for one in row]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_charge_in_place_leaves_same_rows_as_sending(
    seed: int, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_rows = lived(fleet, seed)
    monkeypatch.setattr(pushing, "charge_in_place", nothing_in_place)
    sent = lived(Fleet(fresh(tmp_path / "other.db")), seed)
    assert in_place_rows == sent
    assert len(sent["ledger_entries"]) > 30 and any(row[3] for row in sent["pushes"]), "revisions, too"
    assert read(fleet.engine, verify).breaches == []


def test_charge_in_place_accepts_each_push_at_first_attempt(fleet: Fleet) -> None:
    due(fleet, "acme", "globex")
    assert fleet.tick_windows(2).accepted == 2
    assert fleet.rows("SELECT DISTINCT state, attempts FROM pushes") == [("accepted", 1)]
    assert fleet.rows("SELECT balance_micro FROM ledger_accounts") == [(-6000,), (-6000,)]
    assert read(fleet.engine, verify).breaches == []


PRICES = [
    (micro, per, quantity)
    for micro in (0, 1, 3, 20, 10**9, 2**62)
    for per in (1, 2, 7, 3600, 2**61, 2**62, 2**63 - 1)
    for quantity in (0, 1, -1, 3, -7, 59, 3599, -3600, 2**53, -(2**53), 2**62)
]


@pytest.mark.both_databases
def test_charge_in_place_sql_price_equals_rate_price(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    for number, (micro, per, quantity) in enumerate(PRICES):
        feature = f"f{number}"
        fleet.write(
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "VALUES (:f, 0, :m, :p, 0, 'test', 'a test')",
            {"f": feature, "m": micro, "p": per},
        )
        fleet.write("INSERT INTO orgs (org_id, bucket) VALUES (:o, 0)", {"o": feature})
        fleet.write(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) VALUES (:w, :f, :f, 0, 'embedded', :f, :q, :q, "
            ":f, 0, 0, 'due', 0)",
            {"w": T0, "f": feature, "q": quantity},
        )
    picked, _ = write(engine, lambda c: pushing.charge_due(c, claim="w/1", now=T0, shard=Shard(), witness=None))
    charged = {row[0]: row[1] for row in fleet.rows("SELECT feature, amount_micro FROM ledger_entries")}
    for number, (micro, per, quantity) in enumerate(PRICES):
        amount = Rate("f", 0, micro, per).price(quantity)
        found = charged.pop(f"f{number}", None)
        bounded = max(micro, per) <= pushing.MOST_RATE and abs(quantity) <= pushing.MOST_PRODUCT // (2 * micro + 1)
        expected = amount if bounded and abs(amount) <= MAX_ENTRY_MICRO else None
        assert found == expected, (micro, per, quantity)
    assert not charged and 100 < picked < len(PRICES)


def test_charge_in_place_without_rates_does_not_charge(engine: sa.Engine) -> None:
    charged = write(engine, lambda c: pushing.charge_due(c, claim="w/1", now=T0, shard=Shard(), witness=None))
    assert charged == (0, None)


def test_charge_in_place_uses_rate_of_each_window(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    due(fleet, "acme")
    fleet.sample("acme", T0 + WINDOW_MS + 1, 60, 1024)
    sealed(fleet, monkeypatch, 3)
    for start_ms, micro in ((T0 + WINDOW_MS, 7), (T0 + 2 * WINDOW_MS, 9)):
        write(fleet.engine, lambda c, s=start_ms, m=micro: credit.set_rate(c, "compute_1gb", m, 1, fleet.by, from_ms=s))  # type: ignore[misc]
    assert charge_now(fleet) == 2
    assert fleet.rows("SELECT amount_micro FROM ledger_entries ORDER BY ts") == [(6000,), (420,)]


def charge_now(fleet: Fleet) -> int:
    now = fleet.clock.now_ms()
    return write(fleet.engine, lambda c: pushing.charge_due(c, claim="w/1", now=now, shard=Shard(), witness=None))[0]


def sealed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, windows: int = 2) -> None:
    """Sealed by a tick that had no time left to push."""
    with monkeypatch.context() as patched:
        patched.setattr(pushing, "charge_in_place", nothing_in_place)
        patched.setattr("drawdown.worker.engine.context.Context.out_of_time", lambda _, eighths=8: eighths < 8)
        fleet.tick_windows(windows)
    assert fleet.rows("SELECT DISTINCT state FROM pushes") == [("due",)]


NOT_PLAIN = {
    "was sent before": "UPDATE pushes SET attempts = 1, first_attempt_ms = due_at_ms WHERE org_id = 'acme'",
    "is known by a hash": "UPDATE pushes SET wire_key = 'usage:hash' WHERE org_id = 'acme'",
    "costs more than an entry may": "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, "
    f"actor, reason) VALUES ('compute_1gb', {T0}, {MAX_ENTRY_MICRO}, 1, 0, 'test', 'a test')",
    "is paused": "INSERT INTO provider_states (provider, paused_ms) VALUES ('embedded', 1)",
    "is of one who is stopped": "UPDATE orgs SET stopped_at_ms = 1 WHERE org_id = 'acme'",
    "is not due yet": "UPDATE pushes SET due_at_ms = due_at_ms + 86400000",
    "is in doubt": "UPDATE pushes SET state = 'in_doubt'",
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_charge_in_place_skips_ineligible_push(what: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    due(fleet, "acme")
    sealed(fleet, monkeypatch)
    if "provider_states" in NOT_PLAIN[what]:
        fleet.write("DELETE FROM provider_states")
    fleet.write(NOT_PLAIN[what])
    assert charge_now(fleet) == 0
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 0


def test_charge_in_place_skips_push_without_rate(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        fleet.engine,
        lambda c: features.map_size(c, "unpriced", fleet.by, kind="exact", memory_mb=77, unit="s", from_ms=T0),
    )
    fleet.assign("acme")
    fleet.sample("acme", T0 + 1, 60, 77)
    fleet.sample("acme", T0 + 1, 60, 1024)
    sealed(fleet, monkeypatch)
    assert charge_now(fleet) == 1
    assert fleet.rows("SELECT state FROM pushes ORDER BY feature") == [("accepted",), ("due",)]


BEYOND = {
    "another push has already charged this key": "INSERT INTO ledger_entries (key, kind, from_account, "
    "to_account, amount_micro, "
    "feature, quantity, ts, at_ms, actor, reason) SELECT key, 'usage', 'wallet:other', 'revenue:x', 1, feature, 1, 0, "
    "0, 'x', 'x' FROM pushes WHERE org_id = 'acme'",
    "exceeds the largest balance": "INSERT INTO ledger_accounts (account_id, balance_micro) "
    f"VALUES ('wallet:acme', {-MOST_BALANCE_MICRO})",
}


@pytest.mark.parametrize("what", BEYOND)
def test_charge_in_place_failure_rejects_only_failing_push(
    what: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(fleet, "acme", "globex")
    sealed(fleet, monkeypatch)
    fleet.write(BEYOND[what])
    with pytest.raises(pushing.NotPlain, match=what):
        charge_now(fleet)
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries WHERE key LIKE '%globex%'") == 0
    fleet.tick_windows(1)
    assert sorted(fleet.rows("SELECT org_id, state FROM pushes"), key=str) == [
        ("acme", "rejected"),
        ("globex", "accepted"),
    ]


def test_charge_in_place_beyond_chunk_size_charges_all_pushes(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "AT_ONCE", 2)
    due(fleet, *(f"org-{number}" for number in range(5)))
    assert fleet.tick_windows(2).accepted == 5
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 5
