"""`verify` finds nothing in a busy database, and each of the invariants where it is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.ledger import grants, pools
from drawdown.ledger.grants import Gives
from drawdown.schema.audit import record
from drawdown.schema.database import connect, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.checks.proofs import stop_breached
from drawdown.worker.seal import stops
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verify.verify import Verification, verify
from tests import leftovers
from tests.conftest import _for_a_test, _new_database, opened
from tests.integration.breaking import BROKEN as TABLES
from tests.integration.breaking import LATER, Broken, sample
from tests.integration.breaking_books import BOOKS
from tests.integration.breaking_credit import CREDIT
from tests.integration.breaking_drift import DRIFT
from tests.integration.breaking_events import EVENTS
from tests.integration.breaking_guard import GUARD
from tests.integration.breaking_hooks import HOOKS
from tests.integration.breaking_plans import PLANS
from tests.integration.breaking_pools import POOLS
from tests.integration.breaking_said import SAID
from tests.integration.breaking_settlements import SETTLEMENTS
from tests.integration.breaking_topups import TOPUPS
from tests.integration.breaking_waits import WAITS
from tests.integration.verifying import NEXT, ONE, busy, copied, copy, lived, tamper, tamper_by, verified
from tests.whole import share
from tests.world import T0, Fleet

BROKEN = {
    **TABLES,
    **BOOKS,
    **CREDIT,
    **PLANS,
    **POOLS,
    **SAID,
    **SETTLEMENTS,
    **TOPUPS,
    **HOOKS,
    **EVENTS,
    **GUARD,
    **DRIFT,
    **WAITS,
}
ONE_OF_EACH = {broken.invariant: name for name, broken in BROKEN.items()}
CASES = [("sqlite", name) for name in BROKEN] + share([], whole=[("postgresql", name) for name in BROKEN])


@cache
def _on_postgresql(server: str, migrated: str) -> Fleet:
    return busy(opened(_new_database(server, "busy", migrated)))


ON_BOTH = pytest.mark.parametrize("fleet", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A copy of the busy database.

    The original is cached by function. pytest 9.1 makes a fixture of a module again for each case of a test that
    parametrizes it beside another argument, and the original takes a hundred times as long as its copy.
    """
    if getattr(request, "param", "sqlite") == "sqlite":
        yield from _until_the_end(copy(lived(), tmp_path))
        return
    server = request.getfixturevalue("postgres_server")
    original = _on_postgresql(server, request.getfixturevalue("migrated_postgres"))
    original.engine.dispose()
    for url in _for_a_test(server, str(original.engine.url.database)):
        yield from _until_the_end(copied(original, connect(url)))


def _until_the_end(fleet: Fleet) -> Iterator[Fleet]:
    yield fleet
    fleet.engine.dispose()


@ON_BOTH
def test_verify_of_busy_database_is_clean(fleet: Fleet) -> None:
    found = verified(fleet)
    assert found.breaches == []
    assert found.clean
    states = {str(state) for (state,) in fleet.rows("SELECT DISTINCT state FROM pushes")}
    assert states == {"accepted", "voided", "carried"}
    assert fleet.rows("SELECT DISTINCT reason FROM pending_usage ORDER BY 1") == [
        ("no_assignment",),
        ("no_mapping",),
        ("unknown_org",),
    ]
    assert fleet.one("SELECT COUNT(*) FROM projections WHERE org_id = 'acme'") == 3
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")
    assert fleet.one("SELECT carry_qty FROM carries WHERE org_id = 'rest'") != 0
    in_force = fleet.one("SELECT COUNT(*) FROM usage_samples WHERE problem IS NULL")
    assert found.checked["samples"] == int(str(in_force)) - 2  # two are withdrawn
    assert found.checked["windows"] > 10
    assert found.checked["pushes"] == fleet.one("SELECT COUNT(*) FROM pushes")
    assert found.checked["entries"] == fleet.one("SELECT COUNT(*) FROM ledger_entries")
    assert found.open == {"samples_after_cursor": 1, "dirty_windows": 0, "stopped_orgs": 1}


@pytest.mark.parametrize(("lookups", "breaches"), [(0, 1), (1, 0)])
def test_verify_push_in_doubt_without_attempt_requires_lookup(fleet: Fleet, lookups: int, breaches: int) -> None:
    """After a loss of history what may have been sent is asked for first; its provider may refuse to say."""
    key = fleet.one("SELECT MIN(key) FROM pushes WHERE state = 'accepted' AND key LIKE 'usage:acme:%'")
    before = len([one for one in verified(fleet).breaches if one.invariant == 5])
    its = f"SELECT window_ms, org_id, feature, revision FROM pushes WHERE key = '{key}'"
    tamper(fleet, f"DELETE FROM attempts WHERE (window_ms, org_id, feature, revision) = ({its})")
    tamper(
        fleet,
        f"UPDATE pushes SET state = 'in_doubt', attempts = 0, lookups = {lookups}, last_error = 'no such meter' "
        f"WHERE key = '{key}'",
    )
    found = [
        one for one in verified(fleet).breaches if one.invariant == 5 and "neither an attempt nor a person" in one.text
    ]
    assert len(found) == before + breaches


