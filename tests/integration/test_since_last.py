"""`verify --since-last`: what is passed over was proven, and nothing on record has touched it since; it is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.cli.nouns import database
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.checks import proofs as kept_runs
from drawdown.worker.checks.proofs import WHOLE_EACH_MS, keep, to_continue
from drawdown.worker.verify import incremental as since_sql
from drawdown.worker.verify import questions
from drawdown.worker.verify.incremental import APART_MS, Point, ProvenRun, mark, point
from drawdown.worker.verify.verify import Breach, Verification, verify
from tests.integration.breaking import BROKEN as TABLES
from tests.integration.breaking_books import BOOKS
from tests.integration.breaking_events import EVENTS
from tests.integration.verifying import ONE, copy, lived, tamper
from tests.simulation.mutants_remote import Patches
from tests.whole import share
from tests.world import T0, Fleet

LATER = T0 + 10 * DAY_MS
"""A day of which all was proven; the windows of ten days before lie below the point of the next run."""
REFERENCE = "window_ms, org_id, feature, revision"


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """Usage of a first window and of one ten days later, billed; the mapping was made before."""
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    made.sample("acme", T0 + 1, 100)
    made.sample("acme", T0 + 1, 9, memory_mb=3000)  # a size that makes no feature: it is pending for good
    made.tick_windows(3)
    made.clock.at_ms = LATER
    made.sample("acme", LATER + 1, 100)
    made.tick_windows(3)
    return made


def proven(fleet: Fleet, at_ms: int | None = None) -> ProvenRun:
    """A run that looked at all of it, held, and is kept."""
    found = read(fleet.engine, verify)
    assert found.clean, found.breaches
    by = fleet.by if at_ms is None else replace(fleet.by, now_ms=at_ms)
    write(fleet.engine, lambda c: keep(c, found, by))
    held = read(fleet.engine, lambda c: to_continue(c, by.now_ms))
    assert held is not None
    return held


def since(fleet: Fleet, held: ProvenRun) -> Verification:
    return read(fleet.engine, lambda c: verify(c, now_ms=fleet.clock.at_ms, held=held))


def whats(found: Verification) -> list[tuple[int, str]]:
    return sorted((breach.invariant, breach.text) for breach in found.breaches)


def test_verify_since_last_finds_breach_only_above_its_point(fleet: Fleet) -> None:
    held = proven(fleet)
    begins = read(fleet.engine, lambda c: point(c, held))
    assert begins is not None and T0 + WINDOW_MS < begins.window_ms <= LATER - DAY_MS + 4 * WINDOW_MS
    assert (begins.run, begins.at_ms) == (held.run, fleet.clock.at_ms)
    clean = since(fleet, held)
    assert clean.clean and clean.point == begins
    assert (clean.checked["samples"], clean.checked["pushes"], clean.checked["attempts"]) == (1, 1, 1)

    tamper(fleet, f"UPDATE pushes SET sealed_qty = sealed_qty + 1, sent_qty = sent_qty + 1 WHERE window_ms = {T0}")
    assert since(fleet, held).clean, "it is passed over, and that is said"
    assert read(fleet.engine, verify).by_invariant[1] == 1
    tamper(fleet, f"DELETE FROM usage_samples WHERE ts = {LATER + 1}")
    assert whats(since(fleet, held)) == [(1, "samples in force sum to 0, but pushes sealed 100")]
    assert read(fleet.engine, verify).by_invariant[1] == 2


def test_verify_since_last_finds_lost_late_sample_below_its_point(fleet: Fleet) -> None:
    held = proven(fleet)
    fleet.sample("acme", T0 + 2, 7)
    assert since(fleet, held).clean, "it is open, and no breach"
    fleet.tick_windows(1)
    sealed = since(fleet, held)
    assert sealed.clean and sealed.point is not None and sealed.point.why == "a late sample"
    tamper(fleet, f"DELETE FROM pushes WHERE window_ms = {T0} AND revision = 1")  # as if it had been passed over
    found = since(fleet, held)
    assert (1, "samples in force sum to 107, but pushes sealed 100") in whats(found)
    assert found.breaches[0].window_ms == T0


def test_verify_mark_with_dirty_window_starts_at_that_window(fleet: Fleet) -> None:
    """Its sample came before that run, and what lost it after."""
    fleet.sample("acme", T0 + 2, 7)
    fleet.write(f"INSERT INTO dirty_windows (org_id, window_ms) VALUES ('acme', {T0})")
    tamper(fleet, "UPDATE buckets SET cursor = cursor + 1000000")
    found = read(fleet.engine, verify)
    assert found.by_invariant[1] == 0 and found.mark is not None and found.mark.window_ms == T0


PUSH = (
    "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
    "sealed_at_ms, seal_id, state, due_at_ms, settled_ms, looked_up_ms) SELECT window_ms, org_id, feature, 1, "
    "provider, customer_id, 0, 0, key || ':r1', {sealed}, seal_id, '{state}', 0, {settled}, {looked} FROM pushes "
    f"WHERE window_ms = {T0}"
)
OLD, NOW = T0 + DAY_MS, LATER
OF_PUSH = f"SELECT {REFERENCE}, {NOW}, {{}} 'a test', 'test', 'a test' FROM pushes WHERE window_ms = {T0}"
TOUCHED = {
    "a late sample": "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, "
    f"ingested_at) VALUES ('late', 'acme', 'box', 'cell-1', 1024, 1, {T0 + 2}, {NOW})",
    "a withdrawal": "INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason) "
    f"VALUES ('s1', 'acme', {T0 + 1}, 1024, 100, {NOW}, 'test', 'a test')",
    "a void": f"INSERT INTO voids ({REFERENCE}, at_ms, evidence_kind, evidence, actor, reason) "
    + OF_PUSH.format("'operator',"),
    "an adoption": f"INSERT INTO adoptions ({REFERENCE}, at_ms, kind, evidence, actor, reason) "
    + OF_PUSH.format("'other',"),
    "an attempt": f"INSERT INTO attempts ({REFERENCE}, attempt, started_ms, owner, sent_qty) "
    f"SELECT {REFERENCE}, 2, {NOW}, 'w', sent_qty FROM pushes WHERE window_ms = {T0}",
    "a push that was sealed": PUSH.format(sealed=NOW, state="carried", settled="NULL", looked="NULL"),
    "a push that was settled": PUSH.format(sealed=OLD, state="accepted", settled=NOW, looked="NULL"),
    "a push that was looked up": PUSH.format(sealed=OLD, state="accepted", settled=OLD, looked=NOW),
    "a push that is open": PUSH.format(sealed=OLD, state="rejected", settled=OLD, looked="NULL"),
    "an assignment": "INSERT INTO assignments (org_id, start_ms, end_ms, provider, customer_id, at_ms, actor, reason) "
    f"VALUES ('new', {T0}, NULL, 'embedded', 'new', {NOW}, 'test', 'a test')",
    "a mapping": "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) "
    f"VALUES ('exact', 3000, 'tiny', 's', {T0}, {NOW}, 'test', 'a test')",
    "an entry of the ledger": "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, "
    f"quantity, ts, at_ms, actor, reason) VALUES ('x', 'usage', 'wallet:acme', 'revenue:{ONE}', 0, '{ONE}', 0, {T0}, "
    f"{NOW}, 't', 't')",
    "a window to be sealed again": f"INSERT INTO dirty_windows (org_id, window_ms) VALUES ('acme', {T0})",
    "usage that nobody could bill": "INSERT INTO pending_usage (window_ms, org_id, memory_mb, reason, seconds, "
    f"samples) VALUES ({T0}, 'acme', 3001, 'no_provider', 1, 1)",
    "an organisation that is behind": f"UPDATE orgs SET held_watermark_ms = {T0} WHERE org_id = 'acme'",
}


def test_verify_since_last_point_moves_back_per_change_and_names_cause(fleet: Fleet) -> None:
    held = proven(fleet)
    for what, statement in TOUCHED.items():
        begins = touched(fleet, held, statement)
        assert begins.window_ms == T0, what
        assert what.startswith(begins.why) and begins.why, what


def touched(fleet: Fleet, held: ProvenRun, statement: str) -> Point:
    """Where the next run would begin, had this been done since."""
    with fleet.engine.connect() as connection:
        for text in (*_unguarded(connection), statement):
            connection.execute(sa.text(text.replace(":", "\\:")))
        begins = point(connection, held)
        connection.rollback()
    assert begins is not None
    return begins


def _unguarded(connection: sa.Connection) -> Iterator[str]:
    if connection.dialect.name == "postgresql":
        yield "SET LOCAL session_replication_role = replica"
        return
    for name in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
        if not name.startswith("usage_samples"):
            yield f"DROP TRIGGER {name}"


def test_verify_since_last_point_ignores_changes_long_before_run(fleet: Fleet) -> None:
    """Each of the above, but for what is not settled, was there when the run looked."""
    held = replace(proven(fleet), at_ms=LATER + 3 * APART_MS)
    states = ("a late sample", "a push that is open", "a window", "usage that", "an organisation")
    for what, statement in TOUCHED.items():
        if not what.startswith(states):
            begins = touched(fleet, held, statement)
            assert (begins.why, begins.window_ms > T0) == ("", True), what


def test_verify_since_last_with_restarted_arrivals_verifies_everything(fleet: Fleet) -> None:
    held = proven(fleet)
    gone = replace(held, mark=replace(held.mark, arrival=held.mark.arrival + 1_000_000))
    found = since(fleet, gone)
    assert found.point is None and found.checked["samples"] == 3


@pytest.fixture(scope="module")
def broken_in_all_ways(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return copy(lived(), tmp_path_factory.mktemp("since"))


def test_verify_since_last_finds_each_breach_that_whole_run_finds(broken_in_all_ways: Fleet) -> None:
    """That a whole one finds each of these is tested in test_verify.py."""
    fleet, now_ms = broken_in_all_ways, broken_in_all_ways.clock.at_ms
    held = read(fleet.engine, lambda c: ProvenRun(1, now_ms, mark(c)))
    ways = [item for item in {**TABLES, **BOOKS, **EVENTS}.items() if item[1].invariant in (1, 2, 3, 5, 6, 9)]
    for name, way in ways[:: share(5, whole=1)]:
        with fleet.engine.connect() as connection:
            for text in (*_unguarded(connection), *way.statements):
                connection.execute(sa.text(text.replace(":", "\\:")))
            found = verify(connection, now_ms=now_ms, held=held)
            connection.rollback()
        assert found.point is not None and any(way.text in breach.text for breach in found.breaches), name


def test_verify_since_last_continues_newest_clean_whole_run(fleet: Fleet) -> None:
    engine, at = fleet.engine, fleet.clock.at_ms

    def now(day: float = 0) -> ProvenRun | None:
        return read(engine, lambda c: to_continue(c, at + int(day * DAY_MS)))

    def kept(found: Verification, day: float = 0, orgs: int | None = None, doubted: str | None = None) -> int:
        by = By(at + int(day * DAY_MS), "test", "a test")
        return write(engine, lambda c: keep(c, found, by, orgs=orgs, doubted=doubted))

    assert now() is None
    clean = read(engine, verify)
    kept(clean, orgs=1)
    kept(clean, doubted="restored")
    assert now() is None, "a part, and a past that is in doubt, prove nothing"
    whole = kept(clean)
    kept(clean, orgs=1)
    kept(clean, doubted="restored")
    assert now() == ProvenRun(whole, at, clean.mark)  # type: ignore[arg-type]
    continued = read(engine, lambda c: verify(c, held=now()))
    night = kept(continued, 1)
    found = now(2)
    assert found is not None and (found.run, found.at_ms) == (night, at + DAY_MS)
    standing = read(engine, kept_runs.standing)
    assert {one.held_by for one in standing} == {whole}, "by a run that looked at all of it"
    last = read(engine, lambda c: kept_runs.last_held(c, at + DAY_MS))
    assert (last.whole_ms, last.continued_ms) == (at, at + DAY_MS)
    last = read(engine, lambda c: kept_runs.last_held(c, at + 1))
    assert (last.whole_ms, last.continued_ms) == (at, None), "a run that a clock of the future dated is no proof yet"
    (newest, *_) = read(engine, kept_runs.list_runs).runs
    assert (newest.follows, newest.from_ms) == (whole, continued.point and continued.point.window_ms)
    assert now(WHOLE_EACH_MS / DAY_MS) is None and now(WHOLE_EACH_MS / DAY_MS - 0.01) is not None, "weekly, all of it"
    broken = read(engine, lambda c: verify(c, orgs=["acme"]))
    broken.add(Breach(1, "acme", T0, ONE, "somebody tampered with it"))
    kept(broken, 1, orgs=1)
    assert now(2) is None, "after a breach, all of it"
    kept(continued, 1.5)
    assert now(2) is None, "also where one that had begun before the breach is kept after it"
    kept(clean, 1.7)
    assert now(2) is None, "and that looked at all of it"
    kept(read(engine, verify), 2)
    assert now(3) is not None
    found = now(1.9)
    assert found is not None and found.at_ms < at + 2 * DAY_MS, "a run that a clock of the future dated tells nothing"
    kept(continued, 4)
    found = now(3)
    assert found is not None and found.at_ms == at + 2 * DAY_MS, "nor does one that continued"
    fleet.write(
        "INSERT INTO losses (number, from_ms, until_ms, at_ms, seal_id, found, actor, reason) "
        f"VALUES (1, 0, 1, {at + DAY_MS + 1}, 0, 'a test', 'test', 'a test')"
    )
    assert now(3) is None, "after a loss of history, all of it"


def test_verify_since_last_command_shows_point_and_days_since_full_run(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False)

    def asked(*words: str, at_ms: int = fleet.clock.at_ms) -> tuple[int, str]:
        capfd.readouterr()
        status = drawdown(["--database-url", url, "--at", str(at_ms), *words])
        return status, capfd.readouterr().out

    assert asked("verify", "--since-last", "--org", "acme")[0] == 2
    status, out = asked("verify", "--since-last")
    assert (
        status == 0
        and "verified everything. Verify continues an earlier run only if" in out
        and "\nall invariants hold" in out
    )
    status, out = asked("--json", "verify", "--since-last")
    assert status == 0 and json.loads(out)["point"]["run"] == 1
    status, out = asked("verify", "--since-last")
    words = " ".join(out.split())
    assert ": proven by run 2 at 2026-01-11" in words and "all invariants hold in the later windows" in words
    assert "no earlier window changed since then" in words
    fleet.sample("acme", T0 + 2, 7)
    assert "a late sample changed this window" in " ".join(asked("verify", "--since-last")[1].split())
    begins = Point(0, "a mapping", 3, fleet.clock.at_ms)
    found = replace(read(fleet.engine, verify), point=begins)
    (said,) = database._from(found)
    assert said == "verified everything, because a mapping changed the first window since run 3"
    assert "all invariants hold" in database._report(found, [], since_last=True)
    words = " ".join(asked("proof")[1].split())
    assert (
        "last proof of all invariants: of everything 2026-01-11" in words and "since the last run 2026-01-11" in words
    )

    def proven_lately(day: int) -> list[bool]:
        told = json.loads(asked("--json", "doctor", at_ms=fleet.clock.at_ms + day * DAY_MS)[1])
        return [bool(one["ok"]) for one in told["findings"] if one["what"].startswith("the last full run of verify")]

    assert (proven_lately(9), proven_lately(10)) == ([True], [False])


# Bugs that are planted.

IN_PUSHES = {
    "a push that was sealed": "sealed_at_ms >= :told_ms OR ",
    "a push that was settled": "settled_ms >= :told_ms OR ",
    "a push that was looked up": "looked_up_ms >= :told_ms OR ",
    "a push that is open": " OR state IN {open_states}",
}


def test_verify_since_last_without_query_for_cause_misses_change(fleet: Fleet) -> None:
    held, patches = proven(fleet), Patches()
    for what, statement in TOUCHED.items():
        with patches.kept():
            if what in IN_PUSHES:
                patches.query(since_sql, "point", IN_PUSHES[what], "")
            else:
                column = re.search(rf"MIN\(\S+\), '{re.escape(what)}'", since_sql.SQL.pieces["point", ""])
                assert column is not None
                patches.query(since_sql, "point", column[0], f"CAST(NULL AS BIGINT), '{what}'")
            assert touched(fleet, held, statement).window_ms > T0, what
        assert touched(fleet, held, statement).window_ms == T0, what


Sees = Callable[[Fleet], None]
PLANTED: dict[str, tuple[Callable[[Patches], None], Sees]] = {
    "what lies after the point is passed over": (
        lambda p: p.query(
            SimpleNamespace(SQL=questions.USAGE), "samples_since", ">= :since_ms", "> :since_ms + 864000000"
        ),
        test_verify_since_last_finds_breach_only_above_its_point,
    ),
    "a run begins where the last one ended": (
        lambda p: p.put(since_sql, "APART_MS", 0),
        test_verify_since_last_finds_breach_only_above_its_point,
    ),
    "a late sample that was sealed is one that was proven": (
        lambda p: p.query(since_sql, "point", "arrival >= :arrival", "arrival > :arrival + 1000000"),
        test_verify_since_last_finds_lost_late_sample_below_its_point,
    ),
    "what was dirty counts as proven": (
        lambda p: p.query(since_sql, "mark", "UNION ALL SELECT MIN(window_ms) FROM dirty_windows", ""),
        test_verify_mark_with_dirty_window_starts_at_that_window,
    ),
    "arrivals that are counted anew go on": (
        lambda p: p.query(since_sql, "newest", "SELECT ", "SELECT 1000000000 + "),
        test_verify_since_last_with_restarted_arrivals_verifies_everything,
    ),
    "a part stands for the whole": (
        lambda p: p.query(kept_runs, "held", "p.orgs IS NULL AND", ""),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a past that is in doubt is continued": (
        lambda p: p.query(kept_runs, "held", "p.doubted IS NULL AND", ""),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a week is for ever": (
        lambda p: p.query(kept_runs, "to_continue", "w.at_ms > :whole_after_ms AND", ""),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a run that continued is a whole one": (
        lambda p: p.query(kept_runs, "to_continue", "AND w.follows IS NULL", ""),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a breach before is forgotten": (
        lambda p: p.query(kept_runs, "to_continue", "i.broken_by > COALESCE(i.held_by, 0)", "1 = 0"),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a loss of history is continued": (
        lambda p: p.query(kept_runs, "to_continue", "SELECT MAX(l.at_ms)", "SELECT MIN(l.at_ms - 864000000000)"),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
    "a run of the future is continued": (
        lambda p: p.query(kept_runs, "to_continue", "AND p.at_ms <= :now_ms", ""),
        test_verify_since_last_continues_newest_clean_whole_run,
    ),
}
"""How each is planted, and the test that it turns red."""


@pytest.mark.parametrize("name", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_in_verify_since_last_is_found(fleet: Fleet, name: str) -> None:
    plant, sees = PLANTED[name]
    patches = Patches()
    with patches.kept():
        plant(patches)
        with pytest.raises(AssertionError):
            sees(fleet)
