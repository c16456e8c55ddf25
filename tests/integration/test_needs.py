"""What the overview says needs somebody: for each reason that calls a person there is a row, and it comes first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, get_args

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.screens.customers.overview import MOST_CALLS, Around, Need, needs, read_around
from drawdown.worker.halts.addresses import NOT_ALLOWED
from drawdown.worker.halts.ignored_halts import ESCALATE_AFTER
from drawdown.worker.push.backlog import Waiting
from drawdown.worker.push.lists import WaitSum
from drawdown.worker.status.status import status
from drawdown.worker.status.system_state import Call, Status, StoppedOrg, Why, calls, judge
from tests.world import T0, Fleet

HISTORY: Final = "UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'another timeline', doubted_after_tick = 0"


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    made.sample("acme", T0 + 1)
    made.tick_windows(2)
    return made


def _missed(fleet: Fleet) -> None:
    fleet.clock.at_ms += 40 * MINUTE_MS


def _problem(fleet: Fleet) -> None:
    fleet.write("UPDATE ticks SET report = :report", {"report": json.dumps({"problems": ["fake: no key", "other"]})})


def _ignored(fleet: Fleet) -> None:
    fleet.write("UPDATE orgs SET is_halted = TRUE, halt_reason = 'spent', halted_at = 1 WHERE org_id = 'acme'")
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'running')"
    )
    fleet.write("DELETE FROM halts")
    fleet.write(
        "INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms, ignored, ignored_since_ms) "
        "VALUES ('acme', 'cell-1', 1, 1, :times, 1)",
        {"times": ESCALATE_AFTER},
    )


def _undelivered(fleet: Fleet) -> None:
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    fleet.write("UPDATE orgs SET is_halted = TRUE, halt_reason = 'spent', halted_at = 1 WHERE org_id = 'acme'")
    fleet.write("DELETE FROM halts")
    fleet.write(
        "INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms, last_error) VALUES ('acme', 'cell-1', 1, 1, :error)",
        {"error": f"the URL of cell cell-1 {NOT_ALLOWED}"},
    )


def _balance(fleet: Fleet) -> None:
    fleet.write(
        "INSERT INTO balance_marks (provider, customer_id, feature, since_ms, apart_qty, at_ms, org_id, told_qty, "
        "told_ms, unsure_qty) VALUES ('fake', 'cus_1', 'compute_1gb', 0, 5, 1, 'acme', 0, 1, 5)"
    )


def _push(state: str) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.write(f"UPDATE pushes SET state = '{state}', last_error = 'lost'")


PLANTED: Final[Mapping[Why, Callable[[Fleet], None]]] = {
    "lost": lambda fleet: fleet.write(HISTORY),
    "clock": lambda fleet: fleet.write(
        "UPDATE ticks SET clock_trusted = FALSE, started_ms = started_ms + :ahead, finished_ms = finished_ms + :ahead",
        {"ahead": 2 * DAY_MS},
    ),
    "missed": _missed,
    "stopped": lambda fleet: fleet.write(f"UPDATE orgs SET stopped_at_ms = {T0}, stopped_reason = 'broken'"),
    "undelivered": _undelivered,
    "ignored": _ignored,
    "refused": lambda fleet: fleet.write(
        "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
        "sealed_at_ms, seal_id, state, due_at_ms, last_error) SELECT window_ms, org_id, feature, 1, provider, "
        "customer_id, 1, 1, 'another', sealed_at_ms, seal_id, 'due', due_at_ms, :error FROM pushes",
        {"error": f"{NEEDS_YOU}no such key"},
    ),
    "problem": _problem,
    "in_doubt": _push("in_doubt"),
    "rejected": _push("rejected"),
    "gone": lambda fleet: fleet.write(
        "INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms) "
        "VALUES ('fake', 'cus_1', 1, 2, 1, :said, 1)",
        {"said": f"{NEEDS_YOU}it was deleted"},
    ),
    "balance": _balance,
}


def look(fleet: Fleet) -> tuple[Status, list[Call], list[Need]]:
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms, is_trusted=False))
    return found, list(calls(found.standing)), needs(found)


def test_each_reason_to_call_person_is_planted() -> None:
    assert set(PLANTED) == set(get_args(Why))


@pytest.mark.parametrize("why", PLANTED)
def test_each_reason_to_call_person_is_listed_in_overview(fleet: Fleet, why: Why) -> None:
    assert look(fleet)[1:] == ([], [])
    PLANTED[why](fleet)
    found, (call, *_), (need, *_) = look(fleet)
    assert (found.headline.verdict, call.why, need.tone) == ("person_needed", why, "bad")
    assert call.reason == found.headline.reason and need.what == (call.what or call.reason)
    assert need.command in found.headline.next
    assert "id=&" not in need.place and not need.place.endswith(("id=", "/console/org"))


def test_all_reasons_together_are_listed_in_headline_order(fleet: Fleet) -> None:
    for why, plant in PLANTED.items():
        if why != "clock":  # its ticks are in the future, so that none is missed
            plant(fleet)
    found, called, listed = look(fleet)
    assert [one.why for one in called] == ["lost", "ignored", "missed", "stopped", "problem", "problem", "rejected",
                                           "gone", "balance"]  # fmt: skip
    assert [one.what for one in listed[: len(called)]] == [one.what or one.reason for one in called]
    assert found.headline.reason == called[0].reason


def test_long_list_of_needs_is_cut_with_count(fleet: Fleet) -> None:
    found, _, _ = look(fleet)
    many = [StoppedOrg(f"org-{number}", 1, "broken") for number in range(MOST_CALLS + 5)]
    standing = replace(found.standing, stopped=many)
    listed = needs(Status(standing, judge(standing)))
    assert (len(listed), listed[-1].what) == (MOST_CALLS + 1, "5 more need a person")


@pytest.mark.both_databases
def test_override_requests_and_credit_ends_are_listed_as_warnings(fleet: Fleet) -> None:
    now, out = fleet.clock.at_ms, 7
    for number in range(out):
        fleet.assign(f"org-{number}", from_ms=T0 + 900_000)
    ends = (
        "UPDATE orgs SET runs_out_ms = :at, is_halted = FALSE, halted_at = NULL, halt_reason = NULL, "
        "billing_provider = 'embedded' WHERE org_id = :org"
    )
    for number in range(out):
        fleet.write(ends, {"at": now + (out - number) * MINUTE_MS, "org": f"org-{number}"})
    fleet.write(ends, {"at": now + 2 * DAY_MS, "org": "acme"})
    found, around = read(fleet.engine, lambda c: (status(c, now), read_around(c, now)))
    listed = needs(found, replace(around, pending_overrides=2, pending_since_ms=now - MINUTE_MS))[-7:]
    assert [(one.word, one.org) for one in listed] == [
        ("requested", ""), *(("runs out", f"org-{number}") for number in (6, 5, 4, 3, 2)), ("runs out", ""),
    ]  # fmt: skip
    assert listed[0].what.startswith("2 limit overrides requested, the first at 2026-")
    assert "1 min ago" in listed[0].what
    assert "in 1 min" in listed[1].what and listed[-1].what == "2 more run out within 24 h"
    assert {one.tone for one in listed} == {"warn"} and listed[-1].place == "/console/orgs?within=24h"


def test_push_errors_are_listed_most_frequent_first(fleet: Fleet) -> None:
    found, _, _ = look(fleet)
    fake = Waiting("fake", due=6, in_doubt=3, errors={"in_doubt": "503", "waiting": "a"})
    standing = replace(found.standing, providers=[fake])
    sums = [("in_doubt", "503", 1), ("in_doubt", "gone", 2), ("due", "a", 1), ("queued", "a", 1),
            ("due", "b", 2), ("due", "c", 3), ("due", "d", 1)]  # fmt: skip
    around = Around([WaitSum("fake", state, error, count, 1, None) for state, error, count in sums])
    doubt, due = needs(Status(standing, judge(standing)), around)
    assert doubt.what == "3 pushes at fake: 2: gone; 1: 503" and "state=in_doubt" in doubt.place
    assert due.what.endswith(": 3: c; 2: a; 2: b; 1 other reason") and due.place.endswith("provider=fake&state=due")


def test_short_reconciliation_is_listed_as_warning(fleet: Fleet) -> None:
    """Whoever is asked for by a headline that is only behind, as well."""
    fleet.write(
        "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, "
        f"at_ms) VALUES ({T0 - T0 % DAY_MS}, 'a', 'fake', 'a', 'f', 1, 0, 'short', {T0})"
    )
    found, called, (need,) = look(fleet)
    assert (found.headline.verdict, called, need.tone) == ("behind", [], "warn")
    assert (need.what, need.command) == (found.headline.reason, found.headline.next)
