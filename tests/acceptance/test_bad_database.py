"""A database that is missing, bare, newer, read-only, locked, full or broken: one clear line, nothing half-done."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from drawdown.cli import app
from drawdown.schema import database
from drawdown.schema.database import connect
from tests.acceptance.commands import drawdown, must
from tests.acceptance.tables import billed_exactly, number
from tests.world import T0, Fleet

AT = str(T0 + 3_600_000)
CSV = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\nlate,acme,box,cell-1,1024,5,2026-01-01T00:00:09Z\n"
WRITING = (("tick",), ("import", "usage.csv"), ("org", "assign", "new", "--new"), ("ledger", "grant", "acme", "5"))
READING = (("status",), ("org", "list"), ("feature", "list"), ("push", "list", "--state", "accepted"), ("verify",))
IN_ALL = {("acme", T0): 65, ("bolt", T0): 30}


@pytest.fixture
def fleet(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Two organisations with something to bill; a file with one sample more lies in the working directory."""
    made = Fleet(engine)
    made.assign("acme", "bolt", from_ms=T0)
    made.sample("acme", T0 + 1)
    made.sample("bolt", T0 + 2, 30)
    (tmp_path / "usage.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    engine.dispose()
    return made


def _here(url: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command in the working directory; returns its exit status and what it said on stderr."""
    done = drawdown(url, *arguments, at=AT, cwd=Path.cwd())
    return done.status, done.err


def _refused(url: str, commands: Sequence[Sequence[str]], status: int, words: str) -> None:
    """Each command ends with this status and one line that holds these words."""
    for arguments in commands:
        code, err = _here(url, arguments)
        assert (code, err.count("\n")) == (status, 1), (arguments, code, err)
        assert err.startswith("drawdown: ") and words in err, (arguments, err)


def _settles(url: str, expected: dict[tuple[str, int], int] = IN_ALL) -> None:
    """Once all is well again, everything is billed exactly."""
    must(url, "import", str(Path("usage.csv").absolute()), at=AT)
    must(url, "tick", at=AT)
    billed_exactly(url, expected)
    must(url, "verify", at=AT)


@pytest.mark.both_databases
def test_missing_database_is_refused_with_init_hint(fleet: Fleet, database_url: str) -> None:
    url = sa.make_url(database_url)
    missing = url.set(database=f"{url.database}-none").render_as_string(hide_password=False)
    _refused(missing, (*WRITING, *READING), 1, "`drawdown init`")
    assert not Path(f"{url.database}-none").exists()


def test_unmigrated_database_is_refused_with_init_hint(fleet: Fleet, database_url: str) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    _refused(database_url, (*WRITING, *READING), 1, "run `drawdown init`")


def test_database_newer_than_program_is_refused(fleet: Fleet, database_url: str) -> None:
    head = fleet.one("SELECT version_num FROM alembic_version")
    fleet.write("UPDATE alembic_version SET version_num = '9999'")
    _refused(database_url, (*WRITING, *READING, ("init",)), 1, "schema 9999, newer than this program's")
    fleet.write("UPDATE alembic_version SET version_num = :head", {"head": head})
    assert fleet.one("SELECT COUNT(*) FROM ticks") == 0
    _settles(database_url)


def _each_connection(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Have every connection of the command line begin with these."""

    def made(url: str, *given: Any) -> sa.Engine:
        engine = connect(url, *given)

        @sa.event.listens_for(engine, "connect")
        def _first(connection: sqlite3.Connection, _record: object) -> None:
            for statement in statements:
                connection.execute(statement)

        return engine

    monkeypatch.setattr(app, "connect", made)


@pytest.mark.both_databases
def test_read_only_database_refuses_writes_and_allows_reads(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if fleet.engine.dialect.name == "sqlite":
            _each_connection(patch, "PRAGMA query_only = ON")  # what a read-only file is, also where we are root
        else:
            fleet.write(f'ALTER DATABASE "{sa.make_url(database_url).database}" SET default_transaction_read_only = on')
            fleet.engine.dispose()
        _refused(database_url, WRITING, 1, "the database is read-only")
        for arguments in READING:
            assert _here(database_url, arguments) == (75 if arguments == ("status",) else 0, ""), "no tick has run yet"
    if fleet.engine.dialect.name == "postgresql":
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f'ALTER DATABASE "{connection.info.dbname}" RESET default_transaction_read_only')
    _settles(database_url)


@pytest.mark.skipif(os.geteuid() == 0, reason="file modes do not bind root")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_database_file_without_permission_is_refused(fleet: Fleet, database_url: str) -> None:
    file = Path(str(sa.make_url(database_url).database))
    for mode, words in ((0o444, "read-only"), (0o000, "cannot be opened")):
        file.chmod(mode)
        _refused(database_url, WRITING, 1, words)
    file.chmod(0o644)
    _settles(database_url)


@contextmanager
def _locked(url: str) -> Iterator[None]:
    """Another program holds what every writer needs."""
    if url.startswith("sqlite"):
        with sqlite3.connect(str(sa.make_url(url).database), isolation_level=None) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()
        connection.close()
        return
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE buckets, ticks, usage_samples, ledger_accounts IN EXCLUSIVE MODE")
        yield


@pytest.mark.both_databases
def test_locked_database_is_retryable_for_writes_and_readable(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SQLITE_BUSY_S", 0.2)
    monkeypatch.setattr(database, "PG_SETTINGS", (*database.PG_SETTINGS, "lock_timeout=200ms"))
    with _locked(database_url):
        _refused(database_url, WRITING, 75, "Try again")
        for arguments in READING:
            assert _here(database_url, arguments) == (75 if arguments == ("status",) else 0, ""), "no tick has run yet"
    assert number(database_url, "SELECT COUNT(*) FROM ticks") == 0
    _settles(database_url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_import_on_full_disk_is_refused_and_does_not_store_samples(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleet.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with monkeypatch.context() as patch:
        _each_connection(patch, f"PRAGMA max_page_count = {pages}")
        rows = "".join(f"n{n},acme,{'x' * 200},cell-1,1024,5,2026-01-01T00:00:09Z\n" for n in range(2000))
        Path("many.csv").write_text(CSV.splitlines()[0] + "\n" + rows)
        _refused(database_url, (("import", "many.csv"),), 1, "disk is full")
    assert number(database_url, "SELECT COUNT(*) FROM usage_samples") == 2
    _settles(database_url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_file_not_sqlite_is_refused(fleet: Fleet, database_url: str) -> None:
    Path("text.db").write_text("This is a text. " * 1000)
    broken = Path(str(sa.make_url(database_url).database)).read_bytes()
    Path("broken.db").write_bytes(broken[:100] + os.urandom(len(broken) - 100))
    for name in ("text.db", "broken.db"):
        _refused(f"sqlite:///{name}", (*WRITING, *READING), 1, "not a valid SQLite database")


def test_postgresql_connection_sets_timeouts_and_keepalives() -> None:
    """A NAT or a pooler forgets a connection without a word; by default, a program waits for it for two hours."""
    engine, found = connect("postgresql://u@127.0.0.1:1/d"), dict[str, Any]()

    def note(_dialect: object, _record: object, _words: object, given: dict[str, Any]) -> None:
        found.update(given)
        raise ConnectionError

    sa.event.listen(engine, "do_connect", note)
    with pytest.raises(ConnectionError):
        engine.connect()
    waits = ("connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
    assert [found.get(name) for name in waits] == [10, 30_000, 30, 10, 3]
    psycopg.conninfo.make_conninfo(**{name: found[name] for name in waits})  # libpq knows each of them


def test_init_killed_before_last_step_is_completed_by_next_init(engine: sa.Engine, database_url: str) -> None:
    engine.dispose()  # the tables are there, the default mapping and rates are not
    for command in (("feature", "list"), ("tick",), ("verify",)):
        must(database_url, *command, at=AT)
    must(database_url, "init", at=AT)
    assert len(must(database_url, "feature", "list", at=AT)["mapping"]) == 6
    must(database_url, "init", at=AT)
    assert number(database_url, "SELECT COUNT(*) FROM mappings") == 6


@pytest.mark.both_databases
def test_wrong_database_url_reports_its_location_without_password(fleet: Fleet, database_url: str) -> None:
    """Whoever meant another database is told which one this is, before anything else that could be done."""
    fleet.write("DROP TABLE alembic_version")
    Path("text.db").write_text("This is a text. " * 1000)
    url = sa.make_url(database_url)
    place = f"/{url.database}:" if url.get_backend_name() == "postgresql" else f"{Path(str(url.database)).resolve()}:"
    told = "set DRAWDOWN_DATABASE_URL. Otherwise"
    for wrong, where in ((database_url, place), ("sqlite:///text.db", f"drawdown: {Path('text.db').absolute()}:")):
        _refused(wrong, (("status",), ("tick",)), 1, told)
        (_, err) = _here(wrong, ("status",))
        assert where in err and (url.password or "no password") not in err, err
    (_, err) = _here("sqlite:///none.db", ("status",))
    assert f"{Path('none.db').absolute()} does not exist." in err and told in err


@pytest.mark.both_databases
def test_database_of_another_program_is_refused_by_init(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        for name in ("users", "invoices", "alembic_version", "zebras"):
            connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER, version_num TEXT)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (1, 'a1b2c3')")
    engine.dispose()
    words = "has tables of another program (alembic_version, invoices, users and 1 more)"
    _refused(database_url, (("init",),), 1, words)
    with engine.connect() as connection:
        assert len(sa.inspect(connection).get_table_names()) == 4
    engine.dispose()