def test_verify_unsettled_usage_is_open_and_clean(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)  # late, and not looked at yet
    fleet.sample("stranger", T0 + 1)
    fleet.write("INSERT INTO dirty_windows (org_id, window_ms) VALUES ('other', :w)", {"w": NEXT})
    write(fleet.engine, lambda c: withdraw(c, _sample_of(fleet, "other", NEXT + 1), fleet.by))
    found = verified(fleet)
    assert found.breaches == []
    assert found.open == {"samples_after_cursor": 3, "dirty_windows": 1, "stopped_orgs": 1}


def test_verify_ignores_details_missing_in_older_actions(fleet: Fleet) -> None:
    """From when on a payer pays, and a plan's terms count, was not on record; all else of them was."""

    def work(connection: sa.Connection) -> None:
        pools.say(connection, "acme", "pupil", fleet.by, allowed=True)
        record(connection, "payer_allow", "acme", {"org_id": "pupil", "limit_micro": None}, fleet.by)
        grants.set_gives(connection, "club", Gives(60), fleet.by)
        said = {"gives": vars(Gives(60)), "gave_before": vars(Gives(50, 0, 30, 4))}
        record(connection, "ledger_plan", "club", {"max_concurrent": 5, "was": 5, **said}, fleet.by)

    write(fleet.engine, work)
    assert verified(fleet).breaches == []
    tamper(fleet, "UPDATE payers SET limit_micro = 9 WHERE payer = 'acme'")
    tamper(fleet, "UPDATE plan_terms SET first_micro = 9 WHERE number = 2")
    told = sorted(breach.text for breach in verified(fleet).breaches)
    assert [text.split(" is ")[0] for text in told] == ["payer acme of pupil, number 1", "terms club, number 2"]


def test_verify_rates_without_actions_are_all_reported(engine: sa.Engine) -> None:
    """The rates of `init`, too, whose mapping of the same moment is on record."""
    fleet = Fleet(engine)
    fleet.rate("tokens", 2)
    assert verified(fleet).breaches == []
    tamper(fleet, "DELETE FROM operator_actions WHERE action = 'ledger_rate'")
    told = sorted(breach.text.split(" is ")[0] for breach in verified(fleet).breaches if breach.invariant == 2)
    assert told == sorted(f"rate {row[0]} from 0" for row in fleet.rows("SELECT feature FROM ledger_rates"))
    assert "rate compute_4gb from 0" in told


def _sample_of(fleet: Fleet, org: str, ts: int) -> list[str]:
    return [str(fleet.one("SELECT id FROM usage_samples WHERE org_id = :org AND ts = :ts", org=org, ts=ts))]


def test_verify_of_empty_database_is_clean(engine: sa.Engine) -> None:
    found = verified(Fleet(engine))
    assert (found.clean, found.checked["samples"], found.checked["pushes"]) == (True, 0, 0)


def test_broken_cases_cover_all_invariants() -> None:
    assert {broken.invariant for broken in BROKEN.values()} == set(range(1, 16))


