"""Status: the verdict, what waits at each provider, why and until when; and that only open rows are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import CapturingLogger

from drawdown.cli.main import run
from drawdown.cli.nouns import doctor
from drawdown.cli.nouns.status import WIDTH, as_object, status_lines
from drawdown.providers.protocol import CustomerState, NoCustomer, Rejected, RetryAt, Unknown
from drawdown.schema.database import read, write
from drawdown.schema.typed.parsing import lasting
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.customers import overview
from drawdown.server.console.screens.customers.overview import needs
from drawdown.worker.access.people import Person
from drawdown.worker.engine.shard import Shard
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import actions as pushes
from drawdown.worker.push import backlog as push_backlog
from drawdown.worker.status import backlog
from drawdown.worker.status import status as views_status
from drawdown.worker.status.status import org_status, status
from drawdown.worker.status.system_state import Status
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

ORGS = [f"org-{number}" for number in range(8)]


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign(*ORGS, provider="fake", from_ms=T0)
    for org in ORGS:
        made.sample(org, T0 + 1, 60)
    return made


def stands(fleet: Fleet) -> Status:
    return read(fleet.engine, lambda c: status(c, fleet.clock.now_ms()))


def look(fleet: Fleet) -> dict[str, Any]:
    """As programs are told."""
    return as_object(stands(fleet))


def text(fleet: Fleet) -> str:
    lines = "\n".join(status_lines(stands(fleet))).splitlines()
    assert max(len(line) for line in lines if not line.startswith("  next:")) <= WIDTH, "a command is in one line"
    return "\n".join(lines)


def keys() -> list[str]:
    return [f"usage:{org}:{T0}:compute_1gb" for org in ORGS]


def busy(provider: FakeProvider, fleet: Fleet, some: int) -> None:
    for key in keys()[:some]:
        provider.answers[key] = RetryAt(fleet.clock.now_ms() + 3 * WINDOW_MS, "HTTP 503 from their load balancer")


def test_status_settled_prints_three_lines(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    found = look(fleet)
    assert (found["verdict"], found["providers"]) == ("settled", [])
    assert text(fleet).splitlines()[0] == "ALL SETTLED: nothing waits"
    assert len(text(fleet).splitlines()) == 3


def test_status_of_customer_deleted_at_provider_is_behind(fleet: Fleet, provider: FakeProvider) -> None:
    """Its organisation goes on until what was read last is used up, so somebody has to know."""
    org = ORGS[0]
    provider.states[org] = CustomerState(10**9, None, None)
    fleet.tick_windows(2)
    provider.states[org] = NoCustomer()
    fleet.write(f"UPDATE orgs SET projection_due_ms = 0 WHERE org_id = '{org}'")
    fleet.tick_windows(1)
    found = look(fleet)
    assert (found["verdict"], found["next"]) == (
        "behind",
        f"drawdown provider check fake, then drawdown org show {org}",
    )
    assert "does not know the customer. The organisations run until the last balance read is used up" in found["reason"]
    credit = read(fleet.engine, lambda c: org_status(c, org, fleet.clock.now_ms())).credit
    assert credit is not None and credit.unread_since_ms is not None and credit.balance_micro == 10**9
    provider.answers[f"usage:{org}:{fleet.clock.at_ms - 2 * WINDOW_MS}:compute_1gb"] = Rejected("no such customer")
    fleet.sample(org, fleet.clock.at_ms - 2 * WINDOW_MS + 1, 60)
    fleet.tick_windows(2)
    assert (look(fleet)["verdict"], "no such customer" in look(fleet)["reason"]) == ("person_needed", True)


def test_status_of_waiting_pushes_shows_cause_age_price_and_end(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 4)
    fleet.tick_windows(2)
    fleet.clock.at_ms += 2 * MINUTE_MS
    (one,) = look(fleet)["providers"]
    assert (one["provider"], one["due"], one["units"]) == ("fake", 4, {"compute_1gb": 240})
    assert (one["price_micro"], one["unpriced"], one["settled_per_min"]) == (24_000, {}, 2)
    assert one["drained_ms"] == fleet.clock.at_ms + 2 * MINUTE_MS
    said = text(fleet)
    assert said.startswith("BEHIND: 4 pushes wait at fake: ")
    for part in ("4 due", "since 2 min (2026-01-01T00:10:00Z)", "503", "0.024 credits", "at 2/min: about 00:14 UTC"):
        assert part in " ".join(said.split()), said


def test_status_counts_other_push_errors(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 4)
    fleet.tick_windows(2)
    fleet.write(f"UPDATE pushes SET last_error = 'no answer in 10 s' WHERE org_id = '{ORGS[0]}'")
    (one,) = look(fleet)["providers"]
    assert ("503" in one["errors"]["waiting"], one["other_errors"]) == (True, {"waiting": 1})
    (need,) = needs(stands(fleet))
    assert need.what.endswith("503 from their load balancer; 1 other reason")


def test_status_of_push_sent_by_dead_worker_shows_sent(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 8)
    fleet.tick_windows(2)
    fleet.write("UPDATE pushes SET last_error = NULL")
    assert text(fleet).startswith("BEHIND: 8 pushes wait at fake: sent, but no response is on record")


def test_status_without_settled_pushes_shows_not_draining(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 8)
    fleet.tick_windows(2)
    (one,) = look(fleet)["providers"]
    assert (one["settled_per_min"], one["drained_ms"]) == (0, None)
    assert "not draining" in text(fleet)


def test_status_during_outage_shows_not_draining(
    fleet: Fleet, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N6: nobody knows when a provider comes back."""
    busy(provider, fleet, 4)
    fleet.tick_windows(2)
    assert look(fleet)["providers"][0]["drained_ms"] is not None
    provider.fails = ConnectionError("down")
    log = CapturingLogger()
    monkeypatch.setattr("drawdown.worker.push.push.log", log)
    fleet.tick(fleet.clock.at_ms + 2 * WINDOW_MS)
    assert look(fleet)["providers"][0]["drained_ms"] is None
    assert "not draining: the ticks" in text(fleet)
    (told,) = [call.kwargs for call in log.calls if call.args == ("pushes_settled",)]
    assert (told["other"], told["why"]) == (4, {"unknown: ConnectionError: down": 4})


