"""PostgreSQL's roles: what each may do works, what it may not is refused, on connections of logins of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.events.envelope import UsageEvent
from drawdown.schema import roles
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import Refused
from drawdown.schema.migrate import upgrade
from drawdown.schema.roles import UNREAD
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import DAY_MS, MAX_MEMORY_MB, MAX_METER
from drawdown.worker.sources.events.store import names_of, take
from drawdown.worker.usage.prune import fold, prune
from drawdown.worker.verify.verify import verify
from tests.acceptance.commands import PROJECT, drawdown
from tests.conftest import _new_database
from tests.world import T0, Fleet

LOGINS = {
    "host": ("drawdown_cell_cell-1", roles.HOST),
    "other host": ("drawdown_cell_cell-2", roles.HOST),
    "host of no cell": ("drawdown_cell_", roles.HOST),
    "reader": ("t_reader", roles.READ),
    "worker": ("t_worker", roles.WORKER),
}
As = Callable[[str], sa.Engine]


def prepare(owner: sa.Engine) -> Fleet:
    """An organisation that is halted, a sandbox of it in each of two cells, and the logins."""
    fleet = Fleet(owner)
    fleet.assign("acme")
    fleet.write(
        "INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://a.example'), ('cell-2', 'http://b.example')"
    )
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) "
        "VALUES ('one', 'acme', 'cell-1', 'running'), ('two', 'acme', 'cell-2', 'running')"
    )
    fleet.sample("acme", T0 + 1, sample_id="there")
    fleet.write(f"UPDATE orgs SET is_halted = true, halted_at = {T0} WHERE org_id = 'acme'")
    roles.apply(owner)
    known = {str(one) for (one,) in fleet.rows("SELECT rolname FROM pg_roles")}
    for name, role in LOGINS.values():
        if name not in known:  # they are the server's, and databases come and go
            fleet.write(f'CREATE ROLE "{name}" LOGIN IN ROLE {role}')
    return fleet


def as_login(owner: sa.Engine, who: str) -> sa.Engine:
    return connect(owner.url.set(username=LOGINS[who][0]).render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def shared(postgres_server: str) -> Iterator[sa.Engine]:
    """One for all that is rolled back."""
    owner = connect(_new_database(postgres_server, f"roles_{os.getpid()}"))
    upgrade(owner)
    prepare(owner)
    yield owner
    owner.dispose()


@pytest.fixture
def fleet(postgres: sa.Engine) -> Fleet:
    """A database of its own, whose tables are its owner's."""
    return prepare(postgres)


@pytest.fixture
def login(postgres: sa.Engine, fleet: Fleet) -> Iterator[As]:
    """A connection to it for each login."""
    made: list[sa.Engine] = []

    def one(who: str) -> sa.Engine:
        made.append(as_login(postgres, who))
        return made[-1]

    yield one
    for engine in made:
        engine.dispose()


def do(engine: sa.Engine, statement: str, *, rollback: bool = False) -> int:
    return write(engine, lambda c: c.exec_driver_sql(statement).rowcount, rollback=rollback)


