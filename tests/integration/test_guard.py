"""The guard: what is used is counted and charged once, never beyond a limit, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import MOST_LIFE_MS as MOST_HOLD_MS
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish
from drawdown.worker.wallets import pools
from tests.integration.guard_rush import rush
from tests.integration.guarding import Guarded
from tests.integration.verifying import verified
from tests.world import T0

HOUR_MS = 60 * MINUTE_MS


@pytest.fixture
def guarded(engine: sa.Engine) -> Iterator[Guarded]:
    """In the end nothing is a breach: counters are sums of uses, and what they charged is their runs'."""
    made = Guarded(engine)
    yield made
    made.prove()


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Denied) as found:
        work()
    return found.value.code


# What is used at once


def test_consume_counts_and_charges_use_together(guarded: Guarded) -> None:
    guarded.limit("idea", 5)
    first = guarded.consume("idea", 2, key="first", project="site", subject="ann")
    assert (first.decision, first.rule, first.limit, first.used, first.remaining) == ("allow", "limit:*:month", 5, 0, 3)
    assert (first.price_micro, first.charged_micro, first.payer) == (2 * MICRO, 2 * MICRO, "acme")
    assert first.balance_micro == 98 * MICRO
    assert first.resets_ms == T0 + 31 * DAY_MS
    assert [guarded.used("idea", period) for period in ("hour", "day", "month")] == [2, 2, 2]
    assert guarded.wallet() == (98 * MICRO, 0)
    run = guarded.fleet.rows("SELECT reservation, state, drawn_micro, project, subject, action FROM reservations")
    assert run == [("guard:first", "settled", 2 * MICRO, "site", "ann", "idea")]


def test_repeated_consume_returns_first_answer_without_charge(guarded: Guarded) -> None:
    guarded.limit("idea", 5)
    first = guarded.consume("idea", 2, key="one")
    again = guarded.consume("idea", 2, key="one")
    assert (again.repeated, again.decision, again.charged_micro) == (True, first.decision, 0)
    assert again.price_micro == first.charged_micro
    for work in (
        lambda: guarded.consume("idea", 3, key="one"),
        lambda: guarded.consume("look", 2, key="one"),
        lambda: guarded.reserve("idea", 2, key="one"),
        lambda: guarded.consume("idea", 2, key="one", subject="ann"),
    ):
        assert refused(work) == "other_content"
    assert guarded.used("idea") == 2
    assert guarded.wallet() == (98 * MICRO, 0)


def test_consume_with_key_of_existing_execution_is_refused(engine: sa.Engine) -> None:
    """No use names that run, which `verify` tells."""
    guarded = Guarded(engine)
    guarded.limit("idea", 5)
    guarded.write(lambda c: executions.accept(c, "guard:taken", Request("acme", 1), guarded.fleet.by, of_use=True))
    assert refused(lambda: guarded.consume("idea", key="taken")) == "other_content"
    assert guarded.used("idea") == 0
    (breach,) = verified(guarded.fleet).breaches
    assert breach.text.startswith("the missing use of guard:taken is none")


def test_use_beyond_limit_changes_only_the_count_of_refusals(guarded: Guarded) -> None:
    guarded.limit("idea", 3)
    guarded.consume("idea", 2)
    for _ in range(3):
        found = guarded.consume("idea", 2, key="much")
        assert (found.decision, found.rule, found.remaining, found.charged_micro) == ("block", "limit:*:month", 1, 0)
        assert found.options == ("request_override", "run_locally")
    assert guarded.consume("idea", 1, key="much").decision == "warn", "a key that was refused is free"
    assert guarded.wallet() == (97 * MICRO, 0)
    rows = guarded.fleet.rows("SELECT count, amount, enforced, reason_code, sample FROM guard_denials")
    assert [(*row[:2], bool(row[2]), *row[3:]) for row in rows] == [(3, 6, True, "limit", "much")]


def test_use_beyond_any_of_several_limits_is_blocked(guarded: Guarded) -> None:
    guarded.limit("look", 2, "hour")
    guarded.limit("look", 3, "day")
    guarded.limit("look", 4, "month")
    said = []
    for wait in (0, 0, 0, HOUR_MS, 0, DAY_MS, 0):
        guarded.later(wait)
        found = guarded.consume("look")
        said.append((found.decision == "block", found.rule.rpartition(":")[2]))
    assert said == [
        (False, "hour"), (False, "hour"), (True, "hour"), (False, "day"), (True, "day"), (False, "month"),
        (True, "month"),
    ]  # fmt: skip
    assert guarded.used("look") == 4


