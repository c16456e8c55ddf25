"""A database of an earlier version keeps everything when it is upgraded, and gets the new guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.maturing import mature_due
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import MIGRATIONS, migrate_to, require_ready, upgrade
from drawdown.worker.commands import backfills, guard_terms
from drawdown.worker.sources.events.keys import sample_id_of
from drawdown.worker.sources.events.store import take
from drawdown.worker.verify.verify import verify
from drawdown.worker.views.api_keys import list_keys
from tests.conftest import _new_database
from tests.world import T0

BEFORE = (
    "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
    "INSERT INTO orgs (org_id, bucket, billing_provider) VALUES ('acme', 7, 'embedded')",
    "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
    "VALUES ('acme', 0, 'embedded', 'acme', 0, 'a', 'r')",
    *(
        "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
        f"sealed_at_ms, seal_id, state, due_at_ms, attempts) VALUES ({T0}, 'acme', 'compute', {number}, 'embedded', "
        f"'acme', 60, 60, 'k{number}', 0, 1, '{state}', 0, 1)"
        for number, state in enumerate(("accepted", "due", "in_doubt", "rejected"))
    ),
    f"INSERT INTO voids VALUES ({T0}, 'acme', 'compute', 3, 0, 'rejected', 'no rate', 'a', 'r')",
    f"UPDATE pushes SET state = 'voided' WHERE revision = 3 AND window_ms = {T0}",
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    f"VALUES ('one', 'acme', 'box', 'cell-1', 1024, 60, {T0}, {T0})",
    f"INSERT INTO pending_usage VALUES ({T0}, 'acme', 77, 'no_mapping', 60, 1)",
)


def _empty(kind: str, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> sa.Engine:
    """A database without tables."""
    if kind == "sqlite":
        return connect(f"sqlite:///{tmp_path}/old.db")
    return connect(_new_database(request.getfixturevalue("postgres_server"), name))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_0001(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "upgrade")
    with engine.begin() as connection:
        migrate_to(connection, "0001")
        for statement in BEFORE:
            connection.execute(sa.text(statement))
    upgrade(engine)
    read(engine, require_ready)
    found = read(
        engine,
        lambda c: {
            "pushes": c.execute(sa.text("SELECT revision, state, lookups, wire_key FROM pushes ORDER BY 1")).all(),
            "voids": c.execute(sa.text("SELECT evidence FROM voids")).scalars().all(),
            "pending": c.execute(sa.text("SELECT reason, seconds FROM pending_usage")).all(),
        },
    )
    assert [tuple(row) for row in found["pushes"]] == [
        (0, "accepted", 0, None),
        (1, "due", 0, None),
        (2, "in_doubt", 0, None),
        (3, "voided", 0, None),
    ]
    assert (list(found["voids"]), [tuple(row) for row in found["pending"]]) == (["no rate"], [("no_mapping", 60)])
    for statement, rule in {
        "UPDATE pushes SET sealed_qty = 1": "S3",
        "UPDATE pushes SET state = 'due' WHERE state = 'in_doubt'": "P2",
        "UPDATE pushes SET state = 'voided' WHERE state = 'due'": "P5",
        "DELETE FROM voids": "append-only",
        "DELETE FROM pushes": "S3",
        "UPDATE assignments SET customer_id = 'other'": "P4",
    }.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    if kind == "sqlite":
        replace = BEFORE[-2].replace("INSERT", "INSERT OR REPLACE").replace("1024, 60", "1024, 61")
        write(engine, lambda c: c.execute(sa.text(replace)))
        kept = read(engine, lambda c: c.execute(sa.text("SELECT interval_s FROM usage_samples")).scalars().all())
        assert list(kept) == [60]
    engine.dispose()


CREDIT = (
    "INSERT INTO ledger_accounts (account_id, kind, balance_micro, plan) VALUES ('wallet:acme', 'wallet', 70, 'team'), "
    "('wallet:b:c', 'wallet', 5, NULL), ('source:grants', 'source', -105, NULL), ('revenue:x', 'revenue', 30, NULL)",
    "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, "
    "actor, reason) VALUES "
    f"('grant:one', 'grant', 'source:grants', 'wallet:acme', 100, NULL, NULL, {T0}, {T0}, 'ann', 'paid'), "
    f"('grant:two', 'grant', 'source:grants', 'wallet:acme', 10, NULL, NULL, {T0 + 1}, {T0 + 1}, 'ann', 'paid'), "
    f"('grant:minus', 'grant', 'source:grants', 'wallet:acme', -10, NULL, NULL, {T0 + 2}, {T0 + 2}, 'ann', 'a slip'), "
    f"('grant:other', 'grant', 'source:grants', 'wallet:b:c', 5, NULL, NULL, {T0 + 3}, {T0 + 3}, 'bob', 'a gift'), "
    f"('u', 'usage', 'wallet:acme', 'revenue:x', 30, 'x', 30, {T0}, {T0 + 9}, 'drawdown', 'usage')",
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_wallets_and_grants_of_0018_become_lots(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "credit")

    def rows(text: str) -> list[tuple[object, ...]]:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])

    entries = "SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason "
    entries += "FROM ledger_entries ORDER BY key"
    with engine.begin() as connection:
        migrate_to(connection, "0018")
        for statement in CREDIT:
            connection.execute(sa.text(statement.replace(":", "\\:")))
    before = rows(entries)
    upgrade(engine)
    assert rows(entries) == before
    assert rows("SELECT account_id, balance_micro, plan, held_micro, next_due_ms, lots_ended_ms, deferred_micro "
                "FROM ledger_accounts ORDER BY 1") == [
        ("wallet:acme", 70, "team", 0, 0, None, 0),
        ("wallet:b:c", 5, None, 0, None, None, 0),
    ]  # fmt: skip
    assert rows("SELECT * FROM ledger_lots ORDER BY lot") == [
        ("grant:one", "acme", "purchased", 100, 50, T0, None, None, T0, "ann", "paid", None),
        ("grant:other", "b:c", "purchased", 5, 50, T0 + 3, None, None, T0 + 3, "bob", "a gift", None),
        ("grant:two", "acme", "purchased", 10, 50, T0 + 1, None, None, T0 + 1, "ann", "paid", None),
    ]
    assert rows("SELECT customer_id, number, plan, since_ms FROM plan_stays") == [("acme", 1, "team", 0)]
    assert [breach.text for breach in read(engine, verify).breaches if breach.invariant == 10] == []
    kept = ("UPDATE ledger_lots SET amount_micro = 1", "DELETE FROM ledger_lots", "DELETE FROM ledger_entries")
    for statement in (*kept, "UPDATE plan_stays SET plan = 'x'", "DELETE FROM plan_stays"):
        with pytest.raises(DBAPIError, match="append-only"):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    if kind == "postgresql":
        with pytest.raises(DBAPIError, match="truncate"):
            write(engine, lambda c: c.execute(sa.text("TRUNCATE ledger_lots")))
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_keys_of_0025_go_on_and_nothing_is_known_of_their_use(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "keys")
    insert = "INSERT INTO api_keys (key_sha256, name, scopes, created_ms, actor, reason) VALUES "
    insert += f"('{'a' * 64}', 'app', 'guard', {T0}, 'ann', 'new')"
    with engine.begin() as connection:
        migrate_to(connection, "0025")
        connection.execute(sa.text(insert))
    upgrade(engine)
    assert [(one.name, one.state, one.used_ms) for one in read(engine, lambda c: list_keys(c, T0, 9))] == [
        ("app", "good", None)
    ]
    write(engine, lambda c: c.execute(sa.text(f"UPDATE api_keys SET used_ms = {T0 + 1}")))
    assert read(engine, lambda c: list_keys(c, T0, 9))[0].used_ms == T0 + 1
    engine.dispose()


RUNS = (
    "INSERT INTO ledger_accounts (account_id, balance_micro, held_micro, next_due_ms) "
    f"VALUES ('wallet:acme', 90, 40, {T0 + 60_000})",
    *(
        "INSERT INTO reservations (reservation, org_id, customer_id, amount_micro, drawn_micro, state, overage, "
        "accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason) VALUES "
        f"('{key}', 'acme', 'acme', {amount}, {drawn}, '{state}', 'charge', {T0}, {T0 + 60_000}, {end}, NULL, NULL, "
        "'f', 'ann', 'r')"
        for key, amount, drawn, state, end in (("going", 50, 10, "held", "NULL"), ("off", 9, 0, "released", T0 + 5))
    ),
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_runs_of_0025_have_receipts_and_name_no_sandbox(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "metered")

    def rows(text: str) -> list[tuple[object, ...]]:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])

    kept = (
        "SELECT reservation, org_id, customer_id, amount_micro, drawn_micro, state, overage, accepted_ms, expires_ms, "
        "ended_ms, fingerprint, actor, reason, supplier FROM reservations ORDER BY 1"
    )
    with engine.begin() as connection:
        migrate_to(connection, "0025")
        for statement in RUNS:
            connection.execute(sa.text(statement))
    before = rows(kept)
    upgrade(engine)
    assert rows(kept) == before
    assert len(before) == 2
    new = "SELECT settled_by, metered_before_micro, metered_to_ms FROM reservations"
    assert rows(new) == [("receipt", 0, None)] * 2
    assert rows("SELECT * FROM reservation_sandboxes") == []
    named = "INSERT INTO reservation_sandboxes VALUES ('going', 'one', 'acme', TRUE), ('going', 'two', 'acme', FALSE)"
    write(engine, lambda c: c.execute(sa.text(named)))
    for statement, rule in {
        "UPDATE reservations SET settled_by = 'metering'": "who charges",
        "DELETE FROM reservation_sandboxes": "keeps its sandboxes",
        "UPDATE reservation_sandboxes SET sandbox_id = 'three'": "keeps its sandboxes",
        "UPDATE reservation_sandboxes SET is_open = TRUE": "keeps its sandboxes",
        "INSERT INTO reservation_sandboxes VALUES ('off', 'one', 'acme', TRUE)": "(?i)unique",
    }.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    write(engine, lambda c: c.execute(sa.text("UPDATE reservation_sandboxes SET is_open = FALSE")))
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_sandbox_that_a_run_of_0030_names_is_its_organisations_own(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "boxes")
    named = "SELECT reservation, sandbox_id, org_id, is_open FROM reservation_sandboxes ORDER BY 1, 2"
    theirs = "INSERT INTO reservation_sandboxes VALUES ('theirs', 'one', 'globex', TRUE)"

    def say(text: str) -> None:
        write(engine, lambda c: c.execute(sa.text(text)))

    with engine.begin() as connection:
        migrate_to(connection, "0030")
        for statement in RUNS:
            connection.execute(sa.text(statement))
        for run, box, is_open in (("going", "one", "TRUE"), ("off", "two", "FALSE")):
            connection.execute(
                sa.text(f"INSERT INTO reservation_sandboxes VALUES ('{run}', '{box}', 'acme', {is_open})")
            )
    with pytest.raises(DBAPIError, match=r"(?i)unique"):
        say(theirs)
    upgrade(engine)
    read(engine, require_ready)
    rows = [tuple(row) for row in read(engine, lambda c: c.execute(sa.text(named)).all())]
    assert rows == [("going", "one", "acme", True), ("off", "two", "acme", False)]
    say(theirs)
    with pytest.raises(DBAPIError, match=r"(?i)unique"):
        say("INSERT INTO reservation_sandboxes VALUES ('new', 'one', 'acme', TRUE)")
    engine.dispose()


RUN_OF_0025 = (
    "INSERT INTO reservations (reservation, org_id, customer_id, amount_micro, state, overage, accepted_ms, "
    "expires_ms, fingerprint, actor, reason) "
    f"VALUES ('e-1', 'acme', 'acme', 5, 'held', 'charge', {T0}, {T0 + 9}, 'f', 'ann', 'paid')"
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_lots_and_runs_of_before_pools_are_kept(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "pools")
    with engine.begin() as connection:
        migrate_to(connection, "0018")
        for statement in CREDIT:
            connection.execute(sa.text(statement.replace(":", "\\:")))
        migrate_to(connection, "0025")
        connection.execute(sa.text(RUN_OF_0025))
        connection.execute(sa.text("UPDATE ledger_accounts SET held_micro = 5 WHERE account_id = 'wallet\\:acme'"))
    upgrade(engine)

    def rows(text: str) -> list[tuple[object, ...]]:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])

    assert rows("SELECT lot, pool FROM ledger_lots WHERE customer_id = 'acme' ORDER BY lot") == [
        ("grant:one", None),
        ("grant:two", None),
    ]
    assert rows("SELECT reservation, customer_id, amount_micro, payer_number FROM reservations") == [
        ("e-1", "acme", 5, None)
    ]
    write(engine, lambda c: c.execute(sa.text("INSERT INTO pools VALUES ('p', 1, 'ann', 'a test')")))
    row = "INSERT INTO payers VALUES ('p', 'acme', 1, true, 5, 1, 1, 'ann', 'a test')"
    write(engine, lambda c: c.execute(sa.text(row)))
    for statement, rule in {
        "UPDATE reservations SET payer_number = 1": "keeps its payer",
        "UPDATE payers SET allowed = false": "append-only",
        "DELETE FROM payers": "append-only",
        "UPDATE pools SET pool = 'q'": "append-only",
        "DELETE FROM pools": "append-only",
    }.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_runs_of_0030_are_held_in_wallets(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "remote")
    with engine.begin() as connection:
        migrate_to(connection, "0030")
        connection.execute(sa.text(RUN_OF_0025))
    upgrade(engine)
    run = "SELECT reservation, amount_micro, state, settled_by, payer_number, hold FROM reservations"
    before = [("e-1", 5, "held", "receipt", None, "wallet")]
    assert read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(run))]) == before
    values = "('e-1', 'final', 'x', 1, 1, 1, 'a', 'r')"
    write(engine, lambda c: c.execute(sa.text(f"INSERT INTO run_usage VALUES {values}")))
    another = RUN_OF_0025.replace("'e-1'", "'e-2'")
    for statement, rule in {
        "UPDATE reservations SET hold = 'local'": "never changes",
        "UPDATE run_usage SET quantity = 1": "append-only",
        "DELETE FROM run_usage": "append-only",
        **{
            another.replace("reason)", f"reason, hold, {name})").replace("'paid')", f"'paid', 'local', {value})"): (
                "reservations_hold"
            )
            for name, value in (("settled_by", "'metering'"), ("payer_number", 1))
        },
    }.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_metric_of_0038_counts_what_has_its_name(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "counts")
    columns = "metric, number, price_micro, per_units, phase, warn_ppm, fails_open, at_ms, actor, reason"
    with engine.begin() as connection:
        migrate_to(connection, "0038")
        connection.execute(
            sa.text(f"INSERT INTO guard_metrics ({columns}) VALUES ('idea', 1, 5, 2, 3, 9, TRUE, {T0}, 'ann', 'r')")
        )
    upgrade(engine)
    kept = read(engine, lambda c: guard_terms.find(c, "idea"))
    assert kept == guard_terms.Metric("idea", 1, 5, 2, None, 3, 9, fails_open=True, counts=None)
    with pytest.raises(DBAPIError, match="append-only"):
        write(engine, lambda c: c.execute(sa.text("UPDATE guard_metrics SET counts = 'x'")))
    by = By(T0 + 1, "ann", "a test")
    write(engine, lambda c: guard_terms.set_metric(c, "idea", guard_terms.Change(counts="page.render"), by))
    with pytest.raises(NotImplementedError, match="restore a backup"), engine.begin() as connection:
        command.downgrade(_config(connection), "0038")
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_run_of_0033_is_kept_and_the_guard_counts_nothing_yet(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "guard")
    with engine.begin() as connection:
        migrate_to(connection, "0033")
        connection.execute(sa.text(RUN_OF_0025))
    upgrade(engine)
    run = "SELECT reservation, amount_micro, state FROM reservations"
    assert read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(run))]) == [("e-1", 5, "held")]
    tables = [name for name in sa.inspect(engine).get_table_names() if name.startswith("guard_")]
    assert len(tables) == 7
    for name in tables:
        assert read(engine, lambda c, n=name: c.execute(sa.text(f"SELECT COUNT(*) FROM {n}")).scalar_one()) == 0  # type: ignore[misc]
    engine.dispose()


WAIT = 720_000
OVER = (
    "INSERT INTO ledger_accounts (account_id, balance_micro, held_micro, next_due_ms, lots_ended_ms, deferred_micro) "
    f"VALUES ('wallet:acme', 60, 0, {T0 + 5 + WAIT}, NULL, 0), ('wallet:late', 7, 0, {T0 + 99}, NULL, 0), "
    f"('wallet:done', 4, 4, {T0 + 60_000}, {T0 + 1}, 4)",
    "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, expires_ms, at_ms, actor, reason) "
    f"VALUES ('grant:over', 'acme', 'bonus', 50, {T0}, {T0 + 5}, {T0}, 'ann', 'a gift'), "
    f"('grant:bought', 'acme', 'purchased', 10, {T0}, NULL, {T0}, 'ann', 'paid'), "
    f"('grant:late', 'late', 'bonus', 7, {T0}, {T0 + 999_999}, {T0}, 'ann', 'a gift'), "
    f"('grant:done', 'done', 'bonus', 4, {T0}, {T0 + 1}, {T0}, 'ann', 'a gift')",
    "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) VALUES "
    f"('grant:over', 'grant', 'source:grants', 'wallet:acme', 50, {T0}, {T0}, 'ann', 'a gift'), "
    f"('grant:bought', 'grant', 'source:grants', 'wallet:acme', 10, {T0}, {T0}, 'ann', 'paid'), "
    f"('grant:late', 'grant', 'source:grants', 'wallet:late', 7, {T0}, {T0}, 'ann', 'a gift'), "
    f"('grant:done', 'grant', 'source:grants', 'wallet:done', 4, {T0}, {T0}, 'ann', 'a gift')",
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_over_and_not_booked_at_0030_is_looked_at_by_the_first_sweep(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "over")

    def rows(text: str) -> list[tuple[object, ...]]:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])

    with engine.begin() as connection:
        migrate_to(connection, "0030")
        for statement in OVER:
            connection.execute(sa.text(statement.replace(":", "\\:")))
    kept = "SELECT lot, customer_id, amount_micro, expires_ms FROM ledger_lots ORDER BY 1"
    before = rows(kept)
    upgrade(engine)
    assert rows(kept) == before
    wallets = "SELECT account_id, balance_micro, over_micro, next_due_ms, lots_over_ms FROM ledger_accounts ORDER BY 1"
    assert rows(wallets) == [
        ("wallet:acme", 60, 0, T0 + 5, None),
        ("wallet:done", 4, 0, 0, T0 + 1),
        ("wallet:late", 7, 0, T0 + 99, None),
    ]
    write(engine, lambda c: mature_due(c, T0 + 6))
    assert rows(wallets)[0] == ("wallet:acme", 60, 50, T0 + 5 + WAIT, T0 + 5)
    with pytest.raises(DBAPIError, match="ledger_accounts_over"):
        write(engine, lambda c: c.execute(sa.text("UPDATE ledger_accounts SET over_micro = -1")))
    engine.dispose()


SIZES = (
    *BEFORE[:3],
    "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) "
    f"VALUES ('exact', 1024, 'one', 's', 0, 0, 'a', 'r'), ('up_to', NULL, 'rest', 'mb_s', {T0}, 0, 'a', 'r')",
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) VALUES "
    + ", ".join(
        f"('{name}', 'acme', 'box', '{cell}', {size}, {seconds}, {T0}, {T0})"
        for name, cell, size, seconds in (
            ("good", "cell-1", 1024, 86_400),
            ("long", "cell-1", 1024, 86_401),
            ("large", "cell-1", 16_777_217, 60),
            ("gone", "cell-1", 1024, 1),
        )
    ),
    f"UPDATE buckets SET watermark_ms = {T0 + 300_000}",
    f"UPDATE orgs SET floor_ms = {T0 + 300_000}",
    "DELETE FROM usage_samples WHERE id = 'gone'",
)
KEPT = "SELECT arrival, id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at, problem "
KEPT += "FROM usage_samples ORDER BY id"
EVENT_SAMPLE = (
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    f"VALUES ('event:1', 'acme', 'event:page.render', 'events', 16777217, 1000000000000, {T0}, {T0})"
)
OF_EVENT = "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) VALUES "
REFUSED = {
    f"{OF_EVENT} ('exact', 16777217, 'x', 's', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('exact', 16777216, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('up_to', 16777217, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('up_to', NULL, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('exact', 1, 'x', 'pieces', 0, 0, 'a', 'r')": "mappings_unit",
    "UPDATE mappings SET feature = 'x'": "append-only",
    "UPDATE usage_samples SET interval_s = 1": "S7",
    "INSERT INTO event_types VALUES ('x', 16777216, 0)": "event_types_meters",
    "INSERT INTO event_types VALUES ('x', 16787217, 0)": "event_types_meters",
}
MAPPED = "SELECT mapping_id, kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason FROM mappings ORDER BY 1"


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_samples_and_mappings_of_0033_are_as_they_were(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """They may speak of meters from then on; back, as long as no event type is known."""
    engine = _empty(kind, request, tmp_path, "events")

    def rows(text: str) -> list[tuple[object, ...]]:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])

    def hung_on() -> set[object]:
        if kind == "postgresql":
            tables = "('usage_samples'::regclass, 'mappings'::regclass)"
            indexes = "SELECT indexname FROM pg_indexes WHERE tablename IN ('usage_samples', 'mappings')"
            return {
                row[0] for row in rows(f"SELECT tgname::text FROM pg_trigger WHERE tgrelid IN {tables}") + rows(indexes)
            }
        named = "type IN ('index', 'trigger') AND tbl_name IN ('usage_samples', 'mappings')"
        return {row[0] for row in rows(f"SELECT name FROM sqlite_master WHERE {named}")}

    with engine.begin() as connection:
        migrate_to(connection, "0033")
        for statement in SIZES:
            connection.execute(sa.text(statement))
    before, hung = (rows(KEPT), rows(MAPPED)), hung_on()
    assert [row[-1] for row in before[0]] == [None, "memory_out_of_bounds", "interval_over_a_day"]
    with engine.begin() as connection:
        migrate_to(connection, "0034")
    assert (rows(KEPT), rows(MAPPED)) == before
    assert hung_on() == hung | {"events_go_with_samples", "mappings_by_size"}
    write(engine, lambda c: c.execute(sa.text(EVENT_SAMPLE)))
    assert rows("SELECT problem FROM usage_samples WHERE id = 'event:1'") == [(None,)]
    if kind == "sqlite":
        assert rows("SELECT arrival FROM usage_samples WHERE id = 'event:1'") == [(5,)], "no number is given again"
    for statement, rule in REFUSED.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    with engine.begin() as connection:
        command.downgrade(_config(connection), "0033")
    assert hung_on() == hung
    assert rows(MAPPED) == before[1]
    assert [row for row in rows(KEPT) if row[1] != "event:1"] == before[0]
    assert rows("SELECT problem FROM usage_samples WHERE id = 'event:1'") == [("memory_out_of_bounds",)]
    with engine.begin() as connection:
        migrate_to(connection, "0034")
        connection.execute(sa.text("INSERT INTO event_types VALUES ('page.render', 16777217, 0)"))
    with pytest.raises(NotImplementedError, match="backup"), engine.begin() as connection:
        command.downgrade(_config(connection), "0033")
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_keys_of_0034_are_bound_to_no_cell_and_a_binding_is_for_good(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "key_cells")
    columns = "INSERT INTO api_keys (key_sha256, name, scopes, created_ms, actor, reason{more}) VALUES "
    values = "('{hash}', '{name}', 'samples:write', 0, 'ann', 'new'{more})"
    with engine.begin() as connection:
        migrate_to(connection, "0034")
        connection.execute(sa.text(columns.format(more="") + values.format(hash="a" * 64, name="old", more="")))
        migrate_to(connection, "0036")
        more = {"more": ", cell_id"}, {"more": ", 'cell-1'"}
        connection.execute(sa.text(columns.format(**more[0]) + values.format(hash="b" * 64, name="host", **more[1])))
    for change in ("cell_id = NULL", "cell_id = 'cell-2'", "org_id = 'acme'"):
        with pytest.raises(DBAPIError, match="API key"):
            write(engine, lambda c, text=change: c.execute(sa.text(f"UPDATE api_keys SET {text}")))  # type: ignore[misc]
    with pytest.raises(NotImplementedError), engine.begin() as connection:
        command.downgrade(_config(connection), "-1")
    upgrade(engine)
    assert [(one.name, one.cell_id) for one in read(engine, lambda c: list_keys(c, T0, 9))] == [
        ("host", "cell-1"),
        ("old", None),
    ]
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_going_back_from_0036_keeps_keys_as_they_were(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "key_cells_back")
    insert = "INSERT INTO api_keys (key_sha256, name, scopes, created_ms, actor, reason) VALUES "
    with engine.begin() as connection:
        migrate_to(connection, "0036")
        connection.execute(sa.text(insert + f"('{'a' * 64}', 'old', 'guard', 0, 'ann', 'new')"))
        command.downgrade(_config(connection), "-1")
        assert connection.execute(sa.text("SELECT name, org_id FROM api_keys")).all() == [("old", None)]
    with pytest.raises(DBAPIError, match="API key"):
        write(engine, lambda c: c.execute(sa.text("UPDATE api_keys SET scopes = 'events:write'")))
    upgrade(engine)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_compared_comes_beside_what_there_is_and_may_go_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0037 changes no row of before, and can be gone back from and come to again."""
    engine = _empty(kind, request, tmp_path, "drift")
    with engine.begin() as connection:
        migrate_to(connection, "0036")
        connection.execute(sa.text("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')"))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0037")
        write(engine, lambda c: c.execute(sa.text("INSERT INTO vendor_imports VALUES ('a file', 1, 5, 'ann', 'r')")))
        with pytest.raises(DBAPIError, match="append-only"):
            write(engine, lambda c: c.execute(sa.text("DELETE FROM vendor_imports")))
        assert read(engine, lambda c: c.execute(sa.text("SELECT url FROM cells")).scalar()) == "http://cell-1"
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0036")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_checks_find_comes_beside_what_the_guard_counted_and_may_go_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0042 changes no use, finds those in the dark, and can be gone back from and come to again."""
    engine = _empty(kind, request, tmp_path, "checks")
    dark = "SELECT use_key FROM guard_uses WHERE degraded AND metric = 'look'"
    with engine.begin() as connection:
        migrate_to(connection, "0038")
        for key, degraded in (("lit", "FALSE"), ("dark", "TRUE")):
            connection.execute(sa.text(
                "INSERT INTO guard_uses (use_key, org_id, metric, number, month_ms, metric_number, asked, amount, "
                "state, decision, would, rule, enforced, degraded, charged_micro, forgone_micro, fingerprint, at_ms, "
                f"actor, reason) VALUES ('{key}', 'acme', 'look', 1, 0, 1, 3, 3, 'used', 'allow', 'allow', 'r', FALSE, "
                f"{degraded}, 0, 0, 'f', 5, 'ann', 'r')"
            ))  # fmt: skip
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0042")
            connection.execute(sa.text("INSERT INTO checks VALUES ('guard', 5, 2, 1)"))
            assert connection.execute(sa.text(dark)).scalars().all() == ["dark"]
            command.downgrade(_config(connection), "0038")
            assert connection.execute(sa.text("SELECT COUNT(*) FROM guard_uses")).scalar() == 2
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