TABLES = sorted(metadata.tables)
SAMPLE = "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts"
SANDBOX = "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES"
ALLOWED = {
    "a host inserts a sample": ("host", f"{SAMPLE}) VALUES ('new', 'acme', 'one', 'cell-1', 1024, 60, {T0})", 1),
    "a host inserts it again": (
        "host",
        f"{SAMPLE}) VALUES ('there', 'acme', 'one', 'cell-1', 1024, 60, {T0}) ON CONFLICT DO NOTHING",
        0,
    ),
    "a host inserts a bad sample, for the quarantine": (
        "host",
        f"{SAMPLE}, cpu_count) VALUES ('bad', NULL, 'one', NULL, -1, 60.5, {T0}, 2)",
        1,
    ),
    "a host sees its own sandboxes alone": ("host", "SELECT * FROM sandboxes", 1),
    "a host adds a sandbox": ("host", f"{SANDBOX} ('three', 'acme', 'cell-1', 'running')", 1),
    "a host keeps its sandbox": ("host", "UPDATE sandboxes SET state = 'hibernated'", 1),
    "a host adds or keeps one": (
        "host",
        f"{SANDBOX} ('one', 'acme', 'cell-1', 'stopped') ON CONFLICT (sandbox_id) DO UPDATE SET state = EXCLUDED.state",
        1,
    ),
    "a host lets its sandbox go": ("host", "DELETE FROM sandboxes", 1),
    "a host of no cell has no sandboxes": ("host of no cell", "DELETE FROM sandboxes", 0),
    "a host does not reach another's sandbox": (
        "host",
        "UPDATE sandboxes SET state = 'stopped' WHERE sandbox_id = 'two'",
        0,
    ),
    "a reader sees all sandboxes": ("reader", "SELECT * FROM sandboxes", 2),
    "a worker stops all top-ups": ("worker", "LOCK TABLE topup_switch IN EXCLUSIVE MODE", -1),
    "a reader sees lines of the ledger": ("reader", "SELECT * FROM ledger_lines", 0),
    "a worker keeps all sandboxes": ("worker", "UPDATE sandboxes SET state = 'stopped'", 2),
    **{f"a reader reads {name}": ("reader", f"SELECT * FROM {name}", -1) for name in TABLES if name not in UNREAD},
}  # fmt: skip
REFUSED = {
    **{f"a host reads {name}": ("host", f"SELECT * FROM {name}") for name in TABLES if name != "sandboxes"},
    **{f"a reader reads {name}": ("reader", f"SELECT name FROM {name}") for name in UNREAD},
    **{f"a reader deletes from {name}": ("reader", f"DELETE FROM {name} WHERE false") for name in TABLES},
    **{f"a host truncates {name}": ("host", f"TRUNCATE {name}") for name in ("sandboxes", "usage_samples")},
    "a host says when a sample arrived": (
        "host",
        f"{SAMPLE}, arrival) VALUES ('new', 'acme', 'one', 'cell-1', 1024, 60, {T0}, 1)",
    ),
    "a host says when a sample came in": (
        "host",
        f"{SAMPLE}, ingested_at) VALUES ('new', 'acme', 'one', 'cell-1', 1024, 60, {T0}, 1)",
    ),
    "a host changes a sample": ("host", "UPDATE usage_samples SET interval_s = 1"),
    "a host deletes a sample": ("host", "DELETE FROM usage_samples"),
    "a host withdraws a sample": (
        "host",
        f"INSERT INTO withdrawals VALUES ('there', 'acme', {T0 + 1}, 1024, 60, 0, 'a', 'b')",
    ),
    "a host resumes an organisation": ("host", "UPDATE orgs SET is_halted = false, halted_at = NULL"),
    "a host ends a halt": ("host", "DELETE FROM halts"),
    "a host makes a halt": ("host", "INSERT INTO halts (org_id, cell_id, halted_at) VALUES ('a', 'b', 1)"),
    "a host names a cell": ("host", "INSERT INTO cells VALUES ('cell-9', 'http://127.0.0.1:9')"),
    "a host gives credit": ("host", "UPDATE ledger_accounts SET balance_micro = 1"),
    "a host holds up all charges and voids": ("host", "SELECT provider FROM provider_states FOR SHARE"),
    "a host holds up all top-ups": ("host", "LOCK TABLE topup_switch IN ACCESS SHARE MODE"),
    "a host adds another cell's sandbox": ("host", f"{SANDBOX} ('three', 'acme', 'cell-2', 'running')"),
    "a host moves its sandbox to another cell": ("host", "UPDATE sandboxes SET cell_id = 'cell-2'"),
    "a host takes another cell's sandbox": (
        "host",
        f"{SANDBOX} ('two', 'acme', 'cell-1', 'stopped') ON CONFLICT (sandbox_id) DO UPDATE SET cell_id = 'cell-1'",
    ),
    "a host of no cell adds a sandbox": ("host of no cell", f"{SANDBOX} ('three', 'acme', 'cell-1', 'running')"),
    "a host puts the halts' function behind a table of its own": (
        "host",
        "CREATE TEMP TABLE mine (org_id text, cell_id text, state text); "
        "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION halts_on_sandbox()",
    ),
    "a host becomes a worker": ("host", f"SET ROLE {roles.WORKER}"),
    "a reader inserts a sample": ("reader", f"{SAMPLE}) VALUES ('new', 'acme', 'one', 'cell-1', 1024, 60, {T0})"),
    "a reader holds up all charges and voids": ("reader", "SELECT provider FROM provider_states FOR SHARE"),
    "a reader holds up all top-ups": ("reader", "LOCK TABLE topup_switch IN ROW SHARE MODE"),
    "a reader changes an organisation": ("reader", "UPDATE orgs SET is_halted = false, halted_at = NULL"),
    "a worker changes a sample": ("worker", "UPDATE usage_samples SET interval_s = 1"),
    "a worker deletes a void": ("worker", "DELETE FROM voids"),
    "a worker deletes what was folded": ("worker", "DELETE FROM folded_pushes"),
    "a worker deletes what was done": ("worker", "DELETE FROM operator_actions"),
    "a worker switches a guard off": ("worker", "ALTER TABLE pushes DISABLE TRIGGER pushes_frozen"),
    "a worker switches all of them off": ("worker", "SET session_replication_role = 'replica'"),
    "a worker takes hosts' bounds away": ("worker", "DROP POLICY sandboxes_of_own_cell ON sandboxes"),
    "a worker says what schema it is": ("worker", "UPDATE alembic_version SET version_num = '0001'"),
    "a worker drops a table": ("worker", "DROP TABLE ticks"),
}  # fmt: skip