def test_limit_counter_resets_at_period_end(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    assert guarded.consume("look").decision != "block"
    guarded.later(31 * DAY_MS - 1)
    assert guarded.consume("look").decision == "block"
    guarded.later(1)
    assert guarded.consume("look").decision != "block"
    assert guarded.fleet.one("SELECT COUNT(*) FROM guard_counters WHERE period = 'month' AND used = 1") == 2


def test_metric_without_plan_limit_is_blocked_as_no_entitlement(guarded: Guarded) -> None:
    found = guarded.consume("look")
    assert (found.decision, found.reason) == ("block", "no_entitlement")
    guarded.limit("look", None)
    found = guarded.consume("look")
    assert (found.decision, found.rule, found.limit, found.remaining) == ("allow", "unlimited", None, None)
    assert guarded.limit("look", None, ended=True)
    assert not guarded.limit("look", None, ended=True)
    assert guarded.consume("look").reason == "no_entitlement"


def test_limit_of_own_plan_precedes_limit_of_any_plan(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    guarded.limit("look", 2, plan="free")
    guarded.give("acme", 1, plan="free")
    guarded.give("wayne", 1)
    assert [guarded.consume("look").decision == "block" for _ in range(3)] == [False, False, True]
    assert [guarded.consume("look", org="wayne").decision == "block" for _ in range(2)] == [False, True]


def test_changed_limit_applies_immediately(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    guarded.consume("look")
    assert guarded.check("look").decision == "block"
    guarded.limit("look", 2)
    assert guarded.consume("look").decision != "block"
    guarded.limit("look", 1)
    found = guarded.check("look")
    assert (found.decision, found.used, found.remaining) == ("block", 2, 0)


def test_guard_check_leaves_database_unchanged(guarded: Guarded) -> None:
    guarded.limit("idea", 1)
    guarded.reserve("idea", key="held")

    def content() -> list[object]:
        names = ("guard_uses", "guard_counters", "guard_denials", "reservations", "ledger_accounts", "ledger_entries")
        return [sorted(map(str, guarded.fleet.rows(f"SELECT * FROM {name}"))) for name in names]

    before = content()
    assert guarded.check("idea").decision == "block"
    guarded.later(2 * HOUR_MS)
    found = guarded.check("idea")
    assert (found.decision, found.used, found.price_micro, found.charged_micro) == ("warn", 0, MICRO, 0)
    assert found.balance_micro == 100 * MICRO, "what is held and over counts nowhere"
    assert content() == before


# Credit


def test_use_without_credit_is_blocked_with_options(guarded: Guarded) -> None:
    guarded.limit("idea", None)
    for found in (guarded.check("idea", 101), guarded.consume("idea", 101)):
        assert (found.decision, found.rule, found.reason) == ("block", "credits", "no_credit")
        assert found.options == ("top_up", "sponsor", "run_locally")
    assert (guarded.used("idea"), guarded.wallet()) == (0, (100 * MICRO, 0))
    assert guarded.consume("idea", 100).decision == "allow"
    assert guarded.consume("look", 1).reason == "no_entitlement"


def test_use_in_non_blocking_phase_is_counted_and_unpaid_cost_recorded(guarded: Guarded) -> None:
    guarded.metric("idea", phase=0)
    guarded.limit("idea", 150)
    found = guarded.consume("idea", 101)
    assert (found.decision, found.would, found.rule, found.charged_micro) == ("allow", "block", "credits", 0)
    guarded.metric("idea", phase=1)
    found = guarded.consume("idea", 99)
    assert (found.decision, found.would, found.rule, found.charged_micro) == (
        "warn",
        "block",
        "limit:*:month",
        99 * MICRO,
    )
    assert guarded.used("idea") == 200
    text = "SELECT would, charged_micro, forgone_micro FROM guard_uses ORDER BY number"
    assert guarded.fleet.rows(text) == [("block", 0, 101 * MICRO), ("block", 99 * MICRO, 0)]
    rows = guarded.fleet.rows("SELECT reason_code, enforced, count FROM guard_denials ORDER BY 1")
    assert [(code, bool(is_so), count) for code, is_so, count in rows] == [("limit", False, 1), ("no_credit", False, 1)]


def test_org_with_purchased_credit_is_not_blocked_in_phase_2(guarded: Guarded) -> None:
    guarded.metric("look", phase=2)
    guarded.limit("look", 0)
    guarded.give("wayne", 1, kind="purchased")
    assert guarded.consume("look").decision == "block"
    found = guarded.consume("look", org="wayne")
    assert (found.decision, found.would, found.enforced) == ("warn", "block", False)


def test_metric_payer_is_charged_for_use_of_org(guarded: Guarded) -> None:
    """As the platform does for what it wants to be used: it is that one's run, about the organisation."""
    guarded.give("platform", 1)
    guarded.metric("mail", price_micro=MICRO // 10, payer="platform")
    guarded.limit("mail", None)
    found = guarded.consume("mail", 2, key="login")
    assert (found.decision, found.payer, found.charged_micro, found.balance_micro) == (
        "allow",
        "platform",
        MICRO // 5,
        None,
    )
    assert (guarded.wallet(), guarded.wallet("platform")) == ((100 * MICRO, 0), (MICRO * 4 // 5, 0))
    text = "SELECT org_id, customer_id, subject FROM reservations"
    assert guarded.fleet.rows(text) == [("platform", "platform", "acme")]
    assert guarded.consume("mail", 9).reason == "no_credit"


def test_payer_is_charged_only_after_allowing_org(guarded: Guarded) -> None:
    guarded.give("wayne", 1)
    guarded.limit("idea", None)
    found = guarded.consume("idea", payer="wayne")
    assert (found.decision, found.reason) == ("block", "payer_not_allowed")
    guarded.write(lambda c: pools.allow(c, "wayne", "acme", guarded.fleet.by))
    found = guarded.consume("idea", payer="wayne")
    assert (found.decision, found.payer, found.balance_micro) == ("allow", "wayne", None)
    assert (guarded.wallet(), guarded.wallet("wayne")) == ((100 * MICRO, 0), (0, 0))


def test_metric_decides_if_use_is_allowed_while_credit_is_unknown(guarded: Guarded) -> None:
    """As of whom a provider bills by features: what was let through is written down with its cost."""
    guarded.fleet.assign("afar", provider="legacy2")
    guarded.limit("idea", None)
    guarded.limit("byte", None)
    guarded.metric("byte", fails_open=True)
    for found in (guarded.check("idea", org="afar"), guarded.consume("idea", org="afar")):
        assert (found.decision, found.rule, found.degraded) == ("block", "credits", True)
    for found in (guarded.check("byte", 50, org="afar"), guarded.consume("byte", 50, org="afar")):
        assert (found.decision, found.degraded, found.charged_micro) == ("allow", True, 0)
    rows = guarded.fleet.rows("SELECT degraded, forgone_micro FROM guard_uses")
    assert [(bool(is_so), micro) for is_so, micro in rows] == [(True, 2 * MICRO)]


def test_stopped_org_is_blocked_in_phase_0(guarded: Guarded) -> None:
    guarded.fleet.assign("wayne")
    guarded.metric("look", phase=0)
    guarded.limit("look", None)
    assert guarded.consume("look", org="wayne").decision == "allow"
    guarded.fleet.write("UPDATE orgs SET stopped_at_ms = 1 WHERE org_id = 'wayne'")
    found = guarded.consume("look", org="wayne")
    assert (found.decision, found.rule, found.reason, found.options) == ("block", "operator", "stopped", ())
    guarded.fleet.write("UPDATE orgs SET stopped_at_ms = NULL WHERE org_id = 'wayne'")


def test_price_change_does_not_affect_reserved_use(guarded: Guarded) -> None:
    guarded.limit("idea", None)
    guarded.reserve("idea", 2, key="early")
    guarded.metric("idea", price_micro=7)
    assert guarded.consume("idea").charged_micro == 7
    assert guarded.settle("early", 3).charged_micro == 3 * MICRO


# What is held


def test_guard_reservation_counts_and_settle_charges_actual_use(guarded: Guarded) -> None:
    guarded.limit("idea", 10)
    held = guarded.reserve("idea", 6, key="build")
    assert (held.state, held.charged_micro, held.expires_ms) == ("held", 0, T0 + HOUR_MS)
    assert (guarded.used("idea"), guarded.wallet()) == (6, (100 * MICRO, 6 * MICRO))
    assert guarded.consume("idea", 5).decision == "block"
    done = guarded.settle("build", 4)
    assert (done.state, done.charged_micro, done.repeated) == ("settled", 4 * MICRO, False)
    assert (guarded.used("idea"), guarded.wallet()) == (4, (96 * MICRO, 0))
    again = guarded.settle("build", 4)
    assert (again.repeated, again.charged_micro) == (True, 0)
    assert refused(lambda: guarded.settle("build", 5)) == "other_content"
    with pytest.raises(Denied, match=r"It counts 4 base units. Do not reserve this quantity again") as ended:
        guarded.release("build")
    assert ended.value.code == "ended"
    assert refused(lambda: guarded.extend("build")) == "ended"
    assert guarded.wallet() == (96 * MICRO, 0)


def test_guard_release_frees_unused_part_of_reservation(guarded: Guarded) -> None:
    guarded.limit("idea", 10)
    guarded.reserve("idea", 6, key="all")
    assert guarded.release("all").charged_micro == 0
    guarded.reserve("idea", 6, key="part")
    assert guarded.release("part", 2).charged_micro == 2 * MICRO
    assert guarded.release("part", 2).repeated
    with pytest.raises(Denied, match=r"It counts 2 base units. To count the rest, reserve another use") as ended:
        guarded.settle("part", 2)
    assert ended.value.code == "ended"
    assert (guarded.used("idea"), guarded.wallet()) == (2, (98 * MICRO, 0))


def test_use_beyond_hold_is_counted_and_charged_in_the_period_of_the_hold(guarded: Guarded) -> None:
    guarded.limit("byte", 100, "hour")
    guarded.reserve("byte", 75, key="copy")
    guarded.later(HOUR_MS // 2)
    guarded.extend("copy")
    guarded.later(HOUR_MS - 1)
    assert guarded.check("byte").used == 0, "another hour"
    assert guarded.settle("copy", 125).charged_micro == 5 * MICRO
    text = "SELECT start_ms, used FROM guard_counters WHERE period = 'hour' AND used > 0"
    assert guarded.fleet.rows(text) == [(T0, 125)]


def test_expired_guard_reservation_is_freed_and_can_be_settled(guarded: Guarded) -> None:
    guarded.limit("idea", 10)
    guarded.reserve("idea", 6, key="gone", for_ms=MINUTE_MS)
    guarded.reserve("idea", 3, key="silent", for_ms=MINUTE_MS)
    guarded.later(MINUTE_MS)
    assert guarded.consume("idea", 10).decision == "warn", "nobody had to look"
    assert guarded.used("idea") == 10
    assert refused(lambda: guarded.release("gone")) == "ended"
    late = guarded.settle("gone", 5)
    assert (late.state, late.charged_micro) == ("settled", 5 * MICRO)
    assert guarded.used("idea") == 15, "what was used is used, whatever the limit is by then"
    assert guarded.fleet.one("SELECT state FROM guard_uses WHERE use_key = 'silent'") == "expired"
    assert guarded.wallet() == (85 * MICRO, 0)


def test_expired_guard_reservations_are_freed_in_parts(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_counts, "OVER_AT_ONCE", 1)
    monkeypatch.setattr(guard_counts, "MOST_OVER_PARTS", 2)
    guarded.limit("look", 5)
    for _ in range(5):
        guarded.reserve("look", for_ms=MINUTE_MS)
        guarded.later(HOUR_MS if _ == 1 else 0)
    guarded.later(MINUTE_MS)
    assert guarded.check("look", 5).decision == "warn"
    said = [guarded.consume("look", 5).decision for _ in range(3)]
    assert said == ["block", "warn", "block"]
    assert [guarded.used("look", period) for period in ("hour", "day", "month")] == [5, 5, 5]


def test_extend_grows_guard_reservation_only_within_limit(guarded: Guarded) -> None:
    guarded.limit("idea", 10)
    guarded.reserve("idea", 4, key="long")
    guarded.later(MINUTE_MS)
    grown = guarded.extend("long", 9)
    assert (grown.decision, grown.expires_ms, grown.quantity) == ("allow", T0 + 61 * MINUTE_MS, 9)
    assert (guarded.used("idea"), guarded.wallet()) == (9, (100 * MICRO, 9 * MICRO))
    found = guarded.extend("long", 11)
    assert (found.decision, found.rule) == ("block", "limit:*:month")
    assert guarded.extend("long", 3).quantity == 9, "it never shrinks"
    assert (guarded.used("idea"), guarded.wallet()) == (9, (100 * MICRO, 9 * MICRO))
    guarded.later(30 * MINUTE_MS)
    assert guarded.extend("long", for_ms=2 * HOUR_MS).expires_ms == guarded.now + 2 * HOUR_MS
    guarded.later(2 * HOUR_MS - 1)
    assert guarded.settle("long", 1).charged_micro == MICRO


def test_extended_guard_reservation_is_freed_at_expiry(guarded: Guarded) -> None:
    guarded.limit("byte", None)
    guarded.reserve("byte", 25, key="short", for_ms=10 * MINUTE_MS)
    guarded.extend("short", 50, for_ms=10 * MINUTE_MS)
    guarded.later(10 * MINUTE_MS)
    assert guarded.check("byte").balance_micro == 100 * MICRO, "its run is over with it"


def test_extend_without_credit_grows_only_in_non_blocking_phase(guarded: Guarded) -> None:
    guarded.limit("idea", None)
    guarded.reserve("idea", 60, key="firm")
    assert guarded.extend("firm", 101).reason == "no_credit"
    assert (guarded.used("idea"), guarded.wallet()) == (60, (100 * MICRO, 60 * MICRO))
    guarded.metric("idea", phase=1)
    assert guarded.extend("firm", 101).state == "held"
    assert (guarded.used("idea"), guarded.wallet()) == (101, (100 * MICRO, 60 * MICRO))
    assert guarded.settle("firm", 101).charged_micro == 101 * MICRO, "it was used: it is owed"


def test_ending_consumed_use_is_refused(guarded: Guarded) -> None:
    guarded.limit("look", 5)
    guarded.consume("look", key="done")
    for work in (
        lambda: guarded.settle("done", 1), lambda: guarded.release("done"), lambda: guarded.extend("done"),
    ):  # fmt: skip
        assert refused(work) == "ended"
    with pytest.raises(UnknownId) as found:
        guarded.settle("dnoe", 1)
    assert (found.value.code, found.value.near) == ("unknown_use", "done")


def test_limit_warning_is_returned_once(guarded: Guarded) -> None:
    guarded.limit("look", 100)
    said = [guarded.consume("look", 40).decision, guarded.consume("look", 40).decision]
    said.append(guarded.consume("look", 5).decision)
    guarded.reserve("look", 10, key="held")
    said.append(guarded.release("held").decision)
    said.append(guarded.consume("look", 1).decision)
    assert said == ["allow", "warn", "allow", "allow", "allow"]
    guarded.metric("look", warn_ppm=500_000)
    assert guarded.consume("look", 1).decision == "allow", "it was warned of before"


def test_limit_warning_is_repeated_after_large_release(guarded: Guarded) -> None:
    guarded.limit("look", 100)
    guarded.consume("look", 60)
    assert guarded.reserve("look", 25, key="held").decision == "warn"
    guarded.release("held")
    assert guarded.consume("look", 25).decision == "warn"


# What makes no sense


def test_settle_beyond_ledger_maximum_is_refused(guarded: Guarded) -> None:
    guarded.metric("idea", price_micro=10 * MICRO, phase=0)
    guarded.give("broke", 1)
    assert guarded.reserve("idea", org="broke", key="k").state == "held"
    with pytest.raises(UsageError, match="at most 1,000,000,000 credits"):
        guarded.settle("k", 10**12)
    assert guarded.settle("k", 10**8).state == "settled"


@pytest.mark.both_databases
def test_guard_invalid_input_is_rejected(guarded: Guarded) -> None:
    guarded.limit("look", 5)
    for work in (
        lambda: guarded.consume("look", 0), lambda: guarded.check("look", 10**12 + 1),
        lambda: guarded.consume("look", key="x" * 195), lambda: guarded.consume("look", key="a\nb"),
        lambda: guarded.reserve("look", for_ms=1), lambda: guarded.reserve("look", for_ms=MOST_HOLD_MS + 1),
        lambda: guarded.consume("look", subject=""), lambda: guarded.limit("look", -1),
        lambda: guarded.limit("look", 10**12 + 1), lambda: guarded.limit("look", 1, phase=4),
        lambda: guarded.metric("look", phase=4), lambda: guarded.metric("look", per_units=0),
        lambda: guarded.metric("look", warn_ppm=1_000_001), lambda: guarded.metric("*"),
        lambda: guarded.metric("look", price_micro=-1), lambda: guarded.settle("k", -1),
        lambda: guarded.extend("k", 0), lambda: guarded.metric("look", payer="nobody-at-all"),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            work()
    with pytest.raises(UnknownId) as found:
        guarded.consume("lok")
    assert (found.value.code, found.value.near) == ("unknown_metric", "look")
    with pytest.raises(UnknownId):
        guarded.consume("look", org="nobody")
    assert guarded.used("look") == 0
    assert guarded.consume("look", key="x" * 194).decision == "allow"


@pytest.mark.parametrize("price_micro", [0, 3])
def test_concurrent_processes_do_not_exceed_limit(engine: sa.Engine, price_micro: int) -> None:
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    wrong, said = rush(url, 3, 180, 7, 120, price_micro)
    assert (wrong, said.total() - said["busy"]) == ([], 180)
    assert said["block"] > 0 and said["allow"] > 30


# What a use is charged for, whoever else has a hand in it


def test_reservation_at_minimum_price_is_charged_on_settle(guarded: Guarded) -> None:
    """An estimate whose price rounds to nothing holds something; what was used above it is asked for, and charged."""
    guarded.metric("crumb", price_micro=MICRO, per_units=25 * MICRO)
    guarded.limit("crumb", None)
    for key in ("settled", "grown"):
        held = guarded.reserve("crumb", 1, key=key)
        assert (held.state, held.price_micro, held.payer) == ("held", 1, "acme")
    assert guarded.wallet() == (100 * MICRO, 2)
    assert guarded.extend("grown", 101 * 25 * MICRO).decision == "block", "there is no credit for so much"
    assert guarded.extend("grown", 50 * MICRO).price_micro == 2 * MICRO
    done = [guarded.settle(key, 100 * MICRO) for key in ("settled", "grown")]
    assert [(one.charged_micro, one.payer) for one in done] == [(4 * MICRO, "acme")] * 2
    assert guarded.wallet() == (92 * MICRO, 0)
    assert guarded.reserve("crumb", 1, org="acme", key="given up").state == "held"
    assert guarded.release("given up", 0).charged_micro == 0
    assert guarded.wallet() == (92 * MICRO, 0)


def test_ending_guard_execution_outside_guard_is_refused(guarded: Guarded) -> None:
    guarded.limit("idea", 5)
    guarded.reserve("idea", 5, key="its")
    by = guarded.fleet.by
    acts: list[Callable[[sa.Connection], object]] = [
        lambda c: executions.settle(c, "guard:its", Cost(1), by),
        lambda c: executions.release(c, "guard:its", None, by),
        lambda c: executions.extend(c, "guard:its", 9 * MICRO, None, by),
        lambda c: executions.draw(c, "guard:its", 0, Cost(1), by),
    ]
    for act in acts:
        assert refused(lambda act=act: guarded.write(act)) == "of_a_use"  # type: ignore[misc]
    with pytest.raises(UsageError, match="reserved for uses of the guard"):
        guarded.write(lambda c: executions.accept(c, "guard:other", Request("acme", 1), by))
    assert (guarded.used("idea"), guarded.wallet()) == (5, (100 * MICRO, 5 * MICRO))
    assert guarded.settle("its", 4).charged_micro == 4 * MICRO


def test_use_beyond_payer_allowance_is_counted_but_not_charged(guarded: Guarded) -> None:
    """What was held is charged, where it still is; the rest is used, counted, and charged to nobody."""
    guarded.give("rich", 50)
    guarded.limit("idea", None)
    guarded.write(lambda c: pools.allow(c, "rich", "acme", guarded.fleet.by, limit_micro=5 * MICRO))
    for key, life_ms in (("over", 2 * HOUR_MS), ("late", MINUTE_MS)):
        guarded.reserve("idea", 2, key=key, payer="rich", for_ms=life_ms)
    done = guarded.settle("over", 4)
    assert (done.charged_micro, done.price_micro, done.payer) == (2 * MICRO, 4 * MICRO, "rich")
    guarded.later(HOUR_MS)
    late = guarded.settle("late", 9)
    assert (late.state, late.charged_micro, late.price_micro) == ("settled", 2 * MICRO, 9 * MICRO)
    assert guarded.used("idea") == 13
    assert guarded.settle("late", 9).repeated


BEYOND = {
    "the metric's limit": ({"amount": 10}, 50, 900_000),
    "an hour's limit": ({"amount": 10, "period": "hour"}, 50, 11),
    "an override": ({"amount": 99}, 200, 101),
    "the payer's credit": ({"amount": None}, 4, 900_000),
}


@pytest.mark.parametrize("ending", ["settle", "release"])
@pytest.mark.parametrize("what", BEYOND)
def test_metric_payer_beyond_limit_is_charged_reserved_amount_only(guarded: Guarded, what: str, ending: str) -> None:
    """An organisation holds little, and says much: it is counted, and what was held is charged, to the payer."""
    limit, credit, actual = BEYOND[what]
    guarded.give("platform", credit)
    guarded.metric("mail", price_micro=MICRO, payer="platform")
    guarded.limit("mail", None)
    guarded.limit("mail", **limit)  # type: ignore[arg-type]
    if what == "an override":
        guarded.override("mail", 100)
    guarded.reserve("mail", 1, key="sly")
    done = getattr(guarded, ending)("sly", actual)
    assert (done.charged_micro, done.price_micro, done.payer) == (MICRO, actual * MICRO, "platform")
    assert guarded.wallet("platform") == ((credit - 1) * MICRO, 0)
    assert guarded.used("mail") == actual
    assert guarded.fleet.one("SELECT forgone_micro FROM guard_uses") == (actual - 1) * MICRO
    assert guarded.consume("mail", org="platform", key="others").decision == "allow", "others go on"
    guarded.prove()


def test_metric_payer_within_limit_is_charged_above_estimate(guarded: Guarded) -> None:
    guarded.give("platform", 50)
    guarded.metric("mail", price_micro=MICRO, payer="platform")
    guarded.limit("mail", 10)
    guarded.reserve("mail", 1, key="more")
    assert guarded.settle("more", 10).charged_micro == 10 * MICRO
    guarded.limit("mail", 12, phase=1)
    guarded.reserve("mail", 1, key="let through")
    assert guarded.settle("let through", 9).charged_micro == 9 * MICRO, "this limit blocks nobody"
    guarded.prove()


def test_metric_payer_late_settle_is_charged_up_to_balance(guarded: Guarded) -> None:
    guarded.give("platform", 2)
    guarded.metric("mail", price_micro=MICRO, payer="platform")
    guarded.limit("mail", None)
    for key in ("late", "later"):
        guarded.reserve("mail", 1, key=key, for_ms=MINUTE_MS)
    guarded.later(HOUR_MS)
    assert guarded.consume("mail", 1).charged_micro == MICRO
    assert [guarded.settle(key, 1).charged_micro for key in ("late", "later")] == [MICRO, 0]
    assert guarded.wallet("platform") == (0, 0) and guarded.used("mail") == 3
    guarded.prove()


def test_org_as_own_metric_payer_is_charged_beyond_limit(guarded: Guarded) -> None:
    guarded.metric("mail", price_micro=MICRO, payer="acme")
    guarded.limit("mail", 5)
    guarded.reserve("mail", 1, key="own")
    assert guarded.settle("own", 150).charged_micro == 150 * MICRO
    assert guarded.wallet() == (-50 * MICRO, 0)
    guarded.prove()


def test_use_allowed_beyond_limit_is_not_charged_to_payer_of_metric(guarded: Guarded) -> None:
    guarded.give("platform", 50)
    guarded.metric("mail", price_micro=MICRO, payer="platform", fails_open=True)
    guarded.limit("mail", 10)
    by = guarded.fleet.by
    for state, key in (("used", "u"), ("held", "h")):
        wish = Wish("acme", "mail", 40)
        done = guarded.write(lambda c, k=key, w=wish, s=state: guard.let_through(c, k, w, by, s))  # type: ignore[misc]
        assert (done.decision, done.charged_micro, done.price_micro) == ("allow", 0, 40 * MICRO)
    assert guarded.settle("h", 40).charged_micro == 0
    assert guarded.wallet("platform") == (50 * MICRO, 0) and guarded.used("mail") == 80
    guarded.prove()
