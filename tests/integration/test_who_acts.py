"""Status says who acts by the reason: a person where no later try helps, with names and a command; else until when."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.nouns.status import status_lines
from drawdown.providers.protocol import RetryAt
from drawdown.schema.database import read
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.halts.addresses import NOT_ALLOWED, UNSIGNED
from drawdown.worker.status.status import status
from drawdown.worker.status.system_state import HALTS_LATE_MS
from drawdown.worker.verdict.watch_state import rounds_of
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign("acme", "globex", provider="fake", from_ms=T0)
    for org in ("acme", "globex"):
        made.sample(org, T0 + 1, 60)
    return made


def headline(fleet: Fleet) -> Any:
    return read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)).headline


def halted(fleet: Fleet, error: str | None, org: str = "acme", cell: str = "cell-1") -> None:
    now = fleet.clock.at_ms
    fleet.write("INSERT INTO cells (cell_id, url) VALUES (:c, 'http://127.0.0.1:1')", {"c": cell})
    fleet.write(
        "UPDATE orgs SET is_halted = TRUE, halt_reason = 'spent', halted_at = :now WHERE org_id = :o",
        {"now": now, "o": org},
    )
    fleet.write(
        "INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms, last_error, attempts) "
        "VALUES (:o, :c, :now, :now, :e, 1)",
        {"o": org, "c": cell, "now": now, "e": error},
    )


def test_halt_that_retry_cannot_deliver_needs_a_person(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    halted(fleet, None)
    for error in (
        f"the URL of cell cell-1 {NOT_ALLOWED}", UNSIGNED, "the cell answered 401", "the cell answered 404",
    ):  # fmt: skip
        fleet.write("UPDATE halts SET last_error = :error", {"error": error})
        found = headline(fleet)
        assert found.verdict == "person_needed", error
        assert found.reason.startswith("Drawdown could not deliver 1 halt (of acme) to cell cell-1 since 2026-")
        assert error in found.reason
        assert found.next.startswith("drawdown cell list, then fix cell cell-1")
    report = fleet.tick()
    assert report.exit_status == 1 or report.halts_acknowledged, "the tick asks for a person, too"


def test_halt_to_unavailable_cell_is_retried_until_shown_time(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    halted(fleet, "the cell answered 503")
    fleet.clock.at_ms += MINUTE_MS
    found = headline(fleet)
    assert found.verdict == "behind" and "could not deliver" in found.reason
    assert found.next == "wait until 2026-01-01T00:20:00Z while watch and ticks retry, then drawdown cell list"
    fleet.clock.at_ms += HALTS_LATE_MS
    assert headline(fleet).next.startswith("drawdown cell list, then stop the sandboxes")


def test_acknowledged_halt_due_again_is_undelivered_only_after_error(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    halted(fleet, None)
    assert "could not deliver" in headline(fleet).reason
    box = "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')"
    fleet.write(box)
    fleet.write("UPDATE halts SET due_at_ms = NULL, acked_at_ms = halted_at")
    fleet.write("UPDATE halts SET due_at_ms = halted_at, ignored = 1, ignored_since_ms = halted_at")
    assert "could not deliver" not in headline(fleet).reason, "the cell acknowledged it"
    fleet.write("UPDATE halts SET last_error = 'the cell answered 503'")
    assert "could not deliver" in headline(fleet).reason


def test_undelivered_halt_is_reported_before_backlog(fleet: Fleet, provider: FakeProvider) -> None:
    for org in ("acme", "globex"):
        provider.answers[f"usage:{org}:{T0}:compute_1gb"] = RetryAt(T0 + 9 * WINDOW_MS, "HTTP 503")
    fleet.tick_windows(2)
    halted(fleet, "the cell answered 503")
    assert "cell-1" in headline(fleet).reason


def test_refused_key_needs_a_person_although_other_pushes_settle(fleet: Fleet, provider: FakeProvider) -> None:
    refused = RetryAt(T0 + 9 * WINDOW_MS, "the key is refused (HTTP 401)", by_person=True)
    provider.answers[f"usage:acme:{T0}:compute_1gb"] = refused
    report = fleet.tick_windows(2)
    assert (report.exit_status, report.left.refused) == (1, 1)
    found = headline(fleet)
    assert (found.verdict, found.reason) == (
        "person_needed", "fake refuses 1 push until you change a setting: the key is refused (HTTP 401)",
    )  # fmt: skip
    assert found.next == "drawdown provider check fake shows the setting to change"
    assert fleet.one("SELECT last_error FROM pushes WHERE state = 'due'") == f"{NEEDS_YOU}the key is refused (HTTP 401)"


@pytest.mark.parametrize("is_sealed", [True, False])
def test_provider_without_key_needs_a_person_if_usage_is_pending(
    fleet: Fleet, provider: FakeProvider, is_sealed: bool
) -> None:
    lost = {"fake": "FAKE_KEY is not set"}
    provider.answers[f"usage:acme:{T0}:compute_1gb"] = RetryAt(T0 + 9 * WINDOW_MS, "HTTP 503")
    fleet.tick(T0 + 2 * WINDOW_MS, dormant={} if is_sealed else lost)
    report = fleet.tick(T0 + 3 * WINDOW_MS, dormant=lost)
    assert (report.exit_status, report.problems) == (
        1,
        ["fake: FAKE_KEY is not set. Drawdown does not send pushes to it"],
    )
    found = headline(fleet)
    assert found.verdict == "person_needed" and "FAKE_KEY is not set" in found.reason


def test_status_of_queued_pushes_shows_drain_or_retry_time(fleet: Fleet, provider: FakeProvider) -> None:
    provider.answers[f"usage:acme:{T0}:compute_1gb"] = RetryAt(T0 + 9 * WINDOW_MS, "HTTP 503")
    fleet.tick_windows(2)
    assert headline(fleet).next.startswith("wait: the queue drains by about 2026-01-01T00:1")
    fleet.clock.at_ms += 20 * MINUTE_MS
    fleet.write("UPDATE ticks SET started_ms = :now, finished_ms = :now", {"now": fleet.clock.at_ms})
    fleet.write("""UPDATE ticks SET report = '{"accepted_at": {"fake": 0}}'""")
    assert headline(fleet).next == (
        "drawdown provider check fake; ticks send them once it answers, next at 2026-01-01T00:45:00Z"
    )


def test_pushes_that_fail_for_an_hour_are_not_reported_as_draining(fleet: Fleet, provider: FakeProvider) -> None:
    provider.answers[f"usage:acme:{T0}:compute_1gb"] = RetryAt(T0 + 30 * WINDOW_MS, "HTTP 500")
    fleet.tick_windows(2)
    fleet.clock.at_ms += 61 * MINUTE_MS
    fleet.sample("globex", fleet.clock.at_ms - 3 * WINDOW_MS, 60)
    fleet.tick()
    assert headline(fleet).next.startswith("drawdown push list --state due --provider fake: these fail while others")


def test_watch_once_is_not_recorded_as_running_watch(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    fleet.tick_windows(2)
    assert run(["watch", "--once"]) == 0
    assert read(fleet.engine, rounds_of).last_ms is None
    fleet.clock.at_ms += 10 * MINUTE_MS
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms))
    assert (found.headline.verdict, [line for line in status_lines(found) if line.startswith("watch")]) == (
        "settled",
        [],
    )