def test_role_permitted_statements_succeed(shared: sa.Engine) -> None:
    wrong = []
    for login in LOGINS:
        engine = as_login(shared, login)
        for what, (who, statement, rows) in ALLOWED.items():
            if who == login and (found := do(engine, statement, rollback=True)) != rows and rows != -1:
                wrong.append(f"{what}: {found}")
        engine.dispose()
    assert wrong == []


def refused(engine: sa.Engine, statement: str) -> None:
    assert state_of(engine, statement) == "42501", "the right is missing, and nothing else"
    engine.dispose()


def state_of(engine: sa.Engine, statement: str) -> str | None:
    """What PostgreSQL refuses it with."""
    with engine.connect() as connection:  # what was allowed after all is undone
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError as said:
            return getattr(said.orig, "sqlstate", None)
    return None


def test_role_forbidden_statements_are_refused(shared: sa.Engine) -> None:
    wrong = []
    for login in LOGINS:
        engine = as_login(shared, login)
        for what, (who, statement) in REFUSED.items():
            if who == login and (found := state_of(engine, statement)) != "42501":
                wrong.append(f"{what}: {found}")
        engine.dispose()
    assert wrong == []


def test_sandbox_of_halted_org_inserted_by_host_adds_halt(postgres: sa.Engine, login: As) -> None:
    """By triggers that read organisations and write halts, neither of which a host may."""
    do(postgres, "DELETE FROM halts")
    do(login("host"), f"{SANDBOX} ('three', 'acme', 'cell-1', 'running')")
    do(login("other host"), "UPDATE sandboxes SET state = 'hibernated' WHERE sandbox_id = 'two'")
    found = read(postgres, lambda c: c.execute(sa.text("SELECT org_id, cell_id FROM halts ORDER BY cell_id")).all())
    assert [tuple(row) for row in found] == [("acme", "cell-1"), ("acme", "cell-2")]


def test_host_sample_with_meter_size_is_quarantined(fleet: Fleet, login: As) -> None:
    """Neither of one that there is, whose units would be billed, nor of one that an event type will be given."""
    told = UsageEvent("app", "e", "idea", "acme", 5, T0)
    write(fleet.engine, lambda c: take(c, [told], T0 + 1))
    forged = [(MAX_MEMORY_MB + 1, 86_000), (MAX_MEMORY_MB + 2, 1), (MAX_METER, 1)]
    values = ", ".join(
        f"('forged-{cell}-{number}', 'acme', 'event:x', '{cell}', {size}, {seconds}, {T0})"
        for cell in ("events", "runs")
        for number, (size, seconds) in enumerate(forged)
    )
    host = login("host")
    for _ in range(2):
        do(host, f"{SAMPLE}) VALUES {values} ON CONFLICT DO NOTHING")
    kept = "SELECT problem, cell_id FROM usage_samples WHERE memory_mb > 16777216 AND id {} LIKE 'forged-%' ORDER BY id"
    assert fleet.rows(kept.format("")) == [
        ("memory_out_of_bounds", f"a host, of {cell}") for cell in ("events", "runs") for _ in forged
    ]
    assert fleet.rows(kept.format("NOT")) == [(None, "events")], "what the worker told counts"
    assert fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 0
    fleet.write("UPDATE orgs SET is_halted = false, halted_at = NULL")
    assert read(login("reader"), verify).breaches == []


