"""`drawdown push fold`: old pushes of the embedded ledger become sums that say the same; nothing is sealed by it."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.features.actions import map_size
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import drift
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.explanation import explain_push
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.status.status import org_status
from drawdown.worker.usage import prune as pruning
from drawdown.worker.usage.lists import read_usage
from drawdown.worker.usage.prune import fold, prune
from drawdown.worker.verify.verify import Verification, verify
from drawdown.worker.wallets import export
from tests.integration.test_since_last import proven, since
from tests.integration.verifying import tamper
from tests.world import Fleet

FEBRUARY = 1_706_745_600_000
"""2024-02-01: a time that is over, for the command's sake."""
MARCH = FEBRUARY + 29 * DAY_MS
"""2024-03-01: what lies before is folded."""
T0 = MARCH - 3 * DAY_MS
LATER = MARCH + 396 * DAY_MS
"""2025-04-01: thirteen months later."""


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """Two organisations of three old days and a new one, with a correction, a void and a late sample among them; all
    below the floor of the last old day's end, but for what `stuck` has pending from its second day on."""
    made = Fleet(engine, FixedClock(T0))
    made.assign("acme", "stuck", from_ms=T0)
    units = vendors.Units("cloud", "vm", "hour", 1, 5000, 1, "USD")
    write(engine, lambda c: vendors.set_units(c, "compute_1gb", units, T0, made.by, new=False))
    for day in range(3):
        made.clock.at_ms = T0 + day * DAY_MS
        for window in (0, 1, 140):
            for org in ("acme", "stuck"):
                made.sample(org, made.clock.at_ms + window * WINDOW_MS + 1, 10 + day)
        made.tick(made.clock.at_ms + 143 * WINDOW_MS, accept_clock=True)
    made.sample("acme", T0 + 2, 7)  # late: a revision
    refused_once(made)
    made.sample("stuck", T0 + DAY_MS + 5, 5, memory_mb=3000)  # no feature: it holds the floor
    made.tick_windows(1)
    made.sample("acme", LATER + 1, 3)
    made.tick(LATER + 3 * WINDOW_MS, accept_clock=True)
    prune(partial(write, made.engine), MARCH, made.by)
    return made


def refused_once(fleet: Fleet) -> None:
    """A feature without a rate: rejected, voided with evidence, and sealed again once it has one."""
    sized = partial(map_size, kind="exact", memory_mb=2048, unit="s", from_ms=0, confirmed=True)
    write(fleet.engine, lambda c: sized(c, "compute_2gb", fleet.by))
    fleet.sample("acme", T0 + 9, 11, memory_mb=2048)
    fleet.tick_windows(1)
    key = f"usage:acme:{T0}:compute_2gb"
    write(fleet.engine, lambda c: pushes.void(c, [key], fleet.by, "the ledger has no such entry"))
    fleet.rate("compute_2gb", 2)


def folded(fleet: Fleet, before: int = MARCH) -> pruning.FoldedMonths:
    return fold(partial(write, fleet.engine), before, fleet.by)


def compared(fleet: Fleet) -> Reconciled:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(reconcile(fleet.context(), ReconcileScope(), fleet.by), world)


def shown(fleet: Fleet) -> dict[str, object]:
    """Everything that tells of old usage."""
    found: dict[str, object] = {"verify": read(fleet.engine, lambda c: verify(c, now_ms=fleet.clock.at_ms)).breaches}
    return found | read(
        fleet.engine,
        lambda c: {
            "usage": [
                read_usage(c, org, T0, T0 + 300 * DAY_MS, by).rows
                for org in ("acme", "stuck")
                for by in ("feature", "day")
            ],
            "status": [sorted(map(str, map(asdict, org_status(c, org, LATER).pushes))) for org in ("acme", "stuck")],
            "drift": [asdict(line) for line in drift(c, T0, T0 + 5 * DAY_MS, LATER, 0, 0)],
            "ledger": list(export.export_lines(c, "ledger", export.Span("", 0, 2**60), "jsonl", LATER)),
        },
    )


