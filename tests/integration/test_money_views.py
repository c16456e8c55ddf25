"""What the pages of money read: each list is all there is, in order, page by page; figures are those of the ledger."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from drawdown.ledger.lots import Terms
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.checks import checks
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.parity import lists as parity
from drawdown.worker.reconcile import lists as reconciliations
from drawdown.worker.reconcile.lists import ComparedFilter
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets import pools, tiers
from drawdown.worker.wallets.lists import Chosen
from tests.world import T0, Fleet

T = TypeVar("T")


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """Organisations whose wallets hold 3, 0, -1 … credits, two of them the same; acme's was used for two days."""
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    for number, (name, amount) in enumerate({"acme": 10, "b": 3, "c%_": 3, "d": 1, "e": 0}.items()):
        if amount:
            grant(made, name, amount, key=f"k{number}", plan="free")
    made.write("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:e', 0), ('wallet:f', -5)")
    for day in range(2):
        made.sample("acme", T0 + day * DAY_MS + 1, 60)
    made.tick(T0 + 2 * DAY_MS)
    return made


def grant(fleet: Fleet, name: str, credits: int, **more: Any) -> None:
    write(fleet.engine, lambda c: credit.grant(c, name, credits * MICRO, fleet.by, **{"plan": None, **more}))


def look(fleet: Fleet, work: Callable[[sa.Connection], T]) -> T:
    return read(fleet.engine, work)


def paged(fleet: Fleet, chosen: Chosen = Chosen()) -> list[str]:  # noqa: B008
    found: list[str] = []
    after = None
    while True:
        page = look(fleet, lambda c, after=after: wallets.page(c, chosen, after, 2))  # type: ignore[misc]
        found += [one.customer_id for one in page.lines]
        after = page.after
        if after is None:
            return found


def test_wallets_are_listed_lowest_balance_first_by_page(fleet: Fleet) -> None:
    assert paged(fleet) == ["f", "e", "d", "b", "c%_", "acme"]
    assert [one.customer_id for one in look(fleet, lambda c: list(wallets.every(c, Chosen())))] == paged(fleet)
    assert paged(fleet, Chosen("owed")) == ["f"] and paged(fleet, Chosen("low")) == ["e"]
    assert paged(fleet, Chosen(plan="free")) == ["d", "b", "c%_", "acme"]
    assert paged(fleet, Chosen(search="%_")) == ["c%_"] and paged(fleet, Chosen(search="wallet")) == []
    with pytest.raises(UsageError, match="expected one of owed, low"):
        paged(fleet, Chosen("rich"))


def test_low_wallet_filter_uses_org_level_and_topup_threshold(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: hooks.set_low(c, "", 2 * MICRO, fleet.by))
    assert paged(fleet, Chosen("low")) == ["e", "d"], "everybody's level"
    write(fleet.engine, lambda c: hooks.set_low(c, "acme", 20 * MICRO, fleet.by))
    assert paged(fleet, Chosen("low")) == ["e", "d", "acme"], "its own"
    fleet.write(
        "INSERT INTO topup_terms (customer_id, threshold_micro, amount_micro, price_minor, currency, service, "
        "service_customer, most_minor, max_day, max_month, mode, at_ms, actor, reason) "
        "VALUES ('b', 3000000, 1, 1, 'usd', 'test', 'x', 1, 1, 1, 'live', 0, 'a', 'r')"
    )
    assert paged(fleet, Chosen("low")) == ["e", "d", "b", "acme"], "at its threshold"
    for org in ("acme", ""):
        write(fleet.engine, lambda c, org=org: hooks.set_low(c, org, None, fleet.by))  # type: ignore[misc]
    assert paged(fleet, Chosen("low")) == ["e", "b"], "where that is all there is"
    assert [one.mode for one in look(fleet, lambda c: wallets.page(c, Chosen(search="b")).lines)] == ["live"]


def test_low_wallet_filter_uses_available_credit(fleet: Fleet) -> None:
    """No level is as high as its balance."""
    fleet.write("UPDATE ledger_accounts SET held_micro = balance_micro WHERE account_id = 'wallet:b'")
    assert paged(fleet, Chosen("low")) == ["e", "b"]