def test_host_sample_with_reserved_id_is_refused(fleet: Fleet, login: As) -> None:
    """Also at the cell that stands for events: an event whose id a host had guessed was in conflict for good."""
    told, host = UsageEvent("app", "e", "idea", "acme", 5, T0), login("host")
    before = fleet.one("SELECT COUNT(*) FROM usage_samples")
    for name in (names_of([told], own=False)[0], "run:guessed:1", "batch:guessed:1"):
        for cell in ("cell-1", "events", "runs"):
            values = f"('{name}', 'acme', 'one', '{cell}', 1024, 60, {T0})"
            with pytest.raises(DBAPIError, match="begins with event:, run: or batch: is reserved"):
                do(host, f"{SAMPLE}) VALUES {values} ON CONFLICT DO NOTHING")
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == before
    answers = write(login("worker"), lambda c: take(c, [told], T0 + 1))
    assert [one.status for one in answers] == ["pending"], "nothing stands in an event's place"
    names = ("events:1", "event", "event;1", "Event:1", "running:1", "batches:1", "a-event:1")
    values = ", ".join(f"('{name}', 'acme', 'one', 'cell-1', 1024, 60, {T0})" for name in names)
    assert do(host, f"{SAMPLE}) VALUES {values}") == len(names), "ids that are only like a reserved one go in"


def test_host_search_path_does_not_divert_halt_trigger(postgres: sa.Engine, login: As) -> None:
    """A table of its own by the name of `halts`, or `orgs`, comes before no other."""
    do(postgres, "DELETE FROM halts")
    host = login("host")
    with host.begin() as connection:
        connection.exec_driver_sql("CREATE TEMP TABLE halts (org_id text, cell_id text, halted_at int8, due_at_ms int)")
        connection.exec_driver_sql("CREATE TEMP TABLE orgs (org_id text, is_halted bool, halted_at int8)")
        connection.exec_driver_sql("SET LOCAL search_path = pg_temp, public")
        connection.exec_driver_sql("INSERT INTO public.sandboxes VALUES ('three', 'acme', 'cell-1', 'running')")
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM halts").scalar_one() == 0
    assert read(postgres, lambda c: c.scalar(sa.text("SELECT COUNT(*) FROM halts"))) == 1


def test_database_functions_search_temporary_tables_last(shared: sa.Engine) -> None:
    own = (
        "SELECT p.proname, p.proconfig FROM pg_proc p WHERE p.pronamespace = current_schema()\\:\\:regnamespace "
        "AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
    )
    found = read(shared, lambda c: c.execute(sa.text(own)).all())
    assert len(found) > 5
    assert [row.proname for row in found if not [one for one in row.proconfig or () if one.endswith("pg_temp")]] == []


def test_init_restores_search_path_of_functions(postgres: sa.Engine) -> None:
    do(postgres, "ALTER FUNCTION never_truncated() RESET search_path")
    upgrade(postgres)
    found = read(
        postgres, lambda c: c.scalar(sa.text("SELECT proconfig FROM pg_proc WHERE proname = 'never_truncated'"))
    )
    assert found == ["search_path=pg_catalog, public, pg_temp"]


def test_worker_temporary_tables_do_not_bypass_delete_guards(fleet: Fleet, login: As) -> None:
    """Tables that a guard asks are shadowed: floors far ahead, and sums for what is deleted."""
    fleet.write("UPDATE orgs SET is_halted = false, halted_at = NULL")
    worker = login("worker")
    fleet.engine = worker
    fleet.tick_windows(3)
    assert fleet.one("SELECT state FROM pushes") == "accepted"
    for deleted in ("pushes", "usage_samples"):
        with worker.connect() as connection:
            for table in TABLES:
                if table != deleted:
                    connection.exec_driver_sql(f"CREATE TEMP TABLE {table} AS SELECT * FROM public.{table}")
            connection.exec_driver_sql("UPDATE pg_temp.orgs SET floor_ms = 9000000000000000")
            connection.exec_driver_sql(
                "INSERT INTO pg_temp.folded_pushes (org_id, day_ms, feature, pushes) "
                "SELECT org_id, window_ms - MOD(window_ms, 86400000), feature, 1 FROM public.pushes"
            )
            with pytest.raises(DBAPIError, match="below its organisation's floor"):
                connection.exec_driver_sql(f"DELETE FROM public.{deleted}")


def test_sandbox_deleted_by_host_can_be_inserted_at_other_cell(login: As) -> None:
    do(login("host"), "DELETE FROM sandboxes WHERE sandbox_id = 'one'")
    assert do(login("other host"), f"{SANDBOX} ('one', 'acme', 'cell-2', 'running')") == 1
    assert do(login("other host"), "SELECT * FROM sandboxes") == 2


def test_id_taken_by_other_host_is_refused_or_skipped(login: As) -> None:
    """Ids are one name space for all cells, as docs/threat-model.md says: use ids that cannot be guessed."""
    host, other = login("host"), login("other host")
    do(host, f"{SANDBOX} ('taken', 'acme', 'cell-1', 'stopped')")
    do(host, f"{SAMPLE}) VALUES ('taken', 'acme', 'one', 'cell-1', 0, 0, {T0})")
    with pytest.raises(DBAPIError) as said:
        do(other, f"{SANDBOX} ('taken', 'acme', 'cell-2', 'running')")
    assert getattr(said.value.orig, "sqlstate", None) == "23505"
    theirs = f"{SAMPLE}) VALUES ('taken', 'acme', 'two', 'cell-2', 1024, 60, {T0}) ON CONFLICT DO NOTHING"
    assert do(other, theirs) == 0


