"""`drawdown worker`: who takes part, on which terms, and that each job is done by the function of its command."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa
from procrastinate import App as Engine
from procrastinate import PsycopgConnector, exceptions, jobs

from drawdown.cli import cluster
from drawdown.cli.app import App
from drawdown.cli.cluster import Jobs, PutBack, Ticking, connector, cron, take_over, ticking, watching
from drawdown.cli.main import run
from drawdown.cli.nouns import worker as commands
from drawdown.cli.processes import Stopping
from drawdown.cli.settings import Settings
from drawdown.schema import roles
from drawdown.schema.clock import FixedClock, SystemClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import DatabaseNotReady, DrawdownError, Exit, Refused, UsageError
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.customers import overview
from drawdown.server.metrics import render
from drawdown.worker.access.people import Person
from drawdown.worker.cluster import install
from drawdown.worker.cluster.install import SCHEMA
from drawdown.worker.cluster.lists import read_cluster, worker_lines
from drawdown.worker.cluster.membership import LIVES_S, Book, Member, RequestedTerms, Terms, decide, take_part
from tests.conftest import _new_database
from tests.integration.verifying import verified
from tests.simulation.mutants_remote import Patches
from tests.world import T0, Fleet

TERMS = Terms(2, 300, None, ("embedded",))
ANYTHING = RequestedTerms(None, None, None, ("embedded",))
A, B = Member("a", "0.1.0"), Member("b", "0.1.0")
JOBS = "SELECT task_name, status::text, lock FROM drawdown_cluster.procrastinate_jobs ORDER BY id"
Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def template(postgres_server: str, migrated_postgres: str) -> Iterator[str]:
    """A migrated database with the schema for workers, to copy."""
    made = connect(_new_database(postgres_server, "clustered", migrated_postgres))
    assert install.install(made)
    made.dispose()
    yield "clustered"


@pytest.fixture
def clustered(postgres_server: str, template: str, tmp_path: Path) -> Iterator[sa.Engine]:
    made = connect(_new_database(postgres_server, f"cluster_{tmp_path.name[-40:]}", template))
    yield made
    made.dispose()


def jobs_of(clustered: sa.Engine, folder: Path, member: Member = A, terms: Terms = TERMS) -> Jobs:
    url = clustered.url.render_as_string(hide_password=False)
    app = App(Settings(database_url=url, state_dir=str(folder)), FixedClock(T0 + 600_000))
    return Jobs(app, terms, member, Stopping())


def rows(clustered: sa.Engine, text: str) -> list[tuple[object, ...]]:
    return read(clustered, lambda c: [tuple(row) for row in c.execute(sa.text(text))])


def change(clustered: sa.Engine, text: str) -> None:
    """The engine's triggers name its tables without their schema."""
    write(clustered, lambda c: c.execute(sa.text(f"SET LOCAL search_path TO {SCHEMA}, public; {text}")))


def scheduled(engine: Engine, moment: float) -> None:
    """What each worker's engine does when the clock comes round, at this moment."""
    from procrastinate.periodic import PeriodicDeferrer

    async def defer() -> None:
        async with engine.open_async():
            deferrer = PeriodicDeferrer(registry=engine.periodic_registry, **engine.periodic_defaults)
            await deferrer.defer_jobs(deferrer.get_previous_tasks(moment))

    asyncio.run(defer())


# Who takes part


@pytest.mark.parametrize("agreed", [None, TERMS])
def test_cluster_first_worker_sets_terms(agreed: Terms | None) -> None:
    wanted = RequestedTerms(8, 60, "embedded", ("embedded", "autumn"))
    assert decide(wanted, agreed, []) == Terms(8, 60, "embedded", ("autumn", "embedded"))
    assert decide(ANYTHING, None, []) == Terms(4, 300, None, ("embedded",))
    assert decide(ANYTHING, replace(TERMS, new_org_provider="embedded"), []).new_org_provider == "embedded"
    none = replace(ANYTHING, new_org_provider="none")
    assert decide(none, replace(TERMS, new_org_provider="embedded"), []).new_org_provider is None