def _told_before(connection: sa.Connection) -> None:
    """Three events of 0038 by their claims, two of them withdrawn, of which one is gone; and one that is staged."""
    text = [
        "INSERT INTO event_types VALUES ('page.render', 16777217, 0)",
        "INSERT INTO backfills (backfill, org_id, from_ms, to_ms, state, at_ms, actor, reason) "
        f"VALUES ('june', 'acme', {T0}, {T0 + 300_000}, 'open', {T0}, 'ann', 'r')",
        "INSERT INTO backfill_events (backfill, sample_id, source, event_id, event_type, quantity, ts, properties) "
        f"VALUES ('june', '{sample_id_of('app', 'staged')}', 'app', 'staged', 'page.render', 3, {T0 + 1}, '{{}}')",
    ]
    for event_id, ts in (("a", T0 + 1), ("b", T0 + 1), ("gone", T0 - 1)):
        name = sample_id_of("app", event_id)
        text += [
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            f"VALUES ('{name}', 'acme', 'event:page.render', 'events', 16777217, 3, {ts}, {T0 + 2})",
            "INSERT INTO usage_events (sample_id, source, event_id, event_type, org_id, quantity, ts, properties, "
            f"ingested_ms) VALUES ('{name}', 'app', '{event_id}', 'page.render', 'acme', 3, {ts}, '{{}}', {T0 + 2})",
        ]
        if event_id != "a":
            text.append(
                "INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason) "
                f"VALUES ('{name}', 'acme', {ts}, 16777217, 3, {T0}, 'ann', 'r')"
            )
    text += [
        "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
        f"INSERT INTO orgs (org_id, bucket, floor_ms) VALUES ('acme', 7, {T0})",
        f"DELETE FROM usage_samples WHERE ts < {T0}",
    ]
    for statement in text:
        connection.execute(sa.text(statement.replace(":", "\\:")))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_events_of_0038_are_known_by_their_claims_and_their_organisations(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "own_events")
    events = "SELECT * FROM usage_events ORDER BY 1"
    with engine.begin() as connection:
        migrate_to(connection, "0038")
        _told_before(connection)
        before = [tuple(row) for row in connection.execute(sa.text(events))]
    upgrade(engine)

    def sent(org: str, event_id: str, *, own: bool) -> tuple[str, str | None]:
        event = UsageEvent("app", event_id, "page.render", org, 3, T0 + 1)
        (found,) = write(engine, lambda c: take(c, [event], T0 + 10, own=own))
        return found.status, found.code

    kept = {"a": ("duplicate", None), "b": ("duplicate", "withdrawn"), "gone": ("invalid", "withdrawn")}
    for own in (True, False):
        assert {event_id: sent("acme", event_id, own=own) for event_id in kept} == kept
        assert sent("acme", "staged", own=own)[0] == ("pending" if own else "duplicate")
    assert sent("globex", "a", own=False) == ("conflict", "other_content")
    assert sent("globex", "a", own=True)[0] == "pending"
    after = read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(events))])
    assert set(before) <= set(after) and len(after) == len(before) + 2
    counts = read(engine, lambda c: backfills.diff(c, "june")).counts
    assert counts == {"duplicate": 1}
    with pytest.raises(DBAPIError, match="S7"):
        write(engine, lambda c: c.execute(sa.text("UPDATE backfill_events SET quantity = 9")))
    assert read(engine, lambda c: c.execute(sa.text("SELECT sample_id FROM backfill_events")).scalar()) == sample_id_of(
        "app", "staged", "acme"
    )
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_people_of_the_console_come_beside_what_there_is_and_may_go_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0044 changes no row of before, keeps people for good while it is there, and can be gone back from."""
    engine = _empty(kind, request, tmp_path, "console")
    with engine.begin() as connection:
        migrate_to(connection, "0038")
        connection.execute(sa.text("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')"))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0044")
        ann = "INSERT INTO console_users (name, role, created_ms, actor, reason) VALUES ('ann', 'viewer', 1, 'a', 'r')"
        write(engine, lambda c, text=ann: c.execute(sa.text(text)))  # type: ignore[misc]
        for change in ("DELETE FROM console_users", "UPDATE console_users SET name = 'bob'"):
            with pytest.raises(DBAPIError, match=r"person of the console|one person's"):
                write(engine, lambda c, text=change: c.execute(sa.text(text)))  # type: ignore[misc]
        assert read(engine, lambda c: c.execute(sa.text("SELECT url FROM cells")).scalar()) == "http://cell-1"
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0038")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_ends_are_estimated_anew_after_an_upgrade_and_nothing_else_changes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0046 keeps each organisation as it is, knows nobody's end, and can be gone back from and come to again."""
    engine = _empty(kind, request, tmp_path, "ends")
    with engine.begin() as connection:
        migrate_to(connection, "0001")
        for statement in BEFORE:
            connection.execute(sa.text(statement))
        migrate_to(connection, "0045")
        connection.execute(sa.text("UPDATE orgs SET balance_micro = 7, watch_due_ms = 9"))
    was = read(engine, lambda c: [tuple(row) for row in c.execute(sa.text("SELECT * FROM orgs"))])
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0046")
        write(engine, lambda c: c.execute(sa.text("UPDATE orgs SET runs_out_ms = 5 WHERE runs_out_ms IS NULL")))
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0045")
        assert read(engine, lambda c: [tuple(row) for row in c.execute(sa.text("SELECT * FROM orgs"))]) == was
    upgrade(engine)
    assert read(engine, lambda c: c.execute(sa.text("SELECT runs_out_ms, balance_micro FROM orgs")).one()) == (None, 7)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_lists_of_money_come_beside_what_there_is_and_may_go_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0051 changes no row, is kept to while it is there, and can be gone back from and come to again."""
    engine = _empty(kind, request, tmp_path, "money")
    wallet = "SELECT account_id, balance_micro FROM ledger_accounts"
    with engine.begin() as connection:
        migrate_to(connection, "0046")
        connection.execute(
            sa.text("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:acme', -5)")
        )
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0051")
        spender = (
            "INSERT INTO high_spenders (place, customer_id, used_micro, from_ms, at_ms) VALUES (:at, 'acme', 5, 0, 1)"
        )
        write(engine, lambda c, text=spender: c.execute(sa.text(text), {"at": 1}))  # type: ignore[misc]
        with pytest.raises(DBAPIError, match="high_spenders_sane"):
            write(engine, lambda c, text=spender: c.execute(sa.text(text), {"at": 0}))  # type: ignore[misc]
        assert [tuple(row) for row in read(engine, lambda c: c.execute(sa.text(wallet)).all())] == [("wallet:acme", -5)]
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0046")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_sessions_of_organisations_people_come_beside_those_of_the_console_and_may_go_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0049 changes no row of before; a session there stays what it is, and ends once."""
    engine = _empty(kind, request, tmp_path, "my")
    with engine.begin() as connection:
        migrate_to(connection, "0044")
        session = f"INSERT INTO console_sessions VALUES ('{'c' * 64}', 'ann', 1, 1)"
        connection.execute(sa.text(session))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0049")
        one = f"'{'a' * 64}', '{'b' * 64}', 'acme', NULL, 1"
        made = f"INSERT INTO my_sessions (session_sha256, link_sha256, org_id, person, began_ms) VALUES ({one})"
        ended = "UPDATE my_sessions SET ended_ms = 2"
        for text in (made, ended):
            write(engine, lambda c, text=text: c.execute(sa.text(text)))  # type: ignore[misc]
        for change in (made.replace("a" * 64, "d" * 64), ended, "UPDATE my_sessions SET org_id = 'wayne'"):
            with pytest.raises(DBAPIError):
                write(engine, lambda c, text=change: c.execute(sa.text(text)))  # type: ignore[misc]
        assert read(engine, lambda c: c.execute(sa.text("SELECT name FROM console_sessions")).scalar()) == "ann"
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0044")
    upgrade(engine)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_proofs_come_beside_what_there_is_and_events_are_found_by_when_they_came_in(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schema 0054 changes no row of before, keeps runs for good while it is there, and can be gone back from."""
    engine = _empty(kind, request, tmp_path, "proofs")
    event = (
        "INSERT INTO usage_events (sample_id, source, event_id, event_type, org_id, quantity, ts, properties, "
        "ingested_ms) VALUES ('s', 'app', 'e', 'order', 'acme', 1, 5, '{}', 7)"
    ).replace(":", "\\:")
    with engine.begin() as connection:
        migrate_to(connection, "0045")
        connection.execute(
            sa.text("INSERT INTO event_types (event_type, meter, first_seen_ms) VALUES ('order', 16777217, 1)")
        )
        connection.execute(sa.text(event))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0054")
        run = (
            "INSERT INTO proofs (at_ms, took_ms, breaches, by_invariant, checked, open, newest_action, actor, reason) "
        )
        write(engine, lambda c, text=run: c.execute(sa.text(f"{text} VALUES (1, 2, 0, '', '', '', '', 'a', 'r')")))  # type: ignore[misc]
        for change in ("DELETE FROM proofs", "UPDATE proofs SET breaches = 9"):
            with pytest.raises(DBAPIError, match="stays on record as it was"):
                write(engine, lambda c, text=change: c.execute(sa.text(text)))  # type: ignore[misc]
        assert read(engine, lambda c: c.execute(sa.text("SELECT ingested_ms FROM usage_events")).scalar()) == 7
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0045")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_people_look_for_is_indexed_beside_what_there_is(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Schemas 0052, 0057, 0065 and 0066 change no row of before, and can be gone back from."""
    engine = _empty(kind, request, tmp_path, "looking")
    with engine.begin() as connection:
        migrate_to(connection, "0045")
        connection.execute(
            sa.text(
                "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'running')"
            )
        )
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0052")
        names = {one["name"] for table in ("pushes", "reservations", "sandboxes") for one in _indexes(engine, table)}
        assert {"pushes_for_people", "reservations_by_accepted", "sandboxes_running"} <= names
        assert read(engine, lambda c: c.execute(sa.text("SELECT cell_id FROM sandboxes")).scalar()) == "cell-1"
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0045")
    halt = "INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms) VALUES ('acme', 'cell-1', 7, 7)"
    with engine.begin() as connection:
        migrate_to(connection, "0056")
        connection.exec_driver_sql(halt)
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0057")
        assert "halts_by_time" in {one["name"] for one in _indexes(engine, "halts")}
        assert read(engine, lambda c: c.execute(sa.text("SELECT halted_at FROM halts")).scalar()) == 7
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0056")
        assert "halts_by_time" not in {one["name"] for one in _indexes(engine, "halts")}
    upgrade(engine)
    read(engine, require_ready)
    assert "orders_failed" in {one["name"] for one in _indexes(engine, "orders")}
    assert "pushes_unsent" in {one["name"] for one in _indexes(engine, "pushes")}
    assert "refused_attempts" in {one["name"] for one in sa.inspect(engine).get_columns("pushes")}
    with engine.begin() as connection:
        command.downgrade(_config(connection), "0060")
    assert "orders_failed" not in {one["name"] for one in _indexes(engine, "orders")}
    assert "pushes_unsent" not in {one["name"] for one in _indexes(engine, "pushes")}
    upgrade(engine)
    engine.dispose()


def _indexes(engine: sa.Engine, table: str) -> list[Any]:
    return list(sa.inspect(engine).get_indexes(table))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_orders_come_beside_replays_that_were_begun(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Schema 0055 changes no replay of before, keeps orders, and is not gone back from while one waits."""
    engine = _empty(kind, request, tmp_path, "orders")
    replay = (
        "INSERT INTO replays (scope, from_ms, to_ms, next_ms, worker, started_ms, lease_ms, actor, reason) "
        "VALUES ('{}', 0, 300000, 0, 'w', 1, 2, 'a', 'r')"
    )
    order = (
        "INSERT INTO orders (kind, asked, state, at_ms, via, actor, reason) "
        "VALUES ('replay', '', 'waiting', 1, 'cli', 'a', 'r')"
    )
    with engine.begin() as connection:
        migrate_to(connection, "0054")
        connection.exec_driver_sql(replay)
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0055")
        assert read(engine, lambda c: c.execute(sa.text("SELECT order_id FROM replays")).scalar()) is None
        write(engine, lambda c: c.exec_driver_sql(order))
        with pytest.raises(NotImplementedError, match="an order waits"), engine.begin() as connection:
            command.downgrade(_config(connection), "0054")
        for change in ("DELETE FROM orders", "UPDATE orders SET reason = 'other'"):
            with pytest.raises(DBAPIError):
                write(engine, lambda c, text=change: c.exec_driver_sql(text))  # type: ignore[misc]
        write(engine, lambda c: c.exec_driver_sql("UPDATE orders SET state = 'cancelled', ended_ms = 2"))
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0054")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_orders_of_0057_keep_their_guards_and_have_other_kinds_beside(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "kinds")
    order = (
        "INSERT INTO orders (kind, asked, state, at_ms, via, actor, reason) "
        "VALUES ('{}', '', 'waiting', 1, 'cli', 'a', 'r')"
    )
    with engine.begin() as connection:
        migrate_to(connection, "0057")
        connection.exec_driver_sql(order.format("replay"))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0058")
        assert [one["name"] for one in _indexes(engine, "orders")] == ["orders_open"]
        for change in (order.format("other"), "DELETE FROM orders", "UPDATE orders SET reason = 'other'"):
            with pytest.raises(DBAPIError):
                write(engine, lambda c, text=change: c.exec_driver_sql(text))  # type: ignore[misc]
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0057")
    upgrade(engine)
    write(engine, lambda c: c.exec_driver_sql(order.format("assign")))
    with pytest.raises(NotImplementedError, match="would forget"), engine.begin() as connection:
        command.downgrade(_config(connection), "0057")
    read(engine, require_ready)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_orders_of_0072_keep_their_guards_and_have_those_of_money_beside(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "money_beside")
    order = (
        "INSERT INTO orders (kind, asked, state, at_ms, via, actor, reason) "
        "VALUES ('{}', '', 'waiting', 1, 'cli', 'a', 'r')"
    )
    with engine.begin() as connection:
        migrate_to(connection, "0072")
        connection.exec_driver_sql(order.format("assign"))
    for _ in range(2):
        with engine.begin() as connection:
            migrate_to(connection, "0073")
        assert [one["name"] for one in _indexes(engine, "orders")] == ["orders_failed", "orders_open"]
        for change in (order.format("other"), "DELETE FROM orders", "UPDATE orders SET reason = 'other'"):
            with pytest.raises(DBAPIError):
                write(engine, lambda c, text=change: c.exec_driver_sql(text))  # type: ignore[misc]
        with engine.begin() as connection:
            command.downgrade(_config(connection), "0072")
    upgrade(engine)
    write(engine, lambda c: [c.exec_driver_sql(order.format(money)) for money in ("topup", "correct")])
    with pytest.raises(NotImplementedError, match="would forget"), engine.begin() as connection:
        command.downgrade(_config(connection), "0072")
    read(engine, require_ready)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_files_of_0060_are_said_by_their_paths(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = _empty(kind, request, tmp_path, "files")
    with engine.begin() as connection:
        migrate_to(connection, "0060")
        for text in (
            "INSERT INTO batch_sources VALUES ('in', '/srv', 1, NULL, 'a', 'r')",
            "INSERT INTO batches VALUES ('b1', '', 'u.csv', '/x/u.csv', 1, 0, 1, 1, 1, 1, 1, NULL, 'a', 'r')",
            "INSERT INTO batch_files VALUES ('in', 'a.csv', '', 1, 1, 'refused', 'broken', 1)",
            "INSERT INTO batch_files VALUES ('', 'u.csv', 'b1', 1, 1, 'taken', '', 1)",
        ):
            connection.exec_driver_sql(text)
    upgrade(engine)
    read(engine, require_ready)
    found = "SELECT name, path, outcome, readings FROM batch_files ORDER BY name"
    rows = read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(found))])
    assert rows == [("a.csv", "/srv/a.csv", "refused", 0), ("u.csv", "/x/u.csv", "taken", 0)]
    with engine.begin() as connection:
        again = "INSERT INTO batch_files VALUES ('', 'u.csv', 'b1', '/y/u.csv', 1, 1, 'repeated', '', 2, 0)"
        connection.exec_driver_sql(again)
        connection.exec_driver_sql("UPDATE batch_files SET outcome = 'reading' WHERE name = 'a.csv'")
    with pytest.raises(NotImplementedError), engine.begin() as connection:
        command.downgrade(_config(connection), "0059")
    with engine.begin() as connection:
        command.downgrade(_config(connection), "0060")
        assert list(connection.exec_driver_sql("SELECT name, outcome FROM batch_files")) == [("u.csv", "repeated")]
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_turns_that_were_to_come_are_asks_for_a_version_without_them(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty(kind, request, tmp_path, "turns")
    with engine.begin() as connection:
        migrate_to(connection, "0059")
        for org, due, turn in (
            ("asked", "5", "NULL"),
            ("far", "NULL", "9"),
            ("both", "5", "9"),
            ("none", "NULL", "NULL"),
        ):
            values = f"('{org}', {due}, {turn})"
            connection.exec_driver_sql(f"INSERT INTO orgs (org_id, projection_due_ms, read_by_ms) VALUES {values}")
        command.downgrade(_config(connection), "0058")
    found = "SELECT org_id, projection_due_ms, projection_asks FROM orgs ORDER BY org_id"
    rows = read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(found))])
    assert rows == [("asked", 5, 0), ("both", 5, 0), ("far", 9, 1), ("none", None, 0)]
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()


def test_what_a_host_said_of_a_meter_before_0074_stays_and_what_it_says_since_is_kept_apart(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = _empty("postgresql", request, tmp_path, "meters")
    row = "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) VALUES "
    host = "a_host_of_0073"

    def told_by_a_host(connection: sa.Connection, name: str) -> None:
        connection.exec_driver_sql(f"SET ROLE {host}")
        connection.exec_driver_sql(f"{row} ('{name}', 'acme', 'box', 'events', 16777217, 60, {T0}, {T0})")
        connection.exec_driver_sql("RESET ROLE")

    with engine.begin() as connection:
        migrate_to(connection, "0073")
        connection.exec_driver_sql(f"CREATE ROLE {host}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON usage_samples TO {host}")
        told_by_a_host(connection, "before")
        migrate_to(connection, "0074")
        told_by_a_host(connection, "since")
        connection.exec_driver_sql(f"{row} ('own', 'acme', 'box', 'events', 16777217, 60, {T0}, {T0})")
        command.downgrade(_config(connection), "0073")
        told_by_a_host(connection, "again")
        found = connection.exec_driver_sql("SELECT id, cell_id FROM usage_samples ORDER BY id")
        assert {row.id: row.cell_id for row in found} == {
            "again": "events", "before": "events", "own": "events", "since": "a host, of events",
        }  # fmt: skip
        migrate_to(connection, "0074")
        connection.exec_driver_sql(f"DROP OWNED BY {host}")
        connection.exec_driver_sql(f"DROP ROLE {host}")
    upgrade(engine)
    read(engine, require_ready)
    engine.dispose()