def test_status_of_unusable_provider_does_not_predict_end(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 4)
    fleet.tick_windows(2)
    provider.capabilities = capabilities(unit=60)
    fleet.tick()
    assert look(fleet)["providers"][0]["drained_ms"] is None


def test_status_prediction_ignores_rate_of_other_provider(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 8)
    fleet.assign("globex", provider="embedded", from_ms=T0)
    fleet.sample("globex", T0 + 1)
    assert fleet.tick_windows(2).accepted_at == {"embedded": 1, "fake": 0}
    assert look(fleet)["providers"][0]["drained_ms"] is None


def ends(fleet: Fleet, *arguments: str) -> int:
    """The exit status of `drawdown status` at the fleet's time."""
    url = fleet.engine.url.render_as_string(hide_password=False)
    return run(["--database-url", url, "--at", str(fleet.clock.at_ms), "status", *arguments])


def test_status_exit_status_follows_verdict(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 1)
    fleet.tick_windows(2)
    assert (ends(fleet), ends(fleet, ORGS[0]), ends(fleet, ORGS[1])) == (75, 75, 0)
    fleet.write(f"UPDATE pushes SET state = 'in_doubt', last_error = 'lost' WHERE org_id = '{ORGS[0]}'")
    assert (ends(fleet), ends(fleet, ORGS[0]), ends(fleet, ORGS[1])) == (1, 1, 0)
    fleet.write("UPDATE pushes SET state = 'accepted'")
    assert (ends(fleet), ends(fleet, ORGS[0])) == (0, 0)


