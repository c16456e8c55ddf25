"""Billing of one customer, whole: its buckets, when it is halted or filled, who pays for whom, what may be bought, and
what happened lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import billing_all, cells, wallet, wallets
from drawdown.server.console.screens.money.billing_terms import pause, thresholds, top_up
from drawdown.worker.wallets import lists
from drawdown.worker.wallets.accounts import PaidFrom, account_of, paid_from
from drawdown.worker.wallets.lists import Happened, Offer, Relation

PATH: Final = "/console/billing"
OPEN: Final = ("due", "sending", "in_doubt")
"""States of a top-up that may yet be credited."""
RELATIONS: Final[Mapping[str, str]] = {
    "biller": "billed at", "shares": "shares the wallet", "pays_for_it": "pays for its runs",
    "it_pays_for": "its runs are paid for", "pool": "pool that allots it credit", "sponsor": "sponsored it",
    "member": "member of the pool", "supplier": "supplier, owed a share of its runs",
}  # fmt: skip


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    given = ask.text("id")
    if not given:
        return billing_all.read(connection, ask)
    paid = paid_from(connection, given, ask.now_ms)
    customer = paid.customer_id
    account = account_of(connection, customer, ask.now_ms)
    terms = lists.terms_of(connection, customer, given)
    relations = lists.related(connection, customer, given, ask.now_ms)
    plans, tiers = lists.offers(connection, customer)
    recent, topups = lists.happened(connection, customer, ask.now_ms)
    tables = [
        thresholds(terms, account, customer, is_here=paid.is_here),
        _related(relations, given),
        _happened(recent, customer, paid),
        top_up(terms, customer, ask.now_ms),
        _topups(topups, customer),
        _tiers(tiers, customer),
        _plans(plans, account.plan, customer),
    ]
    links = [
        *([act("Give credit", "grant", id=customer)] if paid.takes_credit else []),
        act("Change plan", "plan", "admin", id=customer),
        *pause(terms, customer),
        *([] if terms.org_id is None else [Link("Usage", url("/console/org", id=given))]),
        Link("Wallet", url("/console/wallet", id=customer)),
    ]
    return shown(
        Shown(
            PATH, tables, tiles=wallet.tiles(account) if paid.is_here else [wallet.nothing_here(paid)], acts=links,
            query={"id": given}, said=_said(given, customer),
            above=Link("Billing", PATH), heading=given,
        )
    )  # fmt: skip


def _said(given: str, customer: str) -> str:
    return "" if given == customer else f"Paid from the wallet of {customer}, which others may share."


def _related(found: list[Relation], given: str) -> Table:
    heads = ("Credit flows", "Who", "How", "#Up to", "#Spent", "Since, UTC", "Why")
    none = "Nobody bills it, pays for it, or is paid for by it yet."
    command = cells.command("ledger", "billing", given)
    rows = [_relation(one) for one in found]
    return Table("Who pays for whom", heads, rows, none, command if rows else f"drawdown org assign {typed(given)}")


def _relation(one: Relation) -> tuple[Cell, ...]:
    how = RELATIONS[one.part] + (f" as {one.other}" if one.part == "biller" and one.other else "")
    limit = "no limit" if one.limit_micro is None and one.part in ("pays_for_it", "it_pays_for") else None
    return (
        Cell("upstream" if one.part in lists.UPSTREAM else "downstream"),
        _who(one),
        Cell(how, "id"),
        Cell(limit or figures.credits(one.limit_micro), "number"),
        cells.credits(one.spent_micro, narrow=False),
        cells.time(one.since_ms, narrow=False),
        Cell(one.said or figures.UNKNOWN, "id", narrow=False),
    )


def _who(one: Relation) -> Cell:
    if one.part == "supplier":
        return cells.supplier(one.who)
    if one.part == "biller":
        return Cell(one.who, "id", href=url("/console/orgs", provider=one.who))
    return Cell(one.who, "id") if one.part == "sponsor" else cells.billing(one.who)


def _happened(found: list[Happened], customer: str, paid: PaidFrom) -> Table:
    heads = ("At, UTC", "What", "#Amount", "State", "Who", "Why, or key")
    none = f"Nothing was given or charged in the last {lists.HAPPENED_DAYS} days."
    rows = [_event(one, customer) for one in found]
    command: tuple[str, ...] = ("ledger", "billing", customer)
    if not rows and paid.takes_credit:
        command = ("ledger", "grant", customer, "10")
    title = f"Billing events of the last {lists.HAPPENED_DAYS} days"
    note = f"What was charged is told by days, for the last {lists.CHARGED_DAYS}; the wallet has each entry."
    return Table(title, heads, rows, none, cells.command(*command), note=note if rows else "")


def _event(one: Happened, customer: str) -> tuple[Cell, ...]:
    what, state = one.kind, Cell(figures.UNKNOWN)
    if one.part in ("charge", "given back"):
        what = _many(one)
    elif one.part == "topup":
        state = Cell(one.state, "state", cells.TOPUP_TONES.get(one.state, ""))
    elif one.part == "plan":
        what = f"onto the plan {one.key}"
    elif one.part == "tier":
        what = f"tier {one.key} ended"
    return (
        cells.time(one.at_ms),
        Cell(what, "id", href=_event_page(one, customer)),
        Cell(_moved(one), "number"),
        state,
        Cell(one.actor or figures.UNKNOWN, "id", narrow=False),
        Cell(one.said or one.key or figures.UNKNOWN, "id", narrow=False),
    )


def _moved(one: Happened) -> str:
    """By how much it moved the wallet: a top-up does once it is credited, and not before; one in doubt may yet."""
    if one.part != "topup" or one.state == "credited":
        return figures.signed(one.micro)
    return figures.UNKNOWN if one.state in OPEN else figures.credits(0)


def _many(one: Happened) -> str:
    if one.part == "charge":
        return "1 charge" if one.entries == 1 else f"{one.entries:,} charges"
    return "given back" if one.entries == 1 else f"given back {one.entries:,} times"


def _event_page(one: Happened, customer: str) -> str:
    if one.part in ("plan", "tier"):
        return ""
    if one.part in ("charge", "given back"):
        return url("/console/wallet", id=customer)
    return cells.of_entry(one.key) or url("/console/wallet", id=customer)


def _topups(found: list[Happened], customer: str) -> Table:
    rows = [
        (
            cells.time(one.at_ms),
            Cell(one.state, "state", cells.TOPUP_TONES.get(one.state, ""), links=cells.resolve(one.key, one.state)),
            cells.credits(one.micro),
            Cell(cells.money(one.minor, one.currency), "number"),
            cells.count(one.entries, narrow=False),
            Cell(one.said or figures.UNKNOWN, "id", narrow=False),
            Cell(one.key, "id", narrow=False, href=url("/console/topup", id=one.key)),
        )
        for one in found
    ]
    heads = ("Begun, UTC", "State", "#Credits", "#Money", "#Calls", "Said last", "Top-up")
    none = "It was never topped up by itself."
    return Table("Its last charges", heads, rows, none, cells.command("topup", "list", "--wallet", customer))


def _tiers(found: list[Offer], customer: str) -> Table:
    rows = [
        (Cell(one.name, "id"), cells.count(one.at_once), cells.credits(one.price_micro), _held(one, customer),
         Cell(figures.time(one.paid_to_ms), "time", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("Tier", "#Sandboxes at once", "#A month", "This customer", "Paid until, UTC")
    none = "There is no tier to buy. A tier allows more sandboxes at once, for a price a month."
    command = (
        cells.command("tier", "buy", customer, "TIER") if rows else "drawdown tier set pro --at-once 100 --price 40"
    )
    return Table("Concurrency tiers", heads, rows, none, command)


def _held(one: Offer, customer: str) -> Cell:
    buy = (act("Buy", "tier-buy", id=customer, tier=one.name),)
    if not one.is_held:
        return Cell("ended" if one.ended_ms is not None else "not held", links=buy)
    if not one.goes_on:
        return Cell("held, ends", "state", "warn", links=buy)
    return Cell("held, goes on", links=(act("Let it end", "tier-end", id=customer, tier=one.name),))


def _plans(found: list[Offer], own: str | None, customer: str) -> Table:
    rows = [wallets.plan_cells(one, one.name == own) for one in found]
    command = "drawdown plan list" if rows else "drawdown plan set team --max-concurrent 20 --new"
    return Table("Plans beside one another", wallets.PLAN_HEADS, rows, "There is no plan yet.", command)
