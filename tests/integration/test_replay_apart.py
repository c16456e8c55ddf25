"""Replay: an organisation that it fails on, and how it tells of its progress."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.cli.main import run as drawdown
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope
from drawdown.worker.replay.replay import Replayed, replay
from drawdown.worker.seal import seal as sealing
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_replay import BILLED, END, die_after, missed, planned, run, sealed
from tests.world import T0, Fleet

BAD_HOUR = T0 + 5 * 60 * MINUTE_MS


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return missed(Fleet(engine, extra={"fake": FakeProvider(capabilities())}))


def break_org(fleet: Fleet, org: str, window: int = BAD_HOUR) -> None:
    """Rows that no seal wrote: computing what is owed overflows."""
    if not fleet.rows("SELECT 1 FROM orgs WHERE org_id = :org", org=org):
        fleet.assign(org, from_ms=T0)
    fleet.sample(org, window + 1)
    for revision in (0, 1):
        fleet.write(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) VALUES (:w, :org, 'compute_1gb', :r, 'embedded', :org, "
            "-9000000000000000000, 1, :k, 0, 0, 'accepted', 0)",
            {"w": window, "r": revision, "k": f"{org}{window}{revision}", "org": org},
        )
    fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")


def healthy(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows(
        "SELECT org_id, COUNT(*), CAST(SUM(sealed_qty) AS BIGINT) FROM pushes WHERE org_id IN ('acme', 'globex') "
        "GROUP BY 1 ORDER BY 1"
    )


def test_replay_with_bad_organisation_stops_that_org_and_bills_other_orgs(fleet: Fleet) -> None:
    break_org(fleet, "bad")
    break_org(fleet, "worse", BAD_HOUR + DAY_MS)
    dry = run(fleet, planned(fleet), dry_run=True)
    assert ([one.org_id for one in dry.stopped], dry.pushes, dry.exit_status) == (["bad", "worse"], 96, 1)
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL") == 0
    found = run(fleet, planned(fleet))
    assert ([one.org_id for one in found.stopped], found.pushes, found.exit_status) == (["bad", "worse"], 96, 1)
    assert healthy(fleet) == BILLED
    stopped = fleet.rows("SELECT org_id, stopped_reason FROM orgs WHERE stopped_at_ms IS NOT NULL ORDER BY org_id")
    assert stopped == [(one.org_id, one.reason) for one in found.stopped]
    assert all(one.reason.startswith("cannot be sealed: ") for one in found.stopped)
    assert fleet.one("SELECT COUNT(*) FROM replays WHERE finished_ms IS NULL") == 0
    assert run(fleet, planned(fleet)).stopped == []  # it is left out from the start now


@pytest.mark.parametrize(
    "scope", [ReplayScope(("acme", "bad")), ReplayScope(provider="embedded")], ids=["orgs", "provider"]
)
def test_replay_of_named_scope_with_failing_org_stops_only_that_org(fleet: Fleet, scope: ReplayScope) -> None:
    break_org(fleet, "bad")
    found = run(fleet, planned(fleet, scope))
    assert ([one.org_id for one in found.stopped], found.pushes) == (["bad"], 48)


def test_replay_failure_in_every_org_does_not_stop_any_org(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: sa.Connection, *_: object, **__: object) -> None:
        connection.execute(sa.text("INSERT INTO buckets (id, watermark_ms, cursor) VALUES (0, 0, 0)"))

    monkeypatch.setattr(sealing, "seal_range", broken)
    with pytest.raises(DBAPIError):
        run(fleet, planned(fleet))
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL") == 0


def told(fleet: Fleet, made: ReplayPlan) -> tuple[list[tuple[str, int]], Replayed]:
    said: list[tuple[str, int]] = []
    context = fleet.context("w1")
    context.progress = lambda what, count: said.append((what, count))
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return said, runner.run(replay(context, made, fleet.by, dry_run=False), world)


def test_replay_progress_adds_up_to_windows_and_pushes(fleet: Fleet) -> None:
    said, found = told(fleet, planned(fleet))
    assert said[0] == ("range", 576)
    parts = [count for what, count in said if what == "replayed"]
    assert len(parts) > 3
    assert sum(parts) == 576
    assert sum(count for what, count in said if what == "pushed") == found.pushes == 96


def test_replay_progress_after_resume_counts_remaining_windows(fleet: Fleet) -> None:
    die_after(fleet, planned(fleet), 2)
    so_far = int(str(fleet.one("SELECT next_ms FROM replays")))
    fleet.clock.at_ms += 3 * MINUTE_MS
    said, _ = told(fleet, planned(fleet))
    rest = (END - so_far) // WINDOW_MS
    assert said[0] == ("range", rest)
    assert 0 < rest < 576
    assert sum(count for what, count in said if what == "replayed") == rest
    assert sealed(fleet) == BILLED


def command(fleet: Fleet, *arguments: str, status: int = 0) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    assert drawdown(["--database-url", url, "--at", str(fleet.clock.at_ms), *arguments]) == status


def test_replay_command_of_single_push_uses_singular(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write(f"UPDATE orgs SET floor_ms = {T0 + DAY_MS} WHERE org_id = 'globex'")
    given = ("replay", "--all", "--from", str(T0), "--to", str(T0 + WINDOW_MS))
    command(fleet, *given, "--dry-run")
    said = capsys.readouterr().out
    assert "would seal 1 push, 10 units\n" in said
    assert "floor    1 organisation is replayed only from the floor on" in said
    break_org(fleet, "bad", T0)
    command(fleet, *given, "--dry-run", status=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "skipped bad cannot be sealed: " in said
    assert "run `drawdown org resume bad`, and replay it" in said
    command(fleet, "--json", *given, "--dry-run", status=1)
    shown = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [one["org_id"] for one in shown["replay"]["stopped"]] == ["bad"]
    assert shown["exit_status"] == 1