def test_status_lists_latest_halted_orgs_and_remains_settled(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    for number, org in enumerate(ORGS[:4]):
        at = fleet.clock.at_ms - (number + 1) * MINUTE_MS
        fleet.write(f"UPDATE orgs SET is_halted = TRUE, halted_at = {at}, halt_reason = 'spent' WHERE org_id = '{org}'")
    said = " ".join(text(fleet).split())
    assert "halted 4 organisations: org-0 (spent, 1 min), org-1 (spent, 2 min), org-2 (spent, 3 min), …; " in said
    assert "`drawdown org list --state halted`" in said and said.startswith("ALL SETTLED")


def test_status_of_paused_provider_shows_actor_and_undo_command(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: providers.pause(c, "fake", fleet.by))
    fleet.tick_windows(2)
    found = look(fleet)
    assert (found["verdict"], found["providers"][0]["paused_by"]) == ("behind", "test")
    assert "drawdown provider pause fake --undo" in found["next"]
    assert "not draining: paused" in text(fleet)


def test_status_of_push_in_doubt_or_stopped_org_needs_a_person(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 1)
    fleet.tick_windows(2)
    fleet.write(f"UPDATE pushes SET state = 'in_doubt', last_error = 'lost' WHERE org_id = '{ORGS[0]}'")
    found = look(fleet)
    assert (found["verdict"], found["reason"]) == (
        "person_needed",
        "1 push of 1 organisation in doubt at fake, 60 compute_1gb without a rate: lost",
    )
    assert found["next"] == "drawdown push resolve-all --provider fake --dry-run"
    fleet.write(f"UPDATE orgs SET stopped_at_ms = {T0}, stopped_reason = 'broken' WHERE org_id = '{ORGS[1]}'")
    assert look(fleet)["reason"] == f"1 organisation is stopped; {ORGS[1]}: broken"
    assert text(fleet).startswith("A PERSON IS NEEDED")


def test_status_of_rejected_push_shows_its_own_error(fleet: Fleet, provider: FakeProvider) -> None:
    busy(provider, fleet, 4)
    fleet.tick_windows(2)
    fleet.write(
        f"UPDATE pushes SET state = 'rejected', due_at_ms = 0, last_error = 'too old' WHERE org_id = '{ORGS[0]}'"
    )
    assert look(fleet)["reason"] == "1 push rejected at fake: too old"


def test_status_of_provider_with_changed_settings_needs_a_person(fleet: Fleet, provider: FakeProvider) -> None:
    """Its ticks end with 1, and send it nothing until somebody fixes its settings."""
    fleet.tick_windows(2)
    provider.capabilities = capabilities(unit=60)
    fleet.tick()
    found = look(fleet)
    assert (found["verdict"], found["next"]) == (
        "person_needed",
        "drawdown provider list; the next tick checks it again",
    )
    assert "fake: its settings changed on this machine" in found["reason"]


def test_status_of_cell_without_url_suggests_cell_list(fleet: Fleet) -> None:
    fleet.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    fleet.assign("acme")
    assert fleet.tick_windows(2).exit_status == 1
    found = look(fleet)
    assert found["verdict"] == "person_needed" and "cell-1 does not have a URL" in found["reason"]
    assert found["next"] == "drawdown cell list; the next tick checks it again"


def test_status_of_reconcile_difference_suggests_reconcile_from_its_day(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    day = T0 - T0 % DAY_MS - 9 * DAY_MS
    fleet.write(
        "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, "
        "theirs_qty, verdict, at_ms) "
        f"VALUES ({day}, 'a', 'fake', 'a', 'f', 1, 0, 'short', {T0})"
    )
    assert look(fleet)["next"] == "drawdown reconcile --provider fake --from 2025-12-23"


def test_status_without_recent_tick_suggests_cron(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    fleet.clock.at_ms += 23 * MINUTE_MS
    assert look(fleet)["reason"] == "no tick for 23 min. Check that cron runs"
    fleet.tick()
    assert look(fleet)["verdict"] == "settled"


def test_status_of_usage_of_unknown_org_is_behind(fleet: Fleet) -> None:
    fleet.sample("stranger", T0 + 1, 60)
    fleet.tick_windows(2)
    found = look(fleet)
    assert (found["verdict"], found["next"]) == (
        "behind",
        "drawdown org assign --unassigned --provider NAME --from TIME --dry-run",
    )
    assert found["pending"] == [{"reason": "unknown_org", "seconds": 60, "orgs": 1, "since_ms": T0, "units": 0}]
    assert "unknown_org: 60 s of 1" in text(fleet)


def test_status_queries_use_indexes_of_open_rows(fleet: Fleet, provider: FakeProvider) -> None:
    """On tables of which little is: each question goes by the index of what is."""
    provider.answers[keys()[0]] = Unknown("cut")
    fleet.tick_windows(2)
    postgres = fleet.engine.dialect.name == "postgresql"
    for sql, name, index in (
        (push_backlog.SQL, "open", "pushes_open"),
        (push_backlog.SQL, "errors", "pushes_open"),
        (views_status.SQL, "differing", "reconciliations_differing"),
        (backlog.SQL, "jobs", "jobs_failed"),
    ):
        query = sql.text(name, fleet.engine.dialect.name)
        with fleet.engine.connect() as connection:
            if postgres:
                connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
            prefix = "EXPLAIN " if postgres else "EXPLAIN QUERY PLAN "
            plan = "\n".join(str(tuple(row)) for row in connection.execute(sa.text(prefix + query), {"since_ms": 0}))
        assert index in plan, plan


def test_retry_of_a_thousand_rejected_pushes_voids_them_together(engine: sa.Engine) -> None:
    """All in one transaction: all of them, or none where one cannot be."""
    fleet = Fleet(engine)
    many(fleet, 1_000)
    chosen = [str(row[0]) for row in fleet.rows("SELECT key FROM pushes ORDER BY key")]
    assert len(write(engine, lambda c: pushes.retry(c, chosen, fleet.by))) == 1_000
    assert fleet.rows("SELECT state, COUNT(*) FROM pushes GROUP BY 1") == [("voided", 1_000)]
    assert fleet.one("SELECT COUNT(*) FROM dirty_windows") == 1_000


def many(fleet: Fleet, count: int) -> None:
    series = {
        "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})",
        "postgresql": "WITH n (i) AS (SELECT generate_series(1, {count}))",
    }[fleet.engine.dialect.name].format(count=count)
    fleet.assign("acme", provider="fake", from_ms=T0)
    window = f"({T0} + CAST(i AS BIGINT) * 300000)"
    fleet.write(
        "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
        f"sealed_at_ms, seal_id, state, due_at_ms, last_error) {series} SELECT {window}, 'acme', 'compute_1gb', 0, "
        f"'fake', 'acme', 60, 60, 'usage\\:acme\\:' || {window} || '\\:compute_1gb', {T0}, 1, 'rejected', {T0}, "
        "'unknown customer' FROM n"
    )


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0, "0 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (3 * 3_600_000 + 12 * 60_000, "3 h 12 min"),
        (86_400_000, "1 d"),
        (100 * 3_600_000, "4 d 4 h"),
    ],
)
def test_duration_in_words_is_shown_in_largest_units(length: int, words: str) -> None:
    assert lasting(length) == words


def test_status_with_quarantined_sample_is_behind(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    assert look(fleet)["verdict"] == "settled"
    fleet.sample("org-1", (T0 + 1) * 1000)  # microseconds
    fleet.tick_windows(1)
    found = look(fleet)
    assert (found["verdict"], found["reason"]) == (
        "behind",
        "samples or events are quarantined (ts_not_milliseconds) and not billed: 1",
    )
    assert "sample quarantined" in found["next"]


def test_status_counts_samples_dated_in_the_future(fleet: Fleet) -> None:
    """By a host whose clock is years ahead in all that it writes, or that says nothing of when it wrote."""
    for number, ingested in enumerate((T0 + 1000 * DAY_MS, None)):
        fleet.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, 'org-1', 'box', 'cell-1', 1024, 60, :ts, :ingested)",
            {"id": f"ahead-{number}", "ts": T0 + 1000 * DAY_MS, "ingested": ingested},
        )
    assert fleet.tick_windows(2).left.dated_ahead == 2
    found = look(fleet)
    assert (found["verdict"], found["reason"]) == (
        "behind",
        "samples or events are dated in the future and not billed until then: 2",
    )


