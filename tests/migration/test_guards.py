"""The rules that the database keeps itself, whoever writes to it."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import write
from drawdown.schema.guards import GUARDS
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.fill import fill
from tests.fake_payments import CAN, FakePayments
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """One organisation with an accepted push, pending usage, a halt and a grant."""
    made = Fleet(engine)
    made.assign("acme")
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    made.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    made.sample("acme", T0 + 1, sample_id="one")
    made.sample("acme", T0 + 2, memory_mb=77)
    made.sample("acme", T0 + 3, interval_s=-1)
    made.tick_windows(3)
    terms = topups.Terms(5, 20, None, 10**8, "usd", "fake", "cus_1", 10**9)
    write(engine, lambda c: topups.set_terms(c, "acme", terms, CAN, made.by))
    write(engine, lambda c: guard_terms.set_metric(c, "look", guard_terms.Change(phase=3), made.by))
    write(engine, lambda c: guard_terms.set_limit(c, guard_terms.PlanLimit("look", "*", "day", 9), made.by))
    write(engine, lambda c: guard.consume(c, "u-1", guard.Wish("acme", "look", 1), made.by))
    write(engine, lambda c: guard.consume(c, "u-2", guard.Wish("acme", "look", 10), made.by))
    override = guard_overrides.Terms("look", "org", "acme", "day", 5, None)
    write(engine, lambda c: guard_overrides.add(c, override, made.by, asked=False, permanent=True))
    world = runner.World(engine, {}, made.cells, made.clock, payments={"fake": FakePayments(made.clock)})
    runner.run(fill(made.context(payments={"fake": CAN})), world)
    return made


SAMPLE = "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at"
REFUSED = {
    "a use is deleted": ("DELETE FROM guard_uses", "cannot delete a use"),
    "a use is moved to another metric": ("UPDATE guard_uses SET metric = 'x'", "cannot change (a|an ended) use"),
    "a use ends twice": ("UPDATE guard_uses SET amount = 5", "cannot change an ended use"),
    "a counter is deleted": ("DELETE FROM guard_counters", "cannot delete a counter"),
    "a refusal is deleted": ("DELETE FROM guard_denials", "cannot delete refusals"),
    "a limit is rewritten": ("UPDATE guard_limits SET amount = 99", "limits are append-only"),
    "a metric's price is rewritten": ("UPDATE guard_metrics SET price_micro = 9", "terms: they are append-only"),
    "an override allows more": (
        "UPDATE guard_overrides SET amount = 50, state = 'ended'",
        "cannot change the allowance of a limit override",
    ),
    "an override is asked for again": (
        "UPDATE guard_overrides SET state = 'asked', decided_ms = NULL",
        "cannot decide or end a limit override twice",
    ),
    "an override is deleted": ("DELETE FROM guard_overrides", "cannot delete a limit override"),
    **{
        f"a host takes an id of {word}: at {cell}": (
            f"{SAMPLE}) VALUES ('{word}:1', 'acme', 'b', {cell}, 1024, 60, {T0}, {T0})",
            "begins with event:, run: or batch: is reserved",
        )
        for word in ("event", "run", "batch")
        for cell in ("'cell-1'", "NULL")
    },
    "a sample is changed": ("UPDATE usage_samples SET interval_s = 1", "S7"),
    "a sample above the floor is deleted": ("DELETE FROM usage_samples", "S4"),
    "a push's quantity is changed": ("UPDATE pushes SET sealed_qty = 1", "S3"),
    "a push's key is changed": ("UPDATE pushes SET key = 'x'", "S3"),
    "a push is deleted": ("DELETE FROM pushes", "S3"),
    "a push is voided without evidence": ("UPDATE pushes SET state = 'voided'", "P5"),
    "an accepted push is opened again": ("UPDATE pushes SET state = 'due'", "P5"),
    "an attempt is deleted": ("DELETE FROM attempts", "P1"),
    "an attempt is rewritten": ("UPDATE attempts SET started_ms = 1", "P1"),
    "a watermark moves back": ("UPDATE buckets SET watermark_ms = watermark_ms - 300000", "invariant 4"),
    "a cursor moves back": ("UPDATE buckets SET cursor = cursor - 1", "invariant 4"),
    "an organisation's watermark moves back": ("UPDATE orgs SET held_watermark_ms = 0", "invariant 4"),
    "a floor passes pending usage": (f"UPDATE orgs SET floor_ms = {T0 + WINDOW_MS}", "S4"),
    "an organisation is deleted": ("DELETE FROM orgs", "cannot delete an organisation"),
    "an assignment begins in sealed windows": (
        f"INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        f"VALUES ('acme', {T0 + WINDOW_MS}, 'other', 'x', 0, 'a', 'b')",
        "P4",
    ),
    "an assignment is rewritten": ("UPDATE assignments SET provider = 'other'", "P4"),
    "an assignment is ended below the watermark": (f"UPDATE assignments SET end_ms = {T0 + WINDOW_MS}", "P4"),
    "a sample says when it arrived": (f"{SAMPLE}, arrival) VALUES ('new', 'acme', 'b', 'c', 1, 1, 0, 0, 1)", "S2"),
    "a sample says that it arrived before all others": (
        f"{SAMPLE}, arrival) VALUES ('new', 'acme', 'b', 'c', 1, 1, 0, 0, -1)",
        "S2",
    ),
    "a sample says that it never arrived": (
        f"{SAMPLE}, arrival) VALUES ('new', 'acme', 'b', 'c', 1, 1, 0, 0, 9223372036854775807)",
        "S2",
    ),
    "an assignment is deleted": ("DELETE FROM assignments", "P4"),
    "a mapping is changed": ("UPDATE mappings SET feature = 'x'", "append-only"),
    "a top-up is deleted": ("DELETE FROM topups", "cannot delete a top-up"),
    "what a top-up charges is changed": ("UPDATE topups SET money_minor = 1", "cannot change the charge"),
    "a top-up that was credited is opened again": (
        "UPDATE topups SET state = 'due', payment_id = NULL, ended_ms = NULL",
        "credit it twice",
    ),
    "a call that may take money is forgotten": ("DELETE FROM topup_attempts", "cannot delete a call"),
    "a call that may take money has two answers": (
        "UPDATE topup_attempts SET outcome = 'not_sent'",
        "answer it twice",
    ),
    "terms of top-ups are deleted": ("DELETE FROM topup_terms", "cannot delete the terms"),
    "a ledger entry is changed": ("UPDATE ledger_entries SET amount_micro = 0", "append-only"),
    "a ledger entry is deleted": ("DELETE FROM ledger_entries", "append-only"),
    "an operator's action is deleted": ("DELETE FROM operator_actions", "append-only"),
    "a withdrawal says other than its sample": (
        f"INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason) "
        f"VALUES ('one', 'acme', {T0 + 1}, 1024, 61, 0, 'a', 'b')",
        "S7",
    ),
}


def test_database_forbidden_statement_is_refused(fleet: Fleet) -> None:
    """Whatever is refused changes nothing, so one database meets them all."""
    said = {situation: refusal(fleet, statement) for situation, (statement, _) in REFUSED.items()}
    assert {name: said[name] for name, (_, rule) in REFUSED.items() if not re.search(rule, said[name])} == {}


def refusal(fleet: Fleet, statement: str) -> str:
    """What the database says of a statement."""
    try:
        fleet.write(statement)
    except DBAPIError as error:
        return str(error)
    return "it was taken"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_database_replaced_row_calls_delete_guard_on_sqlite(fleet: Fleet) -> None:
    """`INSERT OR REPLACE` deletes a row, and must not be a way to change one."""
    kept = sorted({one.table for one in GUARDS if one.event == "DELETE"} | {"pushes", "attempts"})
    filled = [table for table in kept if fleet.one(f"SELECT COUNT(*) FROM {table}")]
    assert {"attempts", "ledger_entries", "ledger_rates", "operator_actions", "orgs", "pushes"} <= set(filled)
    said = {table: refusal(fleet, f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}") for table in filled}
    assert said.pop("assignments", "cannot start").count("cannot start") == 1, "its guard of an insert comes first"
    assert {table: text for table, text in said.items() if "cannot delete" not in text} == {}


def test_database_duplicate_push_is_refused(fleet: Fleet) -> None:
    columns = "window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, sealed_at_ms, "
    columns += "seal_id, state, due_at_ms"
    with pytest.raises(DBAPIError, match=r"(?i)unique"):
        fleet.write(f"INSERT INTO pushes ({columns}) SELECT {columns} FROM pushes")


def test_database_customer_of_another_org_is_refused(fleet: Fleet) -> None:
    with pytest.raises(DBAPIError, match="P4"):
        fleet.write(
            "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
            "VALUES ('globex', 0, 'embedded', 'acme', 0, 'a', 'b')"
        )


def test_database_sandbox_moved_to_another_cell_gets_halt(fleet: Fleet) -> None:
    assert fleet.one("SELECT COUNT(*) FROM halts") == 1
    fleet.write("UPDATE sandboxes SET cell_id = 'cell-2'")
    assert fleet.rows("SELECT cell_id, acked_at_ms IS NULL FROM halts ORDER BY cell_id")[1][0] == "cell-2"


def test_database_halted_org_gets_halt_for_its_cells(fleet: Fleet) -> None:
    """Also one that comes halted, such as out of a backup, to sandboxes that are there."""
    fleet.write("UPDATE orgs SET is_halted = true, halted_at = 77 WHERE org_id = 'acme'")
    fleet.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('c', 'late', 'cell-1', 'running')")
    fleet.write("INSERT INTO orgs (org_id, is_halted, halted_at) VALUES ('late', true, 78)")
    told = fleet.rows(
        "SELECT org_id, cell_id FROM halts WHERE halted_at = due_at_ms AND halted_at IN (77, 78) ORDER BY 1"
    )
    assert [tuple(row) for row in told] == [("acme", "cell-1"), ("late", "cell-1")]
    fleet.write("UPDATE orgs SET is_halted = false, halted_at = NULL")
    assert fleet.one("SELECT COUNT(*) FROM halts WHERE halted_at IS NULL") == 0, "who goes on is no halt"


def test_database_sample_above_floor_cannot_be_deleted(engine: sa.Engine) -> None:
    """PostgreSQL asks once a statement: one sample that may not go keeps all of it there."""
    fleet = Fleet(engine)
    fleet.assign("acme")
    for number, name in enumerate(("below", "above")):
        fleet.sample("acme", T0 + number * WINDOW_MS, sample_id=name)
    fleet.tick_windows(3)
    fleet.write(f"UPDATE orgs SET floor_ms = {T0 + WINDOW_MS}")
    fleet.sample("nobody", T0, sample_id="of nobody")
    fleet.write(f"{SAMPLE}) VALUES ('timeless', 'acme', 'b', 'c', 1024, 60, NULL, {T0})")
    for kept in ("above", "of nobody", "timeless"):
        with pytest.raises(DBAPIError, match="S4"):
            fleet.write(f"DELETE FROM usage_samples WHERE id IN ('below', '{kept}')")
    fleet.write("DELETE FROM usage_samples WHERE id = 'below'")
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 3


def test_database_truncate_of_billing_tables_is_refused(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
    refused = set()
    for table in tables:
        with postgres.connect() as connection:
            try:
                connection.execute(sa.text(f"TRUNCATE {table}"))
            except DBAPIError as error:
                assert f"cannot truncate the table {table}" in str(error)
                refused.add(table)
            connection.rollback()
    left = set(tables) - refused - {"alembic_version"}
    never_deleted = {guard.table for guard in GUARDS if guard.event == "DELETE"}
    assert {"ledger_entries", "action_chain"} < never_deleted
    assert not left & (never_deleted | {"pushes", "attempts", "usage_samples", "voids", "operator_actions", "buckets"})


NOT_MILLISECONDS = {"us": 1_000, "ns": 1_000_000}


@pytest.mark.parametrize("unit", NOT_MILLISECONDS)
@pytest.mark.parametrize("came_in", ["alike", "NULL"])
def test_database_sample_time_in_micro_or_nanoseconds_is_quarantined(
    engine: sa.Engine, unit: str, came_in: str
) -> None:
    """Whenever they say that they came in: they would be samples of the far future, never billed and never shown."""
    fleet = Fleet(engine)
    ts = T0 * NOT_MILLISECONDS[unit]
    fleet.write(f"{SAMPLE}) VALUES ('u', 'acme', 'b', 'c', 1024, 60, {ts}, {'NULL' if came_in == 'NULL' else ts})")
    assert fleet.one("SELECT problem FROM usage_samples") == "ts_not_milliseconds"


FIRST = "('one', 'acme', 'box', 'cell-1', 1024, 60, 1700000000000, 1700000000000)"
OTHER = "('one', 'acme', 'box', 'cell-1', 1024, 61, 1600000000000, 1700000000001)"
INSERTS = {"plain": ("INSERT", ""), "replace": ("INSERT OR REPLACE", ""), "ignore": ("INSERT OR IGNORE", "")}
INSERTS |= {"nothing": ("INSERT", "ON CONFLICT (id) DO NOTHING"), "fail": ("INSERT OR FAIL", "")}
INSERTS |= {"update": ("INSERT", "ON CONFLICT (id) DO UPDATE SET interval_s = excluded.interval_s")}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", INSERTS)
def test_database_second_sample_with_same_id_is_ignored_on_sqlite(engine: sa.Engine, how: str) -> None:
    """S7, whichever INSERT a host writes: the first one stays as it is, with its arrival; the other rows go in."""
    fleet, (verb, ending) = Fleet(engine), INSERTS[how]
    insert = f"{SAMPLE}) VALUES".replace("INSERT", verb, 1)
    fleet.write(f"{SAMPLE}) VALUES {FIRST}")
    all_of_it = "SELECT * FROM usage_samples WHERE id = 'one'"
    before = fleet.rows(all_of_it)
    fleet.write(f"{insert} {FIRST} {ending}")
    assert fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 0, "it says the same"
    for _ in range(2):
        fleet.write(f"{insert} {OTHER}, {OTHER.replace('one', f'new-{_}')} {ending}")
    assert fleet.rows(all_of_it) == before
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 3
    kept = fleet.rows("SELECT sample_id, source, seen_ms FROM sample_conflicts")
    assert kept == [("one", "INSERT", 1_700_000_000_001)], "once, however often it is said"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_database_replaced_sample_of_another_window_is_not_billed_twice(engine: sa.Engine) -> None:
    """SQLite asks no DELETE guard for OR REPLACE: the window that had the sample stayed billed, unseen."""
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + 1, sample_id="one")
    fleet.tick_windows(2)
    moved = f"('one', 'acme', 'box', 'cell-1', 1024, 60, {T0 + WINDOW_MS + 1}, {fleet.clock.at_ms})"
    fleet.write(f"{SAMPLE.replace('INSERT', 'INSERT OR REPLACE')}) VALUES {moved}")
    report = fleet.tick_windows(2)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE state = 'accepted'") == 60
    assert report.left.quarantined == {"id_conflict": 1}