def test_cluster_later_worker_with_different_terms_is_refused() -> None:
    assert decide(ANYTHING, TERMS, ["b"]) == TERMS
    for other, says in (
        (replace(ANYTHING, shards=3), "shards: 2 there, 3 here"),
        (replace(ANYTHING, every_s=60), "every_s: 300 there, 60 here"),
        (replace(ANYTHING, new_org_provider="embedded"), "new_org_provider: none there, embedded here"),
        (replace(ANYTHING, providers=("autumn", "embedded")), "providers: embedded there, autumn, embedded here"),
    ):
        with pytest.raises(Refused, match=says):
            decide(other, TERMS, ["b"])
    with pytest.raises(Refused, match="b, c, d and 2 more"):
        decide(replace(ANYTHING, shards=3), TERMS, ["b", "c", "d", "e", "f"])


def test_cluster_terms_of_dead_worker_are_replaced(clustered: sa.Engine) -> None:
    other = replace(ANYTHING, shards=3)
    assert write(clustered, lambda c: take_part(c, A, replace(ANYTHING, shards=2))).living == 1
    assert write(clustered, lambda c: take_part(c, B, ANYTHING)).living == 2
    with pytest.raises(Refused, match="shards: 2 there, 3 here"):
        write(clustered, lambda c: take_part(c, B, other))
    change(clustered, f"UPDATE drawdown_cluster.workers SET seen = seen - interval '{LIVES_S} s' WHERE name = 'a'")
    assert write(clustered, lambda c: take_part(c, B, other)).terms.shards == 3
    with pytest.raises(Refused):  # the first awakes
        write(clustered, lambda c: take_part(c, A, replace(ANYTHING, shards=2)))
    Book(clustered, B).leave()
    assert write(clustered, lambda c: take_part(c, A, replace(ANYTHING, shards=2))).living == 1


def test_cluster_terms_of_different_version_hold_while_worker_lives(clustered: sa.Engine) -> None:
    agreed = "SELECT terms FROM drawdown_cluster.agreed"
    for theirs in ({"shards": 4, "every_s": 300, "lanes": 2}, {**asdict(TERMS), "lanes": 2}, {"shards": 4}):
        write(clustered, lambda c: take_part(c, A, ANYTHING))
        told = {"terms": json.dumps(theirs)}
        set_terms = sa.text("UPDATE drawdown_cluster.agreed SET terms = CAST(:terms AS jsonb)").bindparams(**told)
        write(clustered, lambda c, change=set_terms: c.execute(change))  # type: ignore[misc]
        with pytest.raises(Refused, match=r"\(a\) have terms of another version of Drawdown\. Install"):
            write(clustered, lambda c: take_part(c, B, ANYTHING))
        assert rows(clustered, agreed)[0][0] == json.loads(told["terms"])
        change(clustered, "UPDATE drawdown_cluster.workers SET seen = now() - interval '1 hour'")
        assert write(clustered, lambda c: take_part(c, B, ANYTHING)).terms == Terms(4, 300, None, ("embedded",))
        change(clustered, "DELETE FROM drawdown_cluster.workers")


def test_cluster_jobs_of_different_shard_counts_bill_usage_once(clustered: sa.Engine, tmp_path: Path) -> None:
    """The number changed while jobs waited: what they say overlaps with what ours say."""
    fleet = Fleet(clustered)
    orgs = [f"org-{number}" for number in range(12)]
    fleet.assign(*orgs, from_ms=T0)
    for org in orgs:
        fleet.sample(org, T0)
    work = jobs_of(clustered, tmp_path)
    for number, shard in enumerate(("1/3", "0/2", "2/3", "1/2", "0/3")):
        deferred(clustered, "tick", f"tick {shard}", {"timestamp": number, "shard": shard})
    with at_work(work):
        soon(lambda: not [row for row in rows(clustered, JOBS) if "/3" in str(row[2])], "jobs of three are done", 120)
        soon(lambda: not [row for row in rows(clustered, JOBS) if row[0] == "tick"], "and of two", 120)
    assert rows(clustered, "SELECT state, COUNT(*), COUNT(DISTINCT org_id) FROM pushes GROUP BY state") == [
        ("accepted", len(orgs), len(orgs))
    ]
    assert verified(fleet).breaches == []