@pytest.mark.both_databases
def test_status_ignores_tick_with_earlier_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cron's tick of a minute ago still is: nobody stopped calling it."""
    at = T0 + DAY_MS
    fleet.tick(at)
    fleet.tick(at - 365 * DAY_MS)
    fleet.clock.at_ms = at + MINUTE_MS
    found = stands(fleet).standing
    assert found.last_tick is not None and found.last_tick.started_ms == at
    assert "no tick for" not in text(fleet)
    monkeypatch.setattr(views_status, "MOST_TICKS", 1)
    assert "no tick for" in text(fleet)
    fleet.clock.at_ms = at - 364 * DAY_MS
    earlier = stands(fleet).standing.last_tick
    assert earlier is not None and earlier.started_ms == at - 365 * DAY_MS


def test_status_of_ticks_that_are_all_killed_is_late(fleet: Fleet) -> None:
    """Each killed tick leaves a row, so the latest was always younger than a late tick."""
    at = T0 + DAY_MS
    fleet.tick(at)
    for minute in range(5, 30, 5):
        values = f"'w', 0, 255, {at + minute * MINUTE_MS}"
        fleet.write(f"INSERT INTO ticks (worker, bucket_lo, bucket_hi, started_ms) VALUES ({values})")
    fleet.clock.at_ms = at + 12 * MINUTE_MS
    assert "no tick for" not in text(fleet), "one long tick is not late"
    fleet.clock.at_ms = at + 29 * MINUTE_MS
    assert "no tick for" in text(fleet)