@pytest.mark.both_databases
def test_wallet_entries_of_all_pages_add_up_to_balance(fleet: Fleet) -> None:
    chance = random.Random(7)
    for number in range(9):
        grant(fleet, "acme", chance.choice((-1, 2, 5)), key=f"more-{number}")
    ends = Terms("bonus", expires_ms=fleet.clock.at_ms + DAY_MS)
    grant(fleet, "acme", 90, key="ends", terms=ends)
    write(fleet.engine, lambda c: credit.take_back(c, "grant:more-0", fleet.by, whole=True))
    write(fleet.engine, lambda c: pools.make(c, "pool", fleet.by))
    fleet.tick(fleet.clock.at_ms + 2 * DAY_MS)
    found: list[wallet_entries.EntryLine] = []
    after: str | None = ""
    while after is not None:
        page = look(fleet, lambda c, after=after: wallet_entries.page(c, "acme", after or "", 3))  # type: ignore[misc]
        found += page.entries
        after = page.after
    balance = fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")
    rows = "SELECT COUNT(*) FROM ledger_entries WHERE 'wallet:acme' IN (from_account, to_account)"
    assert sum(one.moved_micro for one in found) == balance and len(found) == fleet.one(rows)
    assert len({one.key for one in found}) == len(found)
    assert [(one.ts, one.key) for one in found] == sorted(((one.ts, one.key) for one in found), reverse=True)
    assert {one.kind for one in found} == {"usage", "grant", "expiry"}
    assert [one.lot for one in found if one.kind == "expiry"] == ["grant:ends"]
    with pytest.raises(UsageError, match="this wallet does not have an entry"):
        look(fleet, lambda c: wallet_entries.page(c, "b", found[0].key))


def test_high_spenders_are_stored_with_time_of_check(fleet: Fleet) -> None:
    now = fleet.clock.at_ms
    assert look(fleet, wallets.spenders_kept) == []
    assert [one.customer_id for one in write(fleet.engine, lambda c: checks.check_spenders(c, now))] == ["acme"]
    used = fleet.one("SELECT SUM(amount_micro) FROM ledger_entries WHERE kind = 'usage'")
    (kept,) = look(fleet, wallets.spenders_kept)
    assert look(fleet, lambda c: wallets.spenders_now(c, now)) == [kept], "with what is left, and the plan"
    left = fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")
    assert kept.balance_micro == left
    assert (kept.customer_id, kept.used_micro, kept.plan, kept.at_ms) == ("acme", used, "free", now)
    fleet.write(f"INSERT INTO high_spenders VALUES (2, 'gone', 1, 0, {now - 1})")
    assert [one.customer_id for one in look(fleet, wallets.spenders_kept)] == ["acme"], "of an earlier look"
    write(fleet.engine, lambda c: checks.check_spenders(c, now - DAY_MS))
    assert look(fleet, wallets.spenders_kept)[0].at_ms == now, "an older look replaces no newer one"
    assert look(fleet, lambda c: wallets.spenders_now(c, now + 40 * DAY_MS)) == [], "30 days, and no more"
    write(fleet.engine, lambda c: checks.check_spenders(c, now - 40 * DAY_MS))
    assert look(fleet, wallets.spenders_kept) == [kept], "an older look that finds nobody clears no newer one"
    write(fleet.engine, lambda c: checks.check_spenders(c, now + 40 * DAY_MS))
    assert look(fleet, wallets.spenders_kept) == [], "nobody spent since"
    assert wallets.MOST_SPENDERS == 20


def test_wallet_relations_list_biller_payers_and_pools(fleet: Fleet) -> None:
    now = fleet.clock.at_ms
    write(fleet.engine, lambda c: pools.make(c, "pool", fleet.by))
    grant(fleet, "pool", 9, key="p")
    write(
        fleet.engine,
        lambda c: pools.allot(c, "pool", "acme", 2 * MICRO, now + 9 * DAY_MS, fleet.by, key="a"),
    )
    fleet.write(
        "INSERT INTO payers (payer, org_id, number, allowed, limit_micro, since_ms, at_ms, actor, reason) VALUES "
        "('b', 'acme', 1, TRUE, 5000000, 0, 0, 'a', 'was'), ('b', 'acme', 2, TRUE, 7000000, 0, 0, 'a', 'now'), "
        "('d', 'acme', 1, TRUE, NULL, 0, 0, 'a', 'r'), ('d', 'acme', 2, FALSE, NULL, 0, 0, 'a', 'no more')"
    )
    found = look(fleet, lambda c: wallets.related(c, "acme", "acme", now))
    assert [(one.part, one.who, one.limit_micro) for one in found] == [
        ("biller", "embedded", None), ("pays_for_it", "b", 7 * MICRO), ("pool", "pool", 2 * MICRO),
    ]  # fmt: skip
    assert [(one.part, one.who) for one in look(fleet, lambda c: wallets.related(c, "pool", "pool", now))] == [
        ("member", "acme")
    ]
    assert [(one.part, one.who) for one in look(fleet, lambda c: wallets.related(c, "b", "b", now))] == [
        ("it_pays_for", "acme")
    ]
    later = [(one.part, one.who) for one in look(fleet, lambda c: wallets.related(c, "acme", "acme", now + 9 * DAY_MS))]
    assert ("pool", "pool") not in later, "its end is over"