def test_cluster_concurrent_first_workers_agree_on_single_terms(clustered: sa.Engine) -> None:
    agreed: list[int | str] = []

    def come(member: Member, shards: int) -> None:
        try:
            agreed.append(
                write(clustered, lambda c: take_part(c, member, replace(ANYTHING, shards=shards))).terms.shards
            )
        except Refused:
            agreed.append("refused")

    threads = [threading.Thread(target=come, args=(Member(str(n), ""), n)) for n in (1, 2, 3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert agreed.count("refused") == 2


# The schema


def test_cluster_schema_is_installed_once_and_newer_is_refused(clustered: sa.Engine) -> None:
    assert install.install(clustered) is False
    install.require_installed(clustered)
    change(clustered, "DELETE FROM drawdown_cluster.migrations WHERE name LIKE '03.04%'")
    with pytest.raises(DatabaseNotReady, match=r"lacks the migration 03\.04\..*init --cluster"):
        install.require_installed(clustered)
    change(clustered, "INSERT INTO drawdown_cluster.migrations VALUES ('99.01.00_01_later')")
    for asked in (install.require_installed, install.install):
        with pytest.raises(DatabaseNotReady, match=r"99\.01.*Upgrade Drawdown"):
            asked(clustered)


def test_cluster_newer_engine_migrations_are_installed(
    clustered: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(str(files(install.ENGINE).joinpath("sql")), tmp_path / "sql")
    step = "CREATE FUNCTION procrastinate_next() RETURNS int LANGUAGE sql AS 'SELECT 7'; CREATE TABLE other (a int);"
    (tmp_path / "sql/migrations/99.00.00_01_pre_next.sql").write_text(step)
    monkeypatch.setattr(install, "files", lambda _name: tmp_path)
    with pytest.raises(DatabaseNotReady, match=r"lacks the migration 99\.00\.00_01_pre_next. Run"):
        install.require_installed(clustered)
    assert [install.install(clustered), install.install(clustered)] == [True, False]
    assert (
        rows(clustered, "SELECT drawdown_cluster.procrastinate_next(), COUNT(*) FROM drawdown_cluster.other")[0][0] == 7
    )
    install.require_installed(clustered)


def test_cluster_worker_and_reader_roles_are_limited(clustered: sa.Engine, tmp_path: Path) -> None:
    roles.apply(clustered)
    with clustered.begin() as connection:
        for role, name in ((roles.WORKER, "t_cluster_worker"), (roles.READ, "t_cluster_reader")):
            if connection.execute(sa.text(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")).first() is None:
                connection.execute(sa.text(f"CREATE ROLE {name} LOGIN IN ROLE {role}"))
    worker, reader = (
        connect(clustered.url.set(username=name).render_as_string(hide_password=False))
        for name in ("t_cluster_worker", "t_cluster_reader")
    )
    write(worker, lambda c: take_part(c, A, ANYTHING))
    install.require_installed(worker)
    assert read(reader, read_cluster) is not None and read(reader, install.is_there)
    with pytest.raises(DatabaseNotReady, match="refuses this user"):
        write(reader, lambda c: take_part(c, B, ANYTHING))
    with pytest.raises(DatabaseNotReady, match="refuses this user"):
        change(worker, "DROP TABLE drawdown_cluster.workers")
    change(clustered, "DROP SCHEMA drawdown_cluster CASCADE")
    with pytest.raises(DatabaseNotReady, match=r"lacks the schema for workers. Run `drawdown init --cluster`"):
        commands._prepare(jobs_of(worker, tmp_path).app)
    for one in (worker, reader):
        one.dispose()


def test_cluster_database_behind_pooler_is_refused(clustered: sa.Engine) -> None:
    install.require_direct(clustered)
    patches = Patches()
    patches.query(install, "answers", "pg_backend_pid()", "pg_backend_pid() + 1")
    with patches.kept(), pytest.raises(DatabaseNotReady, match="without the pooler"):
        install.require_direct(clustered)


# The engine


def test_cluster_schedule_has_single_waiting_job_per_shard(clustered: sa.Engine, tmp_path: Path) -> None:
    work, moment = jobs_of(clustered, tmp_path), 1_700_000_100.0
    url = work.app.settings.latest_database_url
    for made in (ticking, watching):
        for later in (0.0, 0.0, 300.0, 600.0):
            scheduled(made(work, connector(url)), moment + later)
    waiting = sorted(str(row[2]) for row in rows(clustered, JOBS) if row[1] == "todo" and row[2] is not None)
    assert waiting == ["tick 0/2", "tick 1/2", "watch 0/2", "watch 1/2"]
    assert [row[0] for row in rows(clustered, JOBS) if row[2] is None] == ["take_over"]


def test_cluster_missed_nightly_reconcile_is_queued_once(clustered: sa.Engine, tmp_path: Path) -> None:
    work = jobs_of(clustered, tmp_path)
    seven = 1_700_000_000 // 86_400 * 86_400 + 7 * 3_600.0
    for _ in range(2):
        scheduled(watching(work, connector(work.app.settings.latest_database_url)), seven)
        change(clustered, "DELETE FROM drawdown_cluster.procrastinate_jobs WHERE task_name <> 'reconcile'")
    assert [row[0] for row in rows(clustered, JOBS)] == ["reconcile"]
    change(clustered, "DELETE FROM drawdown_cluster.procrastinate_jobs")
    scheduled(watching(work, connector(work.app.settings.latest_database_url)), seven)
    assert "reconcile" not in [row[0] for row in rows(clustered, JOBS)]


@contextmanager
def at_work(work: Jobs) -> Iterator[None]:
    """Its lanes, in a thread, until told to stop."""
    failed: list[BaseException] = []

    def go() -> None:
        try:
            cluster.work(work)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        work.stopping.end()
        thread.join(30)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def soon(until: Callable[[], Any], what: str, most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def deferred(clustered: sa.Engine, task: str, lock: str, args: dict[str, object]) -> None:
    given = json.dumps(args)
    change(
        clustered,
        "INSERT INTO drawdown_cluster.procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args) "
        f"VALUES ('{cluster.TICKS if task == 'tick' else cluster.QUICK}', '{task}', '{lock}', '{lock}', '{given}')"
        .replace('":', '"\\:'),
    )  # fmt: skip


def test_cluster_job_of_different_shard_count_is_acknowledged_after_tick(clustered: sa.Engine, tmp_path: Path) -> None:
    """Shards that overlap are correct; a job that is dropped would leave its buckets to a later tick."""
    work = jobs_of(clustered, tmp_path, terms=replace(TERMS, every_s=3_600))
    began, goes_on, done = threading.Event(), threading.Event(), []

    def tick(shard: str) -> None:
        began.set()
        assert goes_on.wait(30)
        done.append(shard)

    work.tick = tick  # type: ignore[method-assign]
    deferred(clustered, "tick", "tick 2/3", {"timestamp": 0, "shard": "2/3"})
    with at_work(work):
        assert began.wait(30)
        time.sleep(0.7)  # long enough for one that is acknowledged too early to be gone
        ours = [row for row in rows(clustered, JOBS) if row[2] == "tick 2/3"]
        goes_on.set()
        soon(lambda: not [row for row in rows(clustered, JOBS) if row[2] == "tick 2/3"], "it is acknowledged")
    assert ours == [("tick", "doing", "tick 2/3")] and "2/3" in done


def test_cluster_job_of_dead_worker_is_requeued_unless_newer_waits(clustered: sa.Engine, tmp_path: Path) -> None:
    for name in ("tick 0/2", "tick 1/2"):
        deferred(clustered, "tick", name, {"timestamp": 0, "shard": name[5:]})
    change(
        clustered,
        "INSERT INTO drawdown_cluster.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute'); "
        "UPDATE drawdown_cluster.procrastinate_jobs SET status = 'doing', worker_id = (SELECT MAX(id) FROM "
        "drawdown_cluster.procrastinate_workers)",
    )
    deferred(clustered, "tick", "tick 1/2", {"timestamp": 1, "shard": "1/2"})
    made = ticking(jobs_of(clustered, tmp_path), connector(lambda: clustered.url.render_as_string(hide_password=False)))

    async def taking_over() -> None:
        async with made.open_async():
            await take_over(made)

    asyncio.run(taking_over())
    assert rows(clustered, JOBS) == [("tick", "todo", "tick 0/2"), ("tick", "todo", "tick 1/2")]


def test_cluster_job_end_after_lost_answer_is_recorded_once(
    clustered: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers that there is no such job; its lane had tried on for half a minute, and began anew."""
    deferred(clustered, "tick", "tick 0/2", {"timestamp": 0, "shard": "0/2"})
    number = cast(int, rows(clustered, "SELECT id FROM drawdown_cluster.procrastinate_jobs")[0][0])
    whole, sent = PsycopgConnector.execute_query_async, []

    async def cut(self: PsycopgConnector, query: Any, **arguments: Any) -> None:
        sent.append(query)
        await whole(self, query, **arguments)
        if len(sent) == 1:
            raise exceptions.ConnectorException from psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(PsycopgConnector, "execute_query_async", cut)
    made = ticking(jobs_of(clustered, tmp_path), connector(lambda: clustered.url.render_as_string(hide_password=False)))

    async def ends() -> None:
        async with made.open_async():
            await made.job_manager.finish_job_by_id_async(number, jobs.Status.SUCCEEDED, delete_job=True)
            with pytest.raises(exceptions.ConnectorException):  # of nobody's answer that was lost
                await made.job_manager.finish_job_by_id_async(number, jobs.Status.SUCCEEDED, delete_job=True)

    asyncio.run(ends())
    assert len(sent) == 3 and rows(clustered, JOBS) == []


def test_cluster_cut_connections_are_reopened_and_stop_returns_jobs(
    clustered: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = jobs_of(clustered, tmp_path, terms=replace(TERMS, every_s=1))
    work.app.clock = SystemClock()
    done: list[str] = []

    def tick(shard: str) -> None:
        done.append(shard)
        if work.stopping.is_set():
            raise PutBack

    work.tick = tick  # type: ignore[method-assign]
    turns: list[object] = []

    def counted(url: Callable[[], str]) -> Any:
        turns.append(url)
        return connector(url)

    monkeypatch.setattr(cluster, "connector", counted)
    with at_work(work):
        soon(lambda: {"0/2", "1/2"} <= set(done), "it ticks")
        for queue in ("ticks", "quick"):  # which any login may, and which is no job
            change(clustered, f"NOTIFY \"procrastinate_queue_v1#{queue}\", 'x'")
        done.clear()
        soon(lambda: {"0/2", "1/2"} <= set(done), "it ticks on")
        assert len(turns) == 1, "nobody from outside ends a lane"
        change(clustered, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                          "AND datname = current_database()")  # fmt: skip
        done.clear()
        soon(lambda: {"0/2", "1/2"} <= set(done), "it ticks again")
    assert "doing" not in {row[1] for row in rows(clustered, JOBS)}


# The jobs


def test_cluster_jobs_bill_usage_and_are_counted(clustered: sa.Engine, tmp_path: Path) -> None:
    fleet = Fleet(clustered)
    fleet.assign("acme", "globex", "initech", from_ms=T0)
    for org in ("acme", "globex", "initech"):
        fleet.sample(org, T0)
    work = jobs_of(clustered, tmp_path)
    work.beat()
    for shard in ("0/2", "1/2"):
        work.tick(shard)
    work.watch("0/2")
    work.reconcile()
    assert rows(clustered, "SELECT state, COUNT(*) FROM pushes GROUP BY state") == [("accepted", 3)]
    assert rows(clustered, "SELECT bucket_lo, bucket_hi FROM ticks ORDER BY 1") == [(0, 127), (128, 255)]
    assert rows(clustered, "SELECT done, failure FROM drawdown_cluster.workers") == [(4, None)]
    work.close()


def test_cluster_failed_job_is_reported_and_next_job_runs(
    clustered: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Say
) -> None:
    work = jobs_of(clustered, tmp_path)
    work.beat()
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.cli.scheduler.tick", lambda _context: 1 / 0)
        work.tick("1/2")
    work.tick("1/2")
    deferred(clustered, "tick", "tick 0/2", {"timestamp": 0, "shard": "0/2"})
    found = read(clustered, read_cluster)
    assert found is not None
    said = dict(worker_lines(found))
    assert "ZeroDivisionError" in said["failed"] and "tick 1/2" in said["failed"]
    assert "1 live (a); 2 shards" in said["workers"] and "1 tick waits, the oldest for" in said["jobs"]
    page = read(clustered, lambda c: overview.read(c, Ask(Person("ann", "viewer", None), T0)))
    assert dict(cast(list[tuple[str, str]], page["workers"])).keys() == said.keys(), "the console says the same"
    told = render(clustered, 0).decode()
    assert 'drawdown_workers{state="lives"} 1.0' in told
    assert 'drawdown_worker_jobs_done{worker="a"} 1.0' in told
    assert 'drawdown_worker_seen_age_seconds{worker="a"} ' in told
    assert 'drawdown_worker_jobs{kind="tick",state="waits"} 1.0' in told and "last_failure_age_seconds " in told
    change(clustered, "UPDATE drawdown_cluster.workers SET seen = seen - interval '5 min'")
    found = read(clustered, read_cluster)
    assert found is not None and dict(worker_lines(found))["gone"].startswith("1 (a), the last seen 5 min ago")


def test_cluster_tick_running_past_interval_is_reported(clustered: sa.Engine, tmp_path: Path) -> None:
    jobs_of(clustered, tmp_path).beat()
    deferred(clustered, "tick", "tick 0/2", {"timestamp": 0, "shard": "0/2"})
    change(clustered, "UPDATE drawdown_cluster.procrastinate_jobs SET status = 'doing'")
    for age, told in (("4 min", False), ("6 min", True)):
        change(clustered, f"UPDATE drawdown_cluster.procrastinate_events SET at = now() - interval '{age}'")
        found = read(clustered, read_cluster)
        assert found is not None
        assert (dict(worker_lines(found)).get("jobs") == "1 tick runs, the oldest for 6 min") is told


def test_cluster_hung_tick_ends_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would keep its shard for as long as the process lives."""

    class Ended(Exception):
        pass

    def ended(status: int) -> None:
        raise Ended(status)

    def seen(*each: Ticking | None) -> None:
        """What runs at each beat; StopAsyncIteration after the last."""
        given = list(each)
        work = SimpleNamespace(ticking=None)

        def beat() -> None:
            if not given:
                raise StopAsyncIteration
            work.ticking = given.pop(0)

        work.beat = beat
        asyncio.run(cluster._beat(cast(Jobs, work)))

    monkeypatch.setattr(cluster, "BEAT_S", 0)
    monkeypatch.setattr(cluster, "die", ended)
    one, other = Ticking("0/2"), Ticking("0/2")
    with pytest.raises(StopAsyncIteration):
        seen(one, one, one)
    monkeypatch.setattr(cluster, "MAX_TICK_S", -1)  # whatever is seen twice has run for longer
    with pytest.raises(StopAsyncIteration):
        seen(None, one, other, None, None, one)
    with pytest.raises(Ended, match="1"):
        seen(one, one)


def test_cluster_queue_that_lost_database_restarts_beside_long_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long tick of this worker holds up none of its watch rounds."""
    again = asyncio.Event()

    class Lane:
        calls = 0

        @asynccontextmanager
        async def open_async(self) -> AsyncIterator[None]:
            yield

        async def run_worker_async(self, queues: list[str], **_: object) -> None:
            if queues == [cluster.TICKS]:
                return await shielded(again.wait())
            self.calls += 1
            if self.calls == 1:
                raise exceptions.ConnectorException("away")
            again.set()

    async def shielded(waiting: Awaitable[object]) -> None:
        """As a tick in its thread: cancelled, it goes on."""
        task = asyncio.ensure_future(waiting)
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=5)

    stopping = SimpleNamespace(is_set=lambda: False)
    latest = SimpleNamespace(settings=SimpleNamespace(latest_database_url=lambda: "postgresql://"))
    work = cast(Jobs, SimpleNamespace(ticking=None, beat=lambda: None, stopping=stopping, app=latest))
    monkeypatch.setattr(cluster, "AGAIN_S", 0.01)
    lane = Lane()
    for name in ("ticking", "watching"):
        monkeypatch.setattr(cluster, name, lambda *_: lane)
    asyncio.run(asyncio.wait_for(cluster._turn(work), 10))
    assert lane.calls == 2


def test_cluster_outdated_worker_returns_jobs_and_stops(clustered: sa.Engine, tmp_path: Path) -> None:
    work = jobs_of(clustered, tmp_path)
    work.beat()
    change(clustered, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(PutBack):
        work.tick("0/2")
    assert work.stopping.is_set() and isinstance(work.ended_by, DatabaseNotReady)
    with pytest.raises(DatabaseNotReady, match="newer than this program"):
        cluster.work(work)


def test_cluster_worker_replaced_by_new_terms_stops(clustered: sa.Engine, tmp_path: Path) -> None:
    work = jobs_of(clustered, tmp_path)
    work.beat()
    change(clustered, "UPDATE drawdown_cluster.workers SET seen = seen - interval '1 hour'")
    write(clustered, lambda c: take_part(c, B, replace(ANYTHING, shards=5)))
    work.beat()
    ended: DrawdownError | None = work.ended_by
    assert isinstance(ended, Refused) and work.stopping.is_set()


def test_cluster_workers_share_provider_rate_limit(clustered: sa.Engine, tmp_path: Path) -> None:
    work, seen = jobs_of(clustered, tmp_path), []
    for share in (1, 2, 2):  # no more than two shards tick at once
        work.beat()
        with work._one_of(work._ticks) as app:
            seen.append((app.world().processes, share))
        write(clustered, lambda c: take_part(c, Member(f"w{len(seen)}", ""), ANYTHING))
    assert [found for found, _ in seen] == [share for _, share in seen]


# The command


@pytest.mark.parametrize(
    ("given", "says", "status"),
    [
        (["worker"], "needs PostgreSQL, which machines can share", Exit.USAGE),
        (["--at", "2024-01-01", "worker"], "--at does not apply", Exit.USAGE),
        (["worker", "--shards", "0"], "--shards", Exit.USAGE),
        (["worker", "--shards", "257"], "--shards", Exit.USAGE),
        (["init", "--cluster"], "needs PostgreSQL, which machines can share", Exit.USAGE),
    ],
)
def test_worker_command_with_invalid_options_is_refused(
    given: list[str], says: str, status: int, migrated_sqlite: Path, tmp_path: Path, capfd: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = tmp_path / "d.db"
    file.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", f"sqlite:///{file}")
    assert run(given) == status
    assert says in capfd.readouterr().err


@pytest.mark.parametrize("every_s", [7, 90, 3_601, 0])
def test_worker_interval_not_dividing_clock_is_refused(every_s: int) -> None:
    with pytest.raises(UsageError, match="divide a minute, or whole minutes that divide an hour"):
        cron(every_s)


def test_worker_command_when_refused_does_not_create_schema(
    postgres_server: str, migrated_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Say
) -> None:
    made = connect(_new_database(postgres_server, f"refused_{tmp_path.name[-40:]}", migrated_postgres))
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", made.url.render_as_string(hide_password=False))
    assert run(["worker", "--every", "7"]) == Exit.USAGE
    assert "divide a minute, or whole minutes that divide an hour" in capfd.readouterr().err and not read(
        made, install.is_there
    )
    made.dispose()


def test_worker_without_cluster_extra_names_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"drawdown\[cluster\]"):
        install.require_engine()