@pytest.mark.both_databases
def test_fold_leaves_verify_reports_and_ledger_unchanged(fleet: Fleet) -> None:
    before = shown(fleet)
    assert before["verify"] == [] and before["drift"]
    entries = fleet.rows("SELECT * FROM ledger_entries ORDER BY key")
    assert fold(partial(write, fleet.engine), MARCH, fleet.by, dry_run=True).pushes == 15
    assert shown(fleet) == before
    done = folded(fleet)
    assert (done.pushes, done.kept, done.held_back) == (15, 6, 1), "stuck's second and third day stay"
    assert fleet.rows("SELECT org_id, COUNT(*) FROM pushes GROUP BY 1 ORDER BY 1") == [("acme", 1), ("stuck", 6)]
    assert fleet.one("SELECT COUNT(*) FROM attempts") == 7
    assert fleet.one("SELECT COUNT(*) FROM voids") == 1, "evidence stays"
    assert shown(fleet) == before
    assert folded(fleet).pushes == 0, "once"
    assert shown(fleet) == before
    fleet.sample("acme", T0 + 3, 50)
    assert fleet.tick_windows(1).left.quarantined == {"below_floor": 1}
    assert fleet.rows("SELECT * FROM ledger_entries ORDER BY key") == entries
    assert compared(fleet).differing == []
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'push_fold'") == 2


@pytest.mark.both_databases
def test_fold_dry_run_returns_numbers_of_fold(fleet: Fleet) -> None:
    dry = fold(partial(write, fleet.engine), MARCH, fleet.by, dry_run=True)
    assert dry == folded(fleet)
    assert (dry.pushes, dry.kept, dry.held_back) == (15, 6, 1), "each push of acme goes"


def test_folded_day_partial_range_and_folded_push_are_refused(fleet: Fleet) -> None:
    folded(fleet)
    with pytest.raises(UsageError, match="whole days"):
        read(fleet.engine, lambda c: read_usage(c, "acme", T0 + WINDOW_MS, T0 + DAY_MS, "feature"))
    with pytest.raises(UsageError, match="Export usage from then on"):
        read(fleet.engine, lambda c: list(export.export_lines(c, "usage", export.Span("", T0, LATER), "csv", LATER)))
    key = f"usage:acme:{T0}:compute_1gb"
    with pytest.raises(Refused, match="daily sums"):
        read(fleet.engine, lambda c: explain_push(c, key))
    with pytest.raises(Refused, match="daily sums"):
        write(fleet.engine, lambda c: pushes.void(c, [key], fleet.by, "their console"))
    with pytest.raises(Refused, match="daily sums"):
        write(fleet.engine, lambda c: pushes.retry(c, [key], fleet.by))


def test_fold_of_recent_or_partial_month_is_refused(fleet: Fleet) -> None:
    for before, why in ((MARCH + DAY_MS, "the first month to keep"), (MARCH + 31 * DAY_MS, "13 months")):
        with pytest.raises(UsageError, match=why):
            folded(fleet, before)
    assert folded(fleet, FEBRUARY).pushes == 0


def test_fold_skips_in_doubt_pushes_and_other_providers(fleet: Fleet) -> None:
    tamper(fleet, f"UPDATE pushes SET state = 'in_doubt' WHERE org_id = 'acme' AND window_ms = {T0 + DAY_MS}")
    tamper(fleet, "UPDATE pushes SET provider = 'other' WHERE org_id = 'stuck'")
    assert folded(fleet).pushes == 0


@pytest.mark.both_databases
@pytest.mark.parametrize("revision", ["", ":r1"])
def test_fold_keeps_window_that_proves_clock_was_set_back(fleet: Fleet, revision: str) -> None:
    """Without its seal, `verify` would take the charge for one that was booked before its usage."""
    key, back = f"usage:acme:{T0}:compute_1gb{revision}", f"- {5 * DAY_MS} WHERE"
    tamper(
        fleet,
        f"UPDATE pushes SET settled_ms = settled_ms {back} key = '{key}'",
        f"UPDATE ledger_entries SET at_ms = at_ms {back} key = '{key}'",
    )
    assert read(fleet.engine, verify).clean
    assert folded(fleet).pushes == 13, "both revisions stay"
    assert fleet.one(f"SELECT COUNT(*) FROM pushes WHERE org_id = 'acme' AND window_ms = {T0}") == 2
    assert read(fleet.engine, verify).clean


def test_manual_sql_on_pushes_or_folded_sums_is_refused(fleet: Fleet) -> None:
    for text, why in (
        (f"DELETE FROM pushes WHERE window_ms = {LATER}", "S3"),
        (f"DELETE FROM pushes WHERE window_ms = {T0}", "S3"),
        (f"DELETE FROM attempts WHERE window_ms = {LATER}", "P1"),
    ):
        with pytest.raises(sa.exc.DBAPIError, match=why):
            fleet.write(text)
    folded(fleet)
    for text in ("DELETE FROM folded_pushes", "UPDATE folded_pushes SET sent_qty = sent_qty + 1"):
        with pytest.raises(sa.exc.DBAPIError, match="S3"):
            fleet.write(text)


