"""Backfills: events of the past are staged, shown, put in exactly as shown, and taken back, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.events.envelope import UsageEvent
from drawdown.schema import database
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.server.console.screens.oncall.backfills import _usage_table
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.events.store import EventResult
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import Backfill, Diff, list_backfills
from drawdown.worker.usage.prune import raise_floors
from drawdown.worker.verify.verify import verify
from tests.integration.losing import lost
from tests.integration.telling_events import RENDER, billed_by_units, clean, event, mapped, statuses, told, withdrawn
from tests.world import T0, Fleet

PRICE = 2
"""Micro-credits a unit."""


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """A day after the first window: all of it is sealed."""
    made = Fleet(engine)
    made.clock.at_ms = T0 + 10
    billed_by_units(made, "acme")
    told(made, event("before", 5))
    made.tick(T0 + DAY_MS)
    return made


def opened(fleet: Fleet, name: str = "june", to_ms: int = T0 + 10 * WINDOW_MS) -> Backfill:
    return write(fleet.engine, lambda c: backfills.open_backfill(c, name, "acme", T0, to_ms, fleet.by))


def staged(fleet: Fleet, *events: UsageEvent, name: str = "june") -> list[EventResult]:
    return write(fleet.engine, lambda c: backfills.stage(c, name, events, fleet.clock.at_ms))


def shown(fleet: Fleet, name: str = "june") -> Diff:
    return read(fleet.engine, lambda c: backfills.diff(c, name))


def closed(fleet: Fleet, name: str = "june", hash_: str | None = None) -> Diff:
    given = shown(fleet, name).hash if hash_ is None else hash_
    return write(fleet.engine, lambda c: backfills.close(c, name, given, fleet.by))


def reverted(fleet: Fleet, name: str = "june") -> list[int]:
    counts, done = [], False
    while not done:
        count, done = write(fleet.engine, lambda c: backfills.revert(c, name, fleet.by))
        counts.append(count)
    return counts


def billed(fleet: Fleet) -> int:
    return int(str(fleet.one("SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_entries WHERE feature = 'render'")))


def test_backfill_is_billed_once_after_close(fleet: Fleet) -> None:
    opened(fleet)
    answers = staged(fleet, event("a", 3), event("b", 4, occurred_ms=T0 + WINDOW_MS), event("a", 3))
    assert statuses(answers) == [("accepted", None), ("accepted", None), ("duplicate", None)]
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    assert billed(fleet) == 5 * PRICE
    found = closed(fleet)
    assert (found.counts, found.price_micro) == ({"new": 2}, 7 * PRICE)
    assert [(one.what, one.provider, one.code, one.events, one.quantity, one.windows) for one in found.lines] == [
        ("render", "embedded", None, 2, 7, 2)
    ]
    fleet.tick(T0 + DAY_MS + 2 * WINDOW_MS)
    fleet.tick(T0 + DAY_MS + 3 * WINDOW_MS)
    assert billed(fleet) == 12 * PRICE
    clean(fleet)


def test_backfill_revert_refunds_and_its_ids_stay_withdrawn(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfills, "REVERTED_AT_ONCE", 2)
    opened(fleet)
    staged(fleet, *(event(f"e-{number}", number) for number in range(1, 6)))
    closed(fleet)
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    assert billed(fleet) == 20 * PRICE
    assert reverted(fleet) == [2, 2, 1]
    assert reverted(fleet) == [0]
    fleet.tick(T0 + DAY_MS + 2 * WINDOW_MS)
    assert billed(fleet) == 5 * PRICE
    assert statuses(told(fleet, event("e-1", 1))) == [("duplicate", "withdrawn")]
    with pytest.raises(Refused, match="'june' is reverted, not open"):
        opened(fleet)
    opened(fleet, "again")
    staged(fleet, event("e-2", 2), name="again")
    assert shown(fleet, "again").counts == {"withdrawn": 1}
    clean(fleet)


def test_backfill_revert_while_open_leaves_usage_unchanged(fleet: Fleet) -> None:
    opened(fleet)
    staged(fleet, event("a", 3))
    assert reverted(fleet) == [0]
    assert fleet.rows("SELECT * FROM backfill_events") == []
    assert statuses(told(fleet, event("a", 3))) == [("accepted", None)]
    clean(fleet)


def test_backfill_event_already_received_is_not_added(fleet: Fleet) -> None:
    opened(fleet)
    told(fleet, event("there", 2), event("other", 2), event("gone", 2))
    withdrawn(fleet, "gone")
    staged(fleet, event("there", 2), event("other", 3), event("gone", 2), event("new", 1))
    assert shown(fleet).counts == {"conflict": 1, "duplicate": 1, "new": 1, "withdrawn": 1}
    closed(fleet)
    assert fleet.rows("SELECT event_id FROM backfill_events") == [("new",)]
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    assert billed(fleet) == (5 + 2 + 2 + 1) * PRICE
    reverted(fleet)
    fleet.tick(T0 + DAY_MS + 2 * WINDOW_MS)
    assert billed(fleet) == (5 + 2 + 2) * PRICE
    clean(fleet)


def _more(fleet: Fleet) -> None:
    staged(fleet, event("late", 1))


def _known(fleet: Fleet) -> None:
    told(fleet, event("a", 3, occurred_ms=T0 + WINDOW_MS))


def _rated(fleet: Fleet) -> None:
    fleet.rate("render", 3, T0 + WINDOW_MS)


def _mapped_type(fleet: Fleet) -> None:
    mapped(fleet, "other.type", "render_other")


@pytest.mark.parametrize("change", [_more, _known, _rated, _mapped_type])
def test_backfill_close_with_stale_hash_is_refused(fleet: Fleet, change: Callable[[Fleet], None]) -> None:
    opened(fleet)
    staged(fleet, event("a", 3, occurred_ms=T0 + WINDOW_MS), event("b", 1, event_type="other.type"))
    before = shown(fleet).hash
    assert shown(fleet).hash == before
    change(fleet)
    with pytest.raises(Refused, match="the hash does not match the present content of june") as refused:
        closed(fleet, hash_=before)
    assert shown(fleet).hash not in str(refused.value), "nobody closes what they have not looked at"
    assert fleet.one("SELECT state FROM backfills") == "open"
    closed(fleet)
    clean(fleet)


def test_backfill_close_repeated_with_same_hash_is_ignored(fleet: Fleet) -> None:
    opened(fleet)
    staged(fleet, event("a", 3))
    said = closed(fleet).hash
    closed(fleet, hash_=said)
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'backfill_close'") == 1
    with pytest.raises(Refused, match="the backfill 'june' is closed"):
        closed(fleet, hash_="0" * 32)
    with pytest.raises(Refused, match="the backfill 'june' is closed"):
        staged(fleet, event("b", 3))
    with pytest.raises(Refused, match="the backfill 'june' is closed"):
        shown(fleet)


@pytest.mark.both_databases
def test_backfill_command_after_lost_commit_counts_earlier_events(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backfills, "REVERTED_AT_ONCE", 2)
    url = fleet.engine.url.render_as_string(hide_password=False)

    def asked(*words: str, lose: bool = False) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            if lose:
                patch.setattr(database, "_commit", lost)
            status = drawdown(["--database-url", url, "backfill", *words])
        said = capfd.readouterr()
        return status, said.err if lose else said.out

    opened(fleet)
    staged(fleet, *(event(name, 1) for name in "abc"))
    hash_ = shown(fleet).hash
    assert asked("close", "june", "--hash", hash_, lose=True)[0] == 75
    assert asked("close", "june", "--hash", hash_) == (0, "june: closed, added events: 3\n")
    assert asked("revert", "june", lose=True)[0] == 75
    half = "june: closed, added events: 3 (withdrawn since: 2)\n"
    assert asked("close", "june", "--hash", hash_) == (0, half)
    whole = "(withdrawn events: 3). The next tick refunds the charges that are left"
    assert asked("revert", "june") == (0, f"june: reverted {whole}\n")
    assert asked("revert", "june") == (0, "june: was reverted before (withdrawn events: 3)\n")
    clean(fleet)


def test_backfill_stage_answers_each_item_separately(fleet: Fleet) -> None:
    opened(fleet)
    answers = staged(
        fleet, event("a", 3), event("a", 4), event("b", org_id="globex"), event("c", occurred_ms=T0 + 10 * WINDOW_MS),
        event("d", occurred_ms=T0 - 1), event("e", occurred_ms=T0),
    )  # fmt: skip
    assert statuses(answers) == [
        ("accepted", None), ("conflict", "other_content"), ("invalid", "foreign_org"), ("invalid", "outside"),
        ("invalid", "outside"), ("accepted", None),
    ]  # fmt: skip
    again = staged(fleet, event("a", 4), event("e", occurred_ms=T0))
    assert statuses(again) == [("conflict", "other_content"), ("duplicate", None)]


def test_backfill_stage_item_is_answered_by_staged_content(fleet: Fleet) -> None:
    opened(fleet)
    staged(fleet, event("e1", 3))
    told = staged(fleet, event("e1", 4), event("e1", 3))
    assert [one.status for one in told] == ["conflict", "duplicate"]


def test_backfill_unmapped_event_is_shown_and_billed_after_mapping(fleet: Fleet) -> None:
    opened(fleet)
    staged(fleet, event("a", 3, event_type="strange"), event("b", 4))
    lines = [(one.what, one.code, one.quantity, one.price_micro) for one in shown(fleet).lines]
    assert lines == [("render", None, 4, 4 * PRICE), ("strange", "unmapped", 3, 0)]
    closed(fleet)
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    write(fleet.engine, lambda c: map_event(c, "strange", "oddly", fleet.by, from_ms=T0, confirmed=True))
    fleet.tick(T0 + DAY_MS + 2 * WINDOW_MS)
    assert fleet.rows("SELECT feature, SUM(sealed_qty) FROM pushes GROUP BY feature ORDER BY 1") == [
        ("oddly", 3), ("render", 9),
    ]  # fmt: skip
    clean(fleet)


WRONG: Sequence[tuple[dict[str, Any], type[Exception], str]] = (
    ({"name": ""}, UsageError, "invalid backfill name '': expected 1 to 200 characters"),
    ({"from_ms": T0 + 1}, UsageError, "expected window boundaries"),
    ({"to_ms": T0}, UsageError, "--to must be later than --from, by at most 31 days"),
    ({"from_ms": T0 - 32 * DAY_MS}, UsageError, "at most 31 days"),
    ({"to_ms": T0 + 2 * DAY_MS}, UsageError, "is in the future, but a backfill is for past events"),
    ({"org_id": "acmee"}, UnknownId, "acme"),
)


@pytest.mark.parametrize(("values", "error", "said"), WRONG)
def test_backfill_open_with_invalid_values_is_refused(
    fleet: Fleet, values: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {"name": "june", "org_id": "acme", "from_ms": T0, "to_ms": T0 + WINDOW_MS, **values}
    with pytest.raises(error, match=said):
        write(fleet.engine, partial(_open, by=fleet.by, given=given))


def _open(connection: sa.Connection, *, by: Any, given: dict[str, Any]) -> None:
    backfills.open_backfill(connection, given["name"], given["org_id"], given["from_ms"], given["to_ms"], by)


def test_backfill_open_beside_open_backfill_is_refused(fleet: Fleet) -> None:
    assert opened(fleet) == opened(fleet)
    with pytest.raises(Refused, match=r"it has the open backfill june. Close or revert june first"):
        opened(fleet, "july")
    with pytest.raises(Refused, match="cannot open backfill june: the name is used"):
        opened(fleet, to_ms=T0 + WINDOW_MS)
    reverted(fleet)
    opened(fleet, "july")
    assert [row.backfill for row in read(fleet.engine, list_backfills)] == ["july", "june"]
    with pytest.raises(UnknownId, match="july"):
        shown(fleet, "julyy")


def test_backfill_event_below_floor_is_not_added(fleet: Fleet) -> None:
    opened(fleet)
    staged(fleet, event("a", 3), event("b", 4, occurred_ms=T0 + 5 * WINDOW_MS))
    write(fleet.engine, lambda c: raise_floors(c, before=T0 + WINDOW_MS, by=fleet.by))
    assert shown(fleet).counts == {"new": 1, "too_late": 1}
    closed(fleet)
    assert fleet.rows("SELECT event_id FROM backfill_events") == [("b",)]
    clean(fleet)
    with pytest.raises(Refused, match="are closed for good"):
        opened(fleet, "july")


def test_backfill_stage_beyond_limit_is_refused(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfills, "MOST_STAGED", 2)
    opened(fleet)
    with pytest.raises(Refused, match="would exceed the limit of 2 events"):
        staged(fleet, event("a"), event("b"), event("c"))
    assert fleet.rows("SELECT * FROM backfill_events") == []


BROKEN = {
    "an event that never went in": (
        "DELETE FROM usage_events WHERE event_id = 'a'",
        "the event a of app was added by june, but is missing or differs from the staged event",
    ),
    "an event of another project": (
        "UPDATE usage_events SET project = 'p9' WHERE event_id = 'a'",
        "the event a of app was added by june, but is missing or differs from the staged event",
    ),
    "an event of another subject": (
        "UPDATE usage_events SET subject = 's9' WHERE event_id = 'a'",
        "the event a of app was added by june, but is missing or differs from the staged event",
    ),
    "an event under another plan": (
        "UPDATE usage_events SET plan_key = 'k9' WHERE event_id = 'a'",
        "the event a of app was added by june, but is missing or differs from the staged event",
    ),
    "an event with other properties": (
        """UPDATE usage_events SET properties = '{"a": 9}' WHERE event_id = 'a'""",
        "the event a of app was added by june, but is missing or differs from the staged event",
    ),
    "one that nobody reverted": (
        "UPDATE backfills SET state = 'reverted', reverted_ms = closed_ms",
        "what was reverted of june is all at",
    ),
    "one that was reverted and is closed again": (
        "UPDATE backfills SET state = 'closed', reverted_ms = NULL",
        "what was reverted of june is none, but the audit log has all at",
    ),
    "one that is gone": ("DELETE FROM backfills", "backfill june is none, but the audit log has to"),
    "a staged event that is gone": (
        "DELETE FROM backfill_events",
        "what went in by june is 0 events at",
    ),
    "one of another range": (
        "UPDATE backfills SET to_ms = to_ms + 300000",
        "backfill june is to",
    ),
    "an event that counts though it was reverted": (
        "DELETE FROM withdrawals",
        "june was reverted, but the event a of app still counts",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_verify_tampered_backfill_is_reported(fleet: Fleet, broken: str) -> None:
    opened(fleet)
    staged(fleet, event("a", 3))
    closed(fleet)
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    if "was reverted" in broken:
        reverted(fleet)
    clean(fleet)
    statement, said = BROKEN[broken]
    _unguarded(fleet, statement)
    assert any(one.text.startswith(said) for one in read(fleet.engine, verify).breaches)


def _unguarded(fleet: Fleet, statement: str) -> None:
    """As somebody who owns the tables may."""
    if fleet.engine.dialect.name == "postgresql":
        fleet.write("SET session_replication_role = replica;" + statement)
        return
    triggers = fleet.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    with fleet.engine.begin() as connection:
        for (name,) in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql(statement)


def test_backfill_file_is_read_line_by_line(fleet: Fleet, tmp_path: Path) -> None:
    from drawdown.worker.sources.samples.importer import open_lines
    from drawdown.worker.usage.backfills import read_events

    good = {"source": "app", "event_id": "a", "event_type": RENDER, "quantity": 3, "occurred_at": T0 + 1}
    cloud = {"specversion": "1.0", "source": "app", "id": "c", "type": RENDER, "time": "2026-01-01T00:00:01Z",
             "data": {"quantity": 1}}  # fmt: skip
    wrong = [{**good, "quantity": 1.5}, {**good, "org_id": "globex"}, {**good, "occurred_at": None}]
    path = tmp_path / "events.jsonl"
    lines = [json.dumps(good), "", json.dumps(cloud), *map(json.dumps, wrong), "{", "[]"]
    path.write_text("\n".join(lines))
    with open_lines(str(path)) as given:
        found = list(read_events(given, "acme", fleet.clock.at_ms, {}))
    kinds = [one.event_id if isinstance(one, UsageEvent) else one.code for _, one in found]
    assert kinds == ["a", "c", "not_whole", "foreign_org", "no_time", "not_json", "not_an_object"]
    assert [number for number, _ in found] == [1, 3, 4, 5, 6, 7, 8]
    assert "this file is for events of acme" in [str(one) for _, one in found if not isinstance(one, UsageEvent)]


def test_backfill_open_too_long_is_reported(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def due(days: float, **more: int) -> list[tuple[str, str]]:
        now_ms = fleet.by.now_ms + int(days * DAY_MS)
        return [(one.backfill, one.why) for one in read(fleet.engine, lambda c: backfills.overdue(c, now_ms, **more))]

    assert due(99) == [] and read(fleet.engine, backfills.open_backfills) == backfills.OpenBackfills(0, None)
    opened(fleet)
    assert read(fleet.engine, backfills.open_backfills) == backfills.OpenBackfills(1, fleet.by.now_ms)
    assert due(7) == []
    assert due(7.001) == due(1.001, open_ms=DAY_MS) == [("june", "open_long")]
    fleet.write("UPDATE orgs SET floor_ms = :at WHERE org_id = 'acme'", {"at": T0 + WINDOW_MS})
    assert due(0) == [("june", "below_floor")]
    with monkeypatch.context() as patch:
        patch.setattr(backfills, "MOST_OPEN", 0)
        assert due(99) == []
    reverted(fleet)
    assert due(99) == [] and read(fleet.engine, backfills.open_backfills).count == 0


def test_backfill_show_unmapped_event_is_pending_without_price(
    engine: sa.Engine, fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    opened(fleet)
    staged(fleet, event("a", 3, event_type="strange"), event("b", 4))
    url = engine.url.render_as_string(hide_password=False)
    assert drawdown(["--database-url", url, "--at", str(fleet.clock.at_ms), "backfill", "show", "june"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.split()[:1] == ["strange"]]
    assert "pending: unmapped" in line and "0.00" not in line


def command(fleet: Fleet, capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """What it says, in one line."""
    url = fleet.engine.url.render_as_string(hide_password=False)
    assert drawdown(["--database-url", url, "--at", str(fleet.clock.at_ms), *words]) == 0
    return " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("units", "said"),
    [
        (100_000, "acme has 0.50 credits: {} leaves 0.30"),
        (250_000, "acme has 0.50 credits: {} leaves 0.00. This halts acme"),
        (400_000, "acme has 0.50 credits: {} leaves -0.30. This halts acme"),
    ],
)
def test_backfill_close_effect_on_balance_and_halt_is_shown_before(
    fleet: Fleet, units: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the ledger's own rule: a customer that runs is not halted by events of long ago without a word of it."""
    fleet.write("UPDATE ledger_accounts SET balance_micro = 500000 WHERE account_id = 'wallet:acme'")
    opened(fleet)
    staged(fleet, event("a", units))
    shown_ = command(fleet, capfd, "backfill", "show", "june")
    assert f"{said.format('closing')}" in shown_ and ("This halts" in shown_) == ("This halts" in said)
    assert ("drawdown ledger grant acme AMOUNT" in shown_) == ("halts" in said)
    told_ = command(fleet, capfd, "backfill", "close", "june", "--hash", shown(fleet).hash)
    assert said.format("the next tick") in told_
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    assert bool(fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")) == ("halts" in said)
    again = command(
        fleet, capfd, "backfill", "close", "june", "--hash", str(fleet.one("SELECT diff_hash FROM backfills"))
    )
    assert "leaves" not in again, "it is billed already"


def test_backfill_forecast_subtracts_usage_that_is_not_charged_yet(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.write("UPDATE ledger_accounts SET balance_micro = 500000 WHERE account_id = 'wallet:acme'")
    told(fleet, event("later", 100_000, occurred_ms=fleet.clock.at_ms))
    opened(fleet)
    staged(fleet, event("a", 200_000))
    shown_ = command(fleet, capfd, "backfill", "show", "june")
    assert "acme has 0.30 credits: closing leaves -0.10. This halts acme" in shown_


def test_backfill_close_of_unsealed_windows_counts_its_own_charge_once(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.write("UPDATE ledger_accounts SET balance_micro = 500000 WHERE account_id = 'wallet:acme'")
    opened(fleet, to_ms=T0 + DAY_MS)
    fleet.write("INSERT INTO dirty_windows (org_id, window_ms) VALUES ('acme', :window)", {"window": T0})
    staged(fleet, event("a", 200_000))
    assert "acme has 0.50 credits: closing leaves 0.10" in command(fleet, capfd, "backfill", "show", "june")
    said = command(fleet, capfd, "backfill", "close", "june", "--hash", shown(fleet).hash)
    assert "acme has 0.50 credits: the next tick leaves 0.10" in said


def test_backfill_of_org_overridden_to_run_is_not_shown_as_halt(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.write("UPDATE orgs SET override_halted = :no WHERE org_id = 'acme'", {"no": False})
    fleet.write("UPDATE ledger_accounts SET balance_micro = 500000 WHERE account_id = 'wallet:acme'")
    opened(fleet)
    staged(fleet, event("a", 10**9))
    told_ = command(fleet, capfd, "backfill", "show", "june")
    assert "closing leaves -" in told_ and "This halts" not in told_


def test_backfill_pending_events_name_command_that_bills(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    told(fleet, event("known", org_id="globex"))
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    given = ("july", "globex", T0, T0 + WINDOW_MS, fleet.by)
    write(fleet.engine, lambda c: backfills.open_backfill(c, *given))
    events = event("a", 3, event_type="very strange", org_id="globex"), event("b", 4, org_id="globex")
    staged(fleet, *events, name="july")
    told_ = command(fleet, capfd, "backfill", "show", "july")
    assert "`drawdown org assign globex --from 2026-01-01T00:00:00Z`" in told_
    assert "`drawdown feature map-event 'very strange' FEATURE --from 2026-01-01T00:00:00Z`" in told_
    assert "leaves" not in told_, "no wallet pays for it"


def test_backfill_of_exempt_org_is_shown_as_exempt(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither pending, though a type has no feature, nor billed."""
    fleet.assign("globex", provider="legacy", from_ms=T0)
    given = ("july", "globex", T0, T0 + WINDOW_MS, fleet.by)
    write(fleet.engine, lambda c: backfills.open_backfill(c, *given))
    staged(fleet, event("a", 3, event_type="strange", org_id="globex"), event("b", 4, org_id="globex"), name="july")
    lines = [(one.what, one.code, one.price_micro) for one in shown(fleet, "july").lines]
    assert lines == [("render", None, 0), ("strange", None, 0)]
    told_ = command(fleet, capfd, "backfill", "show", "july")
    assert told_.count("exempt") == 2 and "pending" not in told_ and "map-event" not in told_
    assert "not billed: exempt" in str(_usage_table(shown(fleet, "july")).rows)
    closed(fleet, "july")
    fleet.tick(T0 + DAY_MS + WINDOW_MS)
    assert fleet.rows("SELECT 1 FROM pending_usage WHERE org_id = 'globex' AND seconds <> 0") == []


def test_backfill_revert_after_rate_change_refunds_charged_price(fleet: Fleet) -> None:
    opened(fleet)
    before = billed(fleet)
    later = T0 + 2 * WINDOW_MS
    staged(fleet, event("a", 7, occurred_ms=later), event("b", 4, occurred_ms=later))
    closed(fleet)
    fleet.tick_windows(2)
    assert billed(fleet) == before + 11 * PRICE
    fleet.rate("render", 1_000, from_ms=later)
    reverted(fleet)
    fleet.tick_windows(2)
    assert billed(fleet) == before