def test_wallet_history_adds_up_to_balance(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: tiers.set_tier(c, "pro", tiers.Change(9, MICRO), fleet.by))
    write(fleet.engine, lambda c: tiers.buy(c, "acme", "pro", fleet.by))
    recent, topups = look(fleet, lambda c: wallets.happened(c, "acme", fleet.clock.at_ms))
    assert topups == []
    assert sorted(one.kind or one.part for one in recent) == ["charge", "charge", "grant", "plan", "tier"]
    balance = fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")
    assert sum(one.micro or 0 for one in recent) == balance
    assert [one.at_ms for one in recent] == sorted((one.at_ms for one in recent), reverse=True)
    plans, held = look(fleet, lambda c: wallets.offers(c, "acme"))
    assert [(one.name, one.is_held) for one in (*plans, *held)] == [("free", False), ("pro", True)]
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by))
    terms = look(fleet, lambda c: wallets.terms_of(c, "acme", "acme"))
    assert (terms.mode, terms.low_micro, terms.billing_provider, terms.pool) == (None, None, "embedded", None)
    assert look(fleet, lambda c: wallets.terms_of(c, "nobody", "nobody")).org_id is None


COMPARED = (
    "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, "
    "at_ms) VALUES (:day, :org, 'embedded', :org, :feature, 5, :theirs, :verdict, :at)"
)


def compared(fleet: Fleet) -> None:
    for day in range(3):
        for org, verdict, theirs in (("acme", "equal", 5), ("b", "short", 4), ("c%_", "over", 6)):
            for feature in ("x", "y"):
                values = {"day": T0 + day * DAY_MS, "org": org, "feature": feature, "theirs": theirs}
                fleet.write(COMPARED, {**values, "verdict": verdict, "at": T0 + 9 * DAY_MS + day})


def test_reconciliations_are_listed_by_page_and_filtered(fleet: Fleet) -> None:
    compared(fleet)
    any_of = ComparedFilter()
    differing = look(fleet, lambda c: reconciliations.differing(c, any_of))
    assert len(differing) == 12 and {one.verdict for one in differing} == {"short", "over"}
    assert differing[0].day_ms == T0 + 2 * DAY_MS
    found: list[Any] = []
    page = look(fleet, lambda c: reconciliations.page(c, any_of, None, 5))
    while True:
        found += page.lines
        if page.after is None:
            break
        page = look(fleet, lambda c, after=page.after: reconciliations.page(c, any_of, after, 5))  # type: ignore[misc]
    assert len(found) == len({(one.day_ms, one.org_id, one.feature) for one in found}) == 18
    assert [one.day_ms for one in found] == sorted((one.day_ms for one in found), reverse=True)
    assert found == look(fleet, lambda c: list(reconciliations.every(c, any_of)))
    runs = [(one.at_ms - T0 - 9 * DAY_MS, one.lines, one.differing) for one in look(fleet, reconciliations.runs)]
    assert runs == [(2, 6, 4), (1, 6, 4), (0, 6, 4)]
    of_acme = look(fleet, lambda c: reconciliations.page(c, ComparedFilter(org="acme", verdict="equal")).lines)
    assert {one.org_id for one in of_acme} == {"acme"} and len(of_acme) == 6
    with pytest.raises(UnknownId, match="did you mean acme"):
        look(fleet, lambda c: reconciliations.page(c, ComparedFilter(org="acmee")))
    with pytest.raises(UsageError, match="invalid verdict 'even': expected"):
        look(fleet, lambda c: reconciliations.page(c, ComparedFilter(verdict="even")))


def test_parity_view_shows_last_check_only(fleet: Fleet) -> None:
    rows = [("", "compared", 2), ("acme", "differs", 2), ("b", "differs", 1), ("c%_", "equal", 2), ("d", "pruned", 2)]
    for org, verdict, at in rows:
        fleet.write(
            "INSERT INTO parity_checks (day_ms, cell_id, org_id, ours_s, theirs_s, withdrawn_s, off_s, ppm, verdict, "
            "at_ms) VALUES (:day, 'cell-1', :org, 5, 6, 0, 1, 9, :verdict, :at)",
            {"day": T0, "org": org, "verdict": verdict, "at": at},
        )
    cells, found = look(fleet, lambda c: parity.parity_found(c, T0))
    assert [one.verdict for one in cells] == ["compared"]
    assert [(one.org_id, one.verdict) for one in found] == [("acme", "differs"), ("d", "pruned")]
    assert look(fleet, lambda c: parity.parity_found(c, T0 + DAY_MS)) == ([], [])