def test_interrupted_fold_keeps_totals_and_can_continue(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    before = shown(fleet)
    done: list[int] = []

    def cut_off(work: object, **options: object) -> object:
        if len(done) == 4:  # the word on record, and three portions
            raise KeyboardInterrupt
        done.append(1)
        return write(fleet.engine, work, **options)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        fold(cut_off, MARCH, fleet.by)  # type: ignore[arg-type]
    gone = int(str(fleet.one("SELECT SUM(pushes) FROM folded_pushes")))
    assert 0 < gone < 15
    assert shown(fleet) == before
    assert compared(fleet).differing == []
    assert folded(fleet).pushes == 15 - gone
    assert shown(fleet) == before


OF_ACME = "UPDATE folded_pushes SET {} WHERE org_id = 'acme' AND state = 'accepted'"
BREAKS = {
    "a sum says more": (2, OF_ACME.format("sent_qty = sent_qty + 1, sealed_qty = sealed_qty + 1")),
    "a push was counted twice": (2, OF_ACME.format("pushes = pushes + 1")),
    "a sum is gone": (2, "DELETE FROM folded_pushes WHERE state = 'accepted'"),
    "sealed is not what was sent": (2, OF_ACME.format("sealed_qty = sealed_qty + 1")),
    "a void counts as charged": (
        2,
        "DELETE FROM folded_pushes WHERE state = 'accepted' AND feature = 'compute_2gb';"
        "UPDATE folded_pushes SET state = 'accepted', pushes = 9 WHERE state = 'voided'",
    ),
    "a charge is gone": (2, f"DELETE FROM ledger_entries WHERE key = 'usage:acme:{T0}:compute_1gb'"),
    "a charge is booked a month before": (
        2,
        f"UPDATE ledger_entries SET at_ms = at_ms - {30 * DAY_MS} WHERE key = 'usage:acme:{T0}:compute_1gb'",
    ),
    "the sums are another one's": (3, "UPDATE folded_pushes SET org_id = 'nobody' WHERE org_id = 'acme'"),
    "the floor lies lower": (4, f"UPDATE orgs SET floor_ms = {T0 + DAY_MS - WINDOW_MS} WHERE org_id = 'acme'"),
    "nobody said so": (4, "DELETE FROM operator_actions WHERE action = 'push_fold'"),
}


def test_inconsistent_fold_is_found_by_verify(fleet: Fleet) -> None:
    folded(fleet)
    if fleet.engine.dialect.name == "sqlite":
        tamper(fleet, "UPDATE orgs SET floor_ms = floor_ms")  # its guards are gone from here on
    for invariant, texts in BREAKS.values():

        def broken(connection: sa.Connection, texts: str = texts) -> Verification:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for text in texts.split(";"):
                assert connection.execute(sa.text(text.replace(":", "\\:"))).rowcount, texts
            return verify(connection)

        assert write(fleet.engine, broken, rollback=True).by_invariant[invariant] > 0, texts
    assert read(fleet.engine, verify).clean


def test_incremental_verify_checks_folded_sums(fleet: Fleet) -> None:
    held = proven(fleet)
    folded(fleet)
    found = since(fleet, held)
    assert found.clean and found.point is not None and (found.point.window_ms, found.point.why) == (T0, "a fold")
    tamper(fleet, "UPDATE folded_pushes SET sent_qty = sent_qty + 1, sealed_qty = sealed_qty + 1")
    assert since(fleet, held).by_invariant[2] == len(fleet.rows("SELECT 1 FROM folded_pushes WHERE state = 'accepted'"))


def test_push_fold_command_reports_folded_and_remaining_pushes(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False)
    at = ("--database-url", url, "--at", str(fleet.clock.at_ms))
    for before, says in (
        ("2024", "expected a month as YYYY-MM, such as 2025-01"),
        ("2024-13", "invalid --before '2024-13'"),
        ("2030-01", "Pass --before 20"),
    ):
        assert drawdown([*at, "push", "fold", "--before", before]) == 2
        assert says in capsys.readouterr().err
    assert drawdown([*at, "push", "fold", "--before", "2024-03", "--dry-run"]) == 0
    assert "would fold 15 pushes of windows before 2024-03-01" in capsys.readouterr().out
    assert drawdown([*at, "--json", "push", "fold", "--before", "2024-03", "--reason", "a test"]) == 0
    said = json.loads(capsys.readouterr().out)["folded"]
    assert (said["pushes"], said["kept"], said["held_back"]) == (15, 6, 1)
