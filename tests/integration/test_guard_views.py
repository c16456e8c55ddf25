"""Overrides and their queue, what the guard refused, what a phase would block, and counters that are put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.ledger.reservations import Denied
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.guard import counters as guard_reconcile
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.counters import Correction, Counter
from drawdown.worker.guard.options import ways_out
from drawdown.worker.guard.terms import Wish
from drawdown.worker.wallets import accounts as own_wallet
from tests.integration.guarding import Guarded
from tests.integration.verifying import verified
from tests.world import T0


@pytest.fixture
def guarded(engine: sa.Engine) -> Iterator[Guarded]:
    made = Guarded(engine)
    yield made
    made.prove()


# Overrides


def test_limit_override_replaces_limit_until_end(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    guarded.override("look", 3, ends_ms=T0 + DAY_MS)
    assert [guarded.consume("look").decision == "block" for _ in range(4)] == [False, False, False, True]
    assert guarded.consume("look").rule == "override:1"
    guarded.later(DAY_MS)
    found = guarded.check("look")
    assert (found.decision, found.rule, found.used) == ("block", "limit:*:month", 3), "no job had to end it"


def test_limit_override_precedence_is_org_pattern_plan_newest(guarded: Guarded) -> None:
    guarded.limit("look", 0)
    guarded.give("acme", 1, plan="free")
    said = []
    for reach, target, amount in (
        ("plan", "free", 10), ("pattern", "ac*", 20), ("pattern", "ac*", 30), ("pattern", "wa*", 1),
        ("plan", "free", 2), ("org", "acme", 40), ("pattern", "acme*", 3), ("org", "acme", 50),
    ):  # fmt: skip
        guarded.override("look", amount, target, reach)
        said.append(guarded.check("look").limit)
    assert said == [10, 20, 30, 30, 30, 40, 40, 50]
    guarded.give("acid", 1)
    guarded.give("wayne", 1)
    assert [guarded.check("look", org=org).limit for org in ("acid", "wayne")] == [30, 1]


def test_requested_limit_override_applies_after_approval(guarded: Guarded) -> None:
    guarded.limit("look", 0)
    one = guarded.override("look", 5, asked=True)
    two = guarded.override("look", 9, asked=True)
    assert guarded.check("look").decision == "block"
    shown = guarded.read(lambda c: guard_overrides.list_overrides(c, "look", guarded.now, 10))
    assert [row.number for row in shown] == [one.number, two.number]
    done, changed = guarded.decide(one.number, "approve")
    assert (done.state, done.decided_by, changed) == ("in_force", "test", True)
    assert guarded.decide(one.number, "approve")[1] is False, "the same again changes nothing"
    assert guarded.check("look").limit == 5
    assert guarded.decide(two.number, "refuse")[0].state == "refused"
    for number, word, next_ in (
        (one.number, "refuse", f"is in force. Run `drawdown override end {one.number}`"),
        (two.number, "approve", "is refused. To make another limit override"),
        (two.number, "end", "is refused. To make another limit override"),
    ):
        with pytest.raises(Denied, match=next_) as found:
            guarded.decide(number, word)  # type: ignore[arg-type]
        assert found.value.code == "ended"
    assert guarded.decide(one.number, "end")[0].state == "ended"
    assert guarded.check("look").decision == "block"
    with pytest.raises(UnknownId):
        guarded.decide(99, "end")


def test_repeated_limit_override_returns_first_while_active(guarded: Guarded) -> None:
    guarded.limit("look", 0)
    first = guarded.override("look", 5)
    assert guarded.override("look", 5) == guarded.override("look", 5, asked=True) == first, "an answer was lost"
    end = first.ends_ms
    others = (
        guarded.override("look", 6), guarded.override("look", 5, ends_ms=T0 + 2 * DAY_MS),
        guarded.override("look", None), guarded.override("look", 5, "ac*", "pattern"),
        guarded.override("look", 5, period="day"),
    )  # fmt: skip
    assert [one.number for one in others] == [2, 3, 4, 5, 6]
    assert guarded.override("look", 5).number == 7, "what something newer stands in place of is made anew"
    assert guarded.check("look").limit == 5
    guarded.decide(7, "end")
    assert guarded.override("look", 5).number == 8, "what was ended is made anew"
    guarded.override("look", 9, ends_ms=T0 + MINUTE_MS)
    guarded.later(2 * MINUTE_MS)
    assert guarded.override("look", 5, ends_ms=end).number == 8, "what is over stands in no place"
    good = guarded.override("look", 5, permanent=True)
    assert guarded.override("look", 5, permanent=True) == good


def test_repeated_override_request_returns_first_after_approval(guarded: Guarded) -> None:
    asked = guarded.override("look", 5, asked=True)
    assert guarded.override("look", 5, asked=True) == asked
    made = guarded.override("look", 5)
    assert (made.number, made.state) == (2, "in_force"), "what waits is not made yet"
    guarded.decide(1, "refuse")
    guarded.decide(2, "end")
    again = guarded.override("look", 5, asked=True)
    assert guarded.decide(again.number, "approve")[0] == guarded.override("look", 5, asked=True)


def test_override_request_repeated_after_newer_override_gets_new_number(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    asked = guarded.override("look", 100, asked=True)
    made = guarded.override("look", 5)
    again = guarded.override("look", 100, asked=True)
    assert [one.number for one in (asked, made, again)] == [1, 2, 3]
    assert guarded.override("look", 100, asked=True) == again
    guarded.decide(again.number, "approve")
    assert guarded.check("look").limit == 100


def test_approval_of_override_outranked_by_newer_override_is_refused(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    guarded.give("wayne", 1)
    guarded.override("look", 100, asked=True)
    guarded.override("look", 7, "ac*", "pattern")
    guarded.override("look", 8, "wayne")
    guarded.metric("mail")
    guarded.override("mail", 9)
    guarded.override("look", 600, period="day")
    guarded.override("look", 5, ends_ms=T0 + 2 * MINUTE_MS)
    for _ in range(2):
        with pytest.raises(Refused, match=r"newer limit override 6 .* `drawdown override end 6`"):
            guarded.decide(1, "approve")
    assert guarded.check("look").limit == 5
    guarded.later(2 * MINUTE_MS)
    assert guarded.decide(1, "approve")[1]
    guarded.override("look", 4)
    assert guarded.decide(1, "approve")[1] is False, "a repetition is not a new approval"


def test_approvals_of_two_requests_newest_first_refuse_the_older(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    for amount in (5, 9):
        guarded.override("look", amount, asked=True)
    guarded.decide(2, "approve")
    with pytest.raises(Refused, match="newer limit override 2"):
        guarded.decide(1, "approve")
    guarded.decide(2, "end")
    guarded.decide(1, "approve")
    assert guarded.check("look").limit == 5


def test_approval_of_expired_limit_override_is_refused(guarded: Guarded) -> None:
    made = guarded.override("look", 5, asked=True, ends_ms=T0 + MINUTE_MS)
    guarded.later(MINUTE_MS)
    with pytest.raises(Denied, match="limit override 1: its end has passed"):
        guarded.decide(made.number, "approve")


@pytest.mark.both_databases
def test_override_requests_past_their_end_do_not_wait_for_approval(guarded: Guarded) -> None:
    guarded.limit("look", 0)
    for amount in range(guard_overrides.MOST_ASKED):
        guarded.override("look", amount, asked=True)
    with pytest.raises(Denied, match="already wait for approval"):
        guarded.override("look", 99, asked=True)

    def waiting() -> tuple[int, int, int, int]:
        ways = guarded.read(lambda c: ways_out(c, Wish("acme", "look", 1), guarded.now)).ways
        listed = guarded.read(lambda c: guard_overrides.list_overrides(c, "look", guarded.now, 99, state="asked"))
        mine = guarded.read(lambda c: own_wallet.overrides(c, "acme", "look", guarded.now))
        counted = guarded.read(lambda c: views.open_overrides(c, guarded.now, guarded.now))[0]
        return sum(way.pending_requests for way in ways), len(listed), len(mine), counted

    assert waiting() == (guard_overrides.MOST_ASKED,) * 4
    guarded.later(DAY_MS)
    assert waiting() == (0, 0, 0, 0), "none of them can be approved"
    everything = guarded.read(lambda c: guard_overrides.list_overrides(c, "look", guarded.now, 99, everything=True))
    assert {row.is_over(guarded.now) for row in everything} == {True}
    guarded.override("look", 99, asked=True)
    assert waiting() == (1, 1, 1, 1)


def test_limit_override_beyond_90_days_is_refused_unless_permanent(guarded: Guarded) -> None:
    guarded.override("look", 5, ends_ms=T0 + 90 * DAY_MS)
    guarded.override("look", 6, permanent=True)
    wrong: tuple[Callable[[], object], ...] = (
        lambda: guarded.override("look", 5, ends_ms=T0 + 90 * DAY_MS + 1),
        lambda: guarded.override("look", 5, ends_ms=T0),
        lambda: guarded.override("look", -1),
        lambda: guarded.override("look", 10**12 + 1),
        lambda: guarded.override("look", 5, target="acm", reach="pattern"),
        lambda: guarded.override("look", 5, target="*", reach="pattern"),
        lambda: guarded.override("look", 5, target="acmee"),
        lambda: guarded.override("look", 5, target="fere", reach="plan"),
        lambda: guarded.override("lok", 5),
    )
    for work in wrong:
        with pytest.raises(UsageError):
            work()
    guarded.later(83 * DAY_MS)
    soon = guarded.read(lambda c: guard_overrides.list_overrides(c, "", guarded.now, 10, soon=True))
    assert [row.number for row in soon] == [1]
    guarded.later(7 * DAY_MS)
    left = guarded.read(lambda c: guard_overrides.list_overrides(c, "", guarded.now, 10))
    everything = guarded.read(lambda c: guard_overrides.list_overrides(c, "", guarded.now, 10, everything=True))
    assert ([row.number for row in left], len(everything)) == ([2], 2)
    assert everything[0].is_over(guarded.now) and not everything[1].is_over(guarded.now)


# What was refused, and would be


def test_denials_of_looping_client_are_grouped_by_minute(guarded: Guarded) -> None:
    guarded.limit("look", 0)
    for step in range(50):
        guarded.consume("look", 2, key=f"loop-{step}")
        guarded.later(MINUTE_MS // 20)
    rows = guarded.fleet.rows("SELECT count, amount, first_ms, last_ms, sample FROM guard_denials ORDER BY minute_ms")
    assert rows == [
        (20, 40, T0, T0 + 57_000, "loop-0"), (20, 40, T0 + 60_000, T0 + 117_000, "loop-20"),
        (10, 20, T0 + 120_000, T0 + 147_000, "loop-40"),
    ]  # fmt: skip


def test_phase_report_counts_uses_that_would_be_blocked(guarded: Guarded) -> None:
    guarded.metric("look", phase=0)
    guarded.limit("look", 1)
    guarded.give("wayne", 1, kind="purchased")
    for org in ("acme", "wayne", "wayne"):
        for _ in range(2):
            guarded.consume("look", org=org)
    found = {phase: guarded.read(partial(views.report, metric="look", phase=phase, since_ms=T0)) for phase in range(4)}
    said = {phase: (one.requests, one.blocked, one.quantity, one.orgs, one.paying) for phase, one in found.items()}
    assert said == {0: (6, 0, 0, 0, 0), 1: (6, 0, 0, 0, 0), 2: (6, 1, 1, 1, 0), 3: (6, 4, 4, 2, 1)}


def test_blocked_extension_is_counted_as_requested(guarded: Guarded) -> None:
    """So no more is blocked than was asked for."""
    guarded.limit("look", 5, "day")
    guarded.metric("look", phase=0)
    guarded.reserve("look", 5, key="silent")
    for to in range(7, 11):
        assert guarded.extend("silent", to).quantity == to
    guarded.metric("look", phase=3)
    assert guarded.extend("silent", 12).decision == "block"
    found = guarded.read(partial(views.report, metric="look", phase=3, since_ms=T0))
    assert (found.requests, found.blocked) == (6, 5)
    (row,) = [one for one in guarded.read(lambda c: views.list_metrics(c, guarded.now, 10)) if one.metric == "look"]
    assert {(one.requests, one.blocked, one.would) for one in row.rates} == {(6, 1, 5)}
    page = guarded.read(lambda c: views.block_rates(c, guarded.now, metric="look"))
    assert {(one.requests, one.blocked, one.would) for one in page.metrics[0].rates} == {(6, 1, 5)}


def test_expired_guard_reservation_is_listed_as_expired(guarded: Guarded) -> None:
    """Whether anything has looked at it since or not."""
    guarded.limit("look", 10)
    guarded.reserve("look", 4, key="held", for_ms=MINUTE_MS)

    def listed() -> list[tuple[str, int, int]]:
        uses = guarded.read(lambda c: views.list_uses(c, "look", "", guarded.now, 10))
        return [(one.state, one.requested_quantity, one.quantity) for one in uses]

    guarded.later(MINUTE_MS - 1)
    assert listed() == [("held", 4, 4)]
    guarded.later(1)
    assert listed() == [("expired", 4, 0)]
    assert guarded.fleet.one("SELECT state FROM guard_uses") == "held", "nothing has looked at it"
    guarded.settle("held", 3)
    assert listed() == [("settled", 4, 3)]


def test_block_rates_cover_day_week_and_month(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    for wait in (0, 0, 20 * DAY_MS, 5 * DAY_MS, 2 * DAY_MS):
        guarded.later(wait)
        guarded.consume("look")
    (row,) = [one for one in guarded.read(lambda c: views.list_metrics(c, guarded.now, 10)) if one.metric == "look"]
    assert [(one.span, one.requests, one.blocked, one.would, one.blocked_ppm) for one in row.rates] == [
        ("24h", 1, 1, 1, 1_000_000), ("7d", 3, 3, 3, 1_000_000), ("30d", 5, 4, 4, 800_000),
    ]  # fmt: skip


def test_use_let_through_is_listed_with_quantity_and_cost(guarded: Guarded) -> None:
    guarded.fleet.assign("afar", provider="legacy2")
    guarded.limit("byte", None)
    guarded.metric("byte", fails_open=True)
    guarded.consume("byte", 50, org="afar")
    guarded.metric("idea", phase=0)
    guarded.limit("idea", None)
    guarded.consume("idea", 150)
    rows = guarded.read(lambda c: views.list_metrics(c, guarded.now, 10))
    assert {row.metric: (row.rates[0].fail_open_units, row.rates[0].forgone_micro) for row in rows} == {
        "byte": (50, 2 * MICRO), "idea": (0, 150 * MICRO), "look": (0, 0),
    }  # fmt: skip
    uses = guarded.read(lambda c: views.list_uses(c, "byte", "afar", guarded.now, 10))
    assert [(one.quantity, one.degraded, one.forgone_micro) for one in uses] == [(50, True, 2 * MICRO)]


# Counters


def test_counter_drift_is_listed_and_corrected_with_history(guarded: Guarded) -> None:
    guarded.limit("look", 10)
    guarded.consume("look", 3)
    guarded.later(DAY_MS)
    guarded.reserve("look", 2)
    guarded.fleet.write("UPDATE guard_counters SET used = 9 WHERE period = 'month'")
    guarded.fleet.write("UPDATE guard_counters SET used = 1 WHERE period = 'hour' AND used = 3")
    found = guarded.read(lambda c: views.drifts(c, T0, 10))
    assert [(one.period, one.counted, one.quantity, one.has_uses) for one in found] == [
        ("month", 9, 5, True), ("hour", 1, 3, True),
    ]  # fmt: skip
    assert [one.is_above(800_000) for one in found] == [False, False]
    assert [one.is_above(700_000) for one in found] == [True, False]
    assert not verified(guarded.fleet).clean
    counters = [Counter(one.org_id, one.metric, one.period, one.start_ms) for one in found]
    done = guarded.write(lambda c: guard_reconcile.correct(c, counters, guarded.fleet.by))
    assert done == [Correction(counters[0], 9, 5), Correction(counters[1], 1, 3)]
    assert guarded.write(lambda c: guard_reconcile.correct(c, counters, guarded.fleet.by)) == []
    assert guarded.fleet.rows('SELECT "before", "after" FROM guard_corrections ORDER BY number') == [(9, 5), (1, 3)]
    assert guarded.read(lambda c: views.drifts(c, T0, 10)) == []


def test_counter_without_uses_is_not_corrected(guarded: Guarded) -> None:
    guarded.fleet.write(
        "INSERT INTO guard_counters (org_id, metric, period, start_ms, used, uses, warned) "
        "VALUES ('acme', 'look', 'day', :t, 7, 1, :no)", {"t": T0, "no": False},
    )  # fmt: skip
    (found,) = guarded.read(lambda c: views.drifts(c, T0, 10))
    assert (found.counted, found.has_uses) == (7, False)
    counter = Counter("acme", "look", "day", T0)
    assert guarded.write(lambda c: guard_reconcile.correct(c, [counter], guarded.fleet.by)) == []
    assert guarded.used("look", "day") == 7
    guarded.fleet.write("UPDATE guard_counters SET used = 0, uses = 0")


def test_correction_of_too_many_counters_is_refused(guarded: Guarded) -> None:
    many = [Counter("acme", "look", "hour", T0)] * (guard_reconcile.CORRECTED_AT_ONCE + 1)
    with pytest.raises(UsageError, match="Correct at most 1,000 at once"):
        guarded.write(lambda c: guard_reconcile.correct(c, many, guarded.fleet.by))
    assert guarded.fleet.one("SELECT COUNT(*) FROM guard_counters") == 0


def test_blocked_command_line_use_lists_each_way_out(guarded: Guarded, capfd: pytest.CaptureFixture[str]) -> None:
    """In one line each, as `guard options` says it: also that one is not open, and why."""
    guarded.metric("huge", price_micro=1000 * MICRO)
    guarded.limit("huge", None)
    guarded.limit("idea", 1)
    url = guarded.fleet.engine.url.render_as_string(hide_password=False)

    def asked(*words: str) -> list[str]:
        assert drawdown(["--database-url", url, "--at", str(guarded.fleet.clock.at_ms), "guard", *words]) == 1
        return capfd.readouterr().out.splitlines()

    for words in (("check",), ("consume", "key-1")):
        lines = asked(*words, "huge", "--org", "acme")
        assert (
            "top up: open: credit for the wallet of acme; missing: 900 credits: drawdown ledger grant acme AMOUNT"
            in lines
        )
        assert "sponsor: no_sponsor: acme does not have another payer: drawdown payer allow PAYER acme" in lines
        assert "request override: not_limit: credit is missing, and a limit does not block the use" in lines
    lines = asked("check", "idea", "3", "--org", "acme")
    ask = "drawdown override ask idea 3 --per month --org acme --expires 2026-02-01T00:00:00Z"
    assert f"request override: open: a person decides: {ask}" in lines
    assert "top up: not_credit: a limit blocks the use, and credit does not raise a limit" in lines