@pytest.mark.both_databases
def test_overview_shows_all_ticks_of_a_day_of_many_shards(fleet: Fleet) -> None:
    """The page read the newest 2,000 ticks: half hours before these seemed to have no tick."""
    fleet.clock.at_ms = now = T0 + 2 * DAY_MS - 1
    shards = 8
    cases = {0: 1, 1: None, 2: 75}  # of the first tick of the first half hours
    ticks = [
        {"at": at, "status": cases.get(number // (6 * shards), 0) if number % (6 * shards) == 0 else 0}
        for number, at in enumerate(at for at in range(T0 + DAY_MS, now, 5 * MINUTE_MS) for _ in range(shards))
    ]
    ticks += [{"at": now - DAY_MS, "status": 1}, {"at": now - DAY_MS - 1, "status": 1}]
    fleet.write(
        "INSERT INTO ticks (worker, bucket_lo, bucket_hi, started_ms, exit_status) VALUES ('w', 0, 255, :at, :status)",
        ticks,
    )
    page = read(fleet.engine, lambda c: overview.read(c, Ask(Person("ann", "viewer", None), now)))
    assert page["cells"] == [
        ("bad", "2026-01-02 00:00: 48 ticks, at least one needs a person"),
        ("warn", "2026-01-02 00:30: 48 ticks, at least one has not ended"),
        ("warn", "2026-01-02 01:00: 48 ticks, at least one left work"),
        *(("ok", f"2026-01-02 {half // 2:02}:{half % 2 * 30:02}: 48 ticks, all settled") for half in range(3, 48)),
    ]
    assert (page["ticks"], page["failed"]) == (288 * shards + 1, 2)


@pytest.mark.both_databases
def test_status_of_dead_shard_is_late_while_another_ticks(fleet: Fleet) -> None:
    """Also of a shard that never ticked; and a whole tick covers both."""
    at, low, high = T0 + DAY_MS, Shard(0, 127), Shard(128, 255)
    fleet.tick(at, shard=low)
    fleet.tick(at + 20 * MINUTE_MS, shard=low)
    assert "no tick for 20 min of buckets 128 to 255" in text(fleet), "it never ticked"
    fleet.tick(shard=high)
    assert "no tick for" not in text(fleet)
    for minute in (25, 30, 36):
        fleet.tick(at + minute * MINUTE_MS, shard=low)
    found = look(fleet)
    assert (found["verdict"], found["reason"]) == (
        "person_needed",
        "no tick for 16 min of buckets 128 to 255. Check that cron runs",
    )
    fleet.tick()
    assert "no tick for" not in text(fleet)
    fleet.tick(at + 60 * MINUTE_MS, shard=Shard(64, 191))
    assert "of buckets 0 to 63" in text(fleet), "two shards are dead, and the one between them ticks"


def test_doctor_reports_dead_shard_while_another_ticks(fleet: Fleet) -> None:
    low, high = Shard(0, 127), Shard(128, 255)
    app: Any = SimpleNamespace(read=lambda work: read(fleet.engine, work), clock=fleet.clock)
    fleet.tick(T0 + DAY_MS, shard=high)
    fleet.tick(shard=low)
    assert [one.ok for one in doctor._ticks(app)] == [True]
    fleet.tick(T0 + DAY_MS + 20 * MINUTE_MS, shard=low)
    last, dead = doctor._ticks(app)
    assert (last.ok, dead.ok, dead.what) == (True, False, "no tick for 20 min of buckets 128 to 255")