@cache
def _line(kind: str, server: str = "", migrated: str = "") -> tuple[sa.Connection, int]:
    """Return a connection to a copy that is broken and rolled back again, and its time.

    A database of its own would have each case prepare the 400 statements of three runs anew.
    """
    if kind == "sqlite":
        made = copy(lived(), leftovers.folder("dd-broken-"))
        tamper(made)
        return made.engine.connect(), made.clock.at_ms
    original = _on_postgresql(server, migrated)
    original.engine.dispose()
    name = str(original.engine.url.database)
    return opened(_new_database(server, f"{name}_broken", name)).connect(), original.clock.at_ms


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_verify_broken_database_reports_invariant_and_org(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    servers = ("postgres_server", "migrated_postgres") if kind == "postgresql" else ()
    connection, now_ms = _line(kind, *map(request.getfixturevalue, servers))
    broken = BROKEN[name]
    try:
        tamper_by(connection, *broken.statements)
        found = verify(connection, now_ms=now_ms)
        assert set(found.by_invariant) == {broken.invariant, *broken.also}, found.breaches
        assert {breach.org_id for breach in found.breaches} <= {broken.org, broken.beside, None}
        assert _names(found, broken), found.breaches
        assert verify(connection, orgs=["idle", "nobody"], now_ms=now_ms).clean
        if broken.org is not None:
            assert not verify(connection, orgs=[broken.org], now_ms=now_ms).clean
    finally:
        connection.rollback()


def test_verify_of_postgresql_finds_a_breach_of_each_invariant(postgres_server: str, migrated_postgres: str) -> None:
    """All at once: PostgreSQL plans the questions of one run for a second. `make test-whole` asks it for each."""
    connection, now_ms = _line("postgresql", postgres_server, migrated_postgres)
    chosen = {name: BROKEN[name] for name in ONE_OF_EACH.values()}
    try:
        for broken in chosen.values():
            tamper_by(connection, *broken.statements)
        found = verify(connection, now_ms=now_ms)
    finally:
        connection.rollback()
    assert [name for name, broken in chosen.items() if not _names(found, broken)] == []


def _names(found: Verification, broken: Broken) -> bool:
    """Whether it says what was broken, and where."""
    place = (broken.org, broken.window_ms, broken.feature)
    return any(
        (breach.org_id, breach.window_ms, breach.feature) == place and broken.text in breach.text
        for breach in found.breaches
        if breach.invariant == broken.invariant
    )


@pytest.mark.parametrize("sealed", ["before", "after"])
def test_clock_set_back_between_charge_and_settlement_is_not_reported(fleet: Fleet, sealed: str) -> None:
    """The sender's clock is set back by two days after the charge: before, or only after the push was sealed by it."""
    days = 3 * DAY_MS if sealed == "before" else DAY_MS + 1
    key = f"usage:acme:{NEXT}:{ONE}"
    tamper(
        fleet,
        f"UPDATE pushes SET sealed_at_ms = sealed_at_ms - {days}, settled_ms = settled_ms - {2 * DAY_MS} "
        f"WHERE key = '{key}'",
        f"UPDATE seals SET at_ms = at_ms - {days} WHERE seal_id = (SELECT seal_id FROM pushes WHERE key = '{key}')",
    )
    assert [breach.text for breach in verified(fleet).breaches if " was sealed at " in breach.text] == []


@pytest.mark.parametrize(("minutes", "reported"), [(5, False), (24 * 60 + 1, True)])
def test_verify_charge_after_clock_set_back_is_reported_beyond_a_day(
    fleet: Fleet, minutes: int, reported: bool
) -> None:
    """The clock is set back by three days, and the charge is settled minutes after it was made."""
    key = f"usage:acme:{NEXT}:{ONE}"
    tamper(
        fleet,
        f"UPDATE pushes SET sealed_at_ms = sealed_at_ms + {3 * DAY_MS} WHERE key = '{key}'",
        f"UPDATE ledger_entries SET at_ms = at_ms - {minutes * MINUTE_MS} WHERE key = '{key}'",
        f"UPDATE seals SET at_ms = at_ms + {3 * DAY_MS} "
        f"WHERE seal_id = (SELECT seal_id FROM pushes WHERE key = '{key}')",
    )
    texts = [breach.text for breach in verified(fleet).breaches if "but the ledger charged it at" in breach.text]
    assert [key in text for text in texts] == [True] * reported


def test_verify_two_orgs_with_same_customer_are_both_reported(fleet: Fleet) -> None:
    tamper(
        fleet,
        "DROP INDEX assignments_one_org_a_customer",
        "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        f"VALUES ('idle', {LATER}, 'embedded', 'acme', 0, 't', 't')",
    )
    found = verified(fleet)
    assert {(breach.invariant, breach.org_id) for breach in found.breaches} == {(3, "acme"), (3, "idle")}


def test_verify_deleted_void_breaks_two_invariants(fleet: Fleet) -> None:
    """What was voided counts as sealed again, beside the revision that took its place."""
    tamper(fleet, "DELETE FROM voids")
    assert set(verified(fleet).by_invariant) == {1, 6}


def test_breach_stops_only_its_org(fleet: Fleet) -> None:
    tamper(fleet, sample("acme", NEXT + 9, 20, 1024))
    found = verified(fleet)
    now = fleet.clock.at_ms
    assert write(fleet.engine, lambda c: stop_breached(c, found, now, "test")) == ["acme"]
    assert fleet.rows("SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL ORDER BY 1") == [("acme",), ("stuck",)]
    reason = str(fleet.one("SELECT stopped_reason FROM orgs WHERE org_id = 'acme'"))
    assert "invariant 1" in reason
    assert "samples in force sum to 120, but pushes sealed 100" in reason
    assert write(fleet.engine, lambda c: stop_breached(c, found, now, "test")) == []


def test_org_resumed_since_breach_is_not_stopped_by_earlier_finding(fleet: Fleet) -> None:
    tamper(fleet, sample("acme", NEXT + 9, 20, 1024))
    found, now = verified(fleet), fleet.clock.at_ms
    write(fleet.engine, lambda c: stop_breached(c, found, now, "first"))
    resume = partial(stops.resume_org, org_id="acme", reason="fixed", now_ms=now, actor="ann")
    write(fleet.engine, resume)
    assert write(fleet.engine, lambda c: stop_breached(c, found, now, "second")) == []
    again = verified(fleet)
    assert write(fleet.engine, lambda c: stop_breached(c, again, now, "third")) == ["acme"], "it is there still"