def test_worker_role_ticks_prunes_and_folds_and_reader_verifies(fleet: Fleet, login: As) -> None:
    fleet.write("UPDATE orgs SET is_halted = false, halted_at = NULL")
    fleet.engine = worker = login("worker")
    seen = UsageEvent("app", "e-1", "page.render", "acme", 0, T0)
    assert write(worker, lambda c: take(c, [seen], T0))[0].code == "unmapped"
    fleet.tick_windows(3)
    assert fleet.one("SELECT state FROM pushes") == "accepted"
    assert fleet.cells.received, "the wallet is empty"
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    assert prune(partial(write, worker), T0 + DAY_MS, fleet.by).samples == 2
    assert fleet.rows("SELECT event_id FROM usage_events") == [], "it goes with its sample"
    reader = login("reader")
    found = read(reader, verify)
    assert found.breaches == [] and found.checked["pushes"] == 1
    later = replace(fleet.by, now_ms=T0 + 500 * DAY_MS)
    assert fold(partial(write, worker), T0 + 31 * DAY_MS, later).pushes == 1
    found = read(reader, verify)
    assert found.breaches == [] and found.checked["pushes"] == 0


def test_worker_role_can_use_every_sequence(postgres: sa.Engine, login: As) -> None:
    worker = login("worker")
    sequences = read(
        worker,
        lambda c: c.execute(
            sa.text(
                "SELECT relname, has_sequence_privilege(oid, 'USAGE') FROM pg_class WHERE relkind = 'S' "
                "AND relnamespace = current_schema()::regnamespace".replace(":", "\\:")
            )
        ).all(),
    )
    assert len(sequences) > 5 and [name for name, may in sequences if not may] == []


def test_worker_role_deletes_exactly_from_tables_that_code_deletes_from() -> None:
    code = (PROJECT / layer for layer in ("ledger", "providers", "worker", "server", "cli"))
    files = (path for folder in code for kind in ("*.py", "*.sql") for path in folder.rglob(kind))
    texts = (path.read_text(encoding="utf-8") for path in files)
    found = {name for text in texts for name in re.findall(r"DELETE FROM (\w+)(?![\w.])", text)}
    of_transactions, in_duckdb = {"seal_work", "charges_work"}, {"earlier"}
    assert found - of_transactions - in_duckdb == set(roles.DELETED_FROM)


def test_roles_apply_repeated_revokes_additional_grants(postgres: sa.Engine, login: As) -> None:
    write(
        postgres, lambda c: c.exec_driver_sql(f"GRANT SELECT, INSERT ON ledger_entries, usage_samples TO {roles.HOST}")
    )
    roles.apply(postgres)
    for statement in ("SELECT * FROM ledger_entries", REFUSED["a host says when a sample arrived"][1]):
        refused(login("host"), statement)
    assert do(login("host"), ALLOWED["a host inserts a sample"][1]) == 1


def test_init_roles_printed_script_equals_applied_roles(postgres: sa.Engine) -> None:
    url = postgres.url.render_as_string(hide_password=False)
    printed = drawdown(url, "init", "--roles")
    assert (printed.status, printed.out) == (0, roles.script() + "\n")
    assert read(postgres, lambda c: c.scalar(sa.text("SELECT COUNT(*) FROM pg_policies"))) == 0, "only printed"
    with postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.execute(printed.out)
    assert read(postgres, lambda c: c.scalar(sa.text("SELECT COUNT(*) FROM pg_policies"))) == 2
    made = drawdown(url, "init", "--roles", "--apply", "--json")
    assert (made.status, made.json["roles"]) == (0, ["drawdown_host", "drawdown_read", "drawdown_worker"])


def test_roles_apply_without_ownership_is_refused(login: As) -> None:
    worker = login("worker")
    with pytest.raises(Refused, match="owner of the tables"):
        roles.apply(worker)


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--roles"], "0600"), (["--roles", "--apply"], "0600"), (["--apply"], "--roles")]
)
def test_init_roles_on_sqlite_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = drawdown(f"sqlite:///{tmp_path}/some.db", "init", *arguments)
    assert done.status == 2 and said in done.err
    assert not (tmp_path / "some.db").exists()
