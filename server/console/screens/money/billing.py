"""Show the billing of one customer, or of all.

A customer's page has its credit, thresholds, payers, offers and recent events. The page of all customers has the high
spenders, wallets with a low or negative balance, and pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import YES
from drawdown.schema.text import counted, typed
from drawdown.schema.units import DAY_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells, wallets
from drawdown.server.console.screens.money.wallets import topped_up
from drawdown.worker.topup import lists as topups
from drawdown.worker.topup.lists import Switched
from drawdown.worker.wallets import lists
from drawdown.worker.wallets import lists as wallet_lists
from drawdown.worker.wallets.accounts import Account, PaidFrom, account_of, paid_from
from drawdown.worker.wallets.lists import BillingTerms, Chosen, Happened, Offer, Relation, Spender, WalletLines
from drawdown.worker.wallets.pools import PoolRow, list_pools

PATH: Final = "/console/billing"
OPEN: Final = ("due", "sending", "in_doubt")
"""States of a top-up that may still add credit."""
RELATIONS: Final[Mapping[str, str]] = {
    "biller": "billed at", "shares": "shares the wallet", "pays_for_it": "pays for its executions",
    "it_pays_for": "this wallet pays for its executions", "pool": "pool that allots credit",
    "sponsor": "sponsor", "member": "member of the pool", "supplier": "supplier, owed a share",
}  # fmt: skip


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    given = ask.text("id")
    if not given:
        return read_all(connection, ask)
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
        act("Change plan", "plan-put", "admin", customer=customer),
        *pause(terms, customer),
        *([] if terms.org_id is None else [Link("Usage", url("/console/org", id=given))]),
        Link("Wallet", url("/console/wallet", id=customer)),
    ]
    return to_context(
        PageContent(
            PATH, tables, tiles=wallets.tiles(account) if paid.is_here else [wallets.nothing_here(paid)], acts=links,
            query={"id": given}, note=_shared_wallet_note(given, customer),
            above=Link("Billing", PATH), heading=given,
        )
    )  # fmt: skip


def _shared_wallet_note(given: str, customer: str) -> str:
    return "" if given == customer else f"Paid from the wallet of {customer}, which others may share."


def _related(found: list[Relation], given: str) -> Table:
    heads = ("Direction", "Party", "Relation", "#Limit", "#Spent", "Since, UTC", "Reason")
    none = "No provider, payer or supplier of this customer exists yet."
    command = cells.command("ledger", "billing", given)
    rows = [_relation(one) for one in found]
    return Table("Payers", heads, rows, none, command if rows else f"drawdown org assign {typed(given)}")


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
    heads = ("Time, UTC", "Event", "#Amount", "State", "Actor", "Reason or key")
    none = f"No credit was given or charged in the last {lists.HAPPENED_DAYS} days."
    rows = [_event(one, customer) for one in found]
    command: tuple[str, ...] = ("ledger", "billing", customer)
    if not rows and paid.takes_credit:
        command = ("ledger", "grant", customer, "10")
    title = f"Billing events of the last {lists.HAPPENED_DAYS} days"
    note = f"Charges of the last {lists.CHARGED_DAYS} days are summed by day. The wallet shows each entry."
    return Table(title, heads, rows, none, cells.command(*command), note=note if rows else "")


def _event(one: Happened, customer: str) -> tuple[Cell, ...]:
    what, state = one.kind, Cell(figures.UNKNOWN)
    if one.part in ("charge", "given back"):
        what = _many(one)
    elif one.part == "topup":
        state = Cell(one.state, "state", cells.TOPUP_TONES.get(one.state, ""))
    elif one.part == "plan":
        what = f"changed to plan {one.key}"
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
    """Return the amount by which an event changed the wallet.

    A top-up changes the wallet only once it is credited. The effect of an open top-up is unknown.
    """
    if one.part != "topup" or one.state == "credited":
        return figures.signed(one.micro)
    return figures.UNKNOWN if one.state in OPEN else figures.credits(0)


def _many(one: Happened) -> str:
    if one.part == "charge":
        return counted(one.entries, "charge")
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
            Cell(cells.format_money(one.minor, one.currency), "number"),
            cells.count(one.entries, narrow=False),
            Cell(one.said or figures.UNKNOWN, "id", narrow=False),
            Cell(one.key, "id", narrow=False, href=url("/console/topup", id=one.key)),
        )
        for one in found
    ]
    heads = ("Started, UTC", "State", "#Credits", "#Money", "#Calls", "Last message", "Top-up")
    none = "No automatic top-up of this wallet exists yet."
    return Table("Latest charges", heads, rows, none, cells.command("topup", "list", "--customer", customer))


def _tiers(found: list[Offer], customer: str) -> Table:
    rows = [
        (Cell(one.name, "id"), cells.count(one.at_once), cells.credits(one.price_micro), _holding_cell(one, customer),
         Cell(figures.time(one.paid_to_ms), "time", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("Tier", "#Concurrent sandboxes", "#Monthly price", "This customer", "Paid until, UTC")
    none = "No tier exists yet. A tier allows more concurrent sandboxes for a monthly price."
    command = (
        cells.command("tier", "buy", customer, "TIER") if rows else "drawdown tier set pro --at-once 100 --price 40"
    )
    return Table("Concurrency tiers", heads, rows, none, command)


def _holding_cell(one: Offer, customer: str) -> Cell:
    buy = (act("Buy", "tier-buy", customer=customer, tier=one.name),)
    if not one.is_held:
        return Cell("ended" if one.ended_ms is not None else "not held", links=buy)
    if not one.goes_on:
        return Cell("held, ends", "state", "warn", links=buy)
    return Cell("held, renews", links=(act("End tier", "tier-buy", customer=customer, tier=one.name, undo=YES),))


def _plans(found: list[Offer], own: str | None, customer: str) -> Table:
    rows = [wallets.plan_cells(one, one.name == own) for one in found]
    command = "drawdown plan list" if rows else "drawdown plan set team --max-concurrent 20 --new"
    return Table("Plans", wallets.PLAN_HEADS, rows, "No plan exists yet.", command)


MOST_WALLETS: Final = 10
"""Wallets with a negative balance that the page of billing lists.

Wallets with a low balance have the same limit.
"""
MOST_POOLS: Final = 20
"""Pools on the page of billing."""
STALE_MS: Final = 2 * DAY_MS
"""Age from which a list of the biggest spenders is out of date."""


def read_all(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    owed = wallet_lists.page(connection, Chosen("owed"), most=MOST_WALLETS)
    low = wallet_lists.page(connection, Chosen("low"), most=MOST_WALLETS)
    spenders = wallet_lists.spenders_kept(connection)
    pools = list_pools(connection, ask.now_ms, MOST_POOLS)
    tables = [_spenders(spenders, ask.now_ms), _wallets("owed", owed), _wallets("low", low), _pools(pools)]
    filters = [Filter("id", "Customer or organisation")]
    switch = topups.switched(connection)
    tiles = _tiles(topups.open_now(connection), switch, owed, low)
    kill = act("Stop all top-ups", "topup-stop-all", "admin")
    if switch is not None:
        kill = act("Resume all top-ups", "topup-start-all", "admin")
    acts = [act("Give credit", "grant"), kill]
    return to_context(PageContent(PATH, tables, tiles=tiles, filters=filters, acts=acts))


def _tiles(going: Mapping[str, int], switch: Switched | None, owed: WalletLines, low: WalletLines) -> list[Tile]:
    in_doubt = going.get("in_doubt", 0)
    stopped = "by the kill switch" if switch is None else f"by {switch.actor}, {figures.time(switch.stopped_ms)}"
    return [
        Tile("Wallets with a negative balance", _how_many(owed), "balance below 0", "bad" if owed.lines else ""),
        Tile("Wallets with a low balance", _how_many(low), "at their threshold or below", "warn" if low.lines else ""),
        Tile("Open top-ups", figures.count(sum(going.values()) - in_doubt), "due or requested"),
        Tile("Top-ups in doubt", figures.count(in_doubt), "requested, outcome unknown", "bad" if in_doubt else ""),
        Tile("All top-ups", "on" if switch is None else "stopped", "not stopped" if switch is None else stopped,
             "" if switch is None else "bad"),
    ]  # fmt: skip


def _how_many(found: WalletLines) -> str:
    return f"{len(found.lines):,}" + (" or more" if found.after is not None else "")


def _customer(customer_id: str) -> Cell:
    """Return a cell with a link to a customer's billing, and the action Give credit."""
    return replace(cells.billing(customer_id), links=(act("Give credit", "grant", id=customer_id),))


def _spenders(found: list[Spender], now_ms: int) -> Table:
    rows = [
        (cells.count(one.place), _customer(one.customer_id), cells.credits(one.used_micro),
         cells.balance(one.balance_micro), Cell(one.plan or figures.UNKNOWN, "id", narrow=False))
        for one in found
    ]  # fmt: skip
    heads = ("#Rank", "Customer", "#Used", "#Balance now", "Plan")
    note = ""
    if found:
        at = found[0].at_ms
        old = "; out of date" if now_ms - at > STALE_MS else ""
        note = (
            f"As of {figures.time(at)} UTC, {figures.ago(at, now_ms)}{old}. Charges for usage and executions since "
            f"{figures.time(found[0].from_ms)} UTC, less credit given back. Prices of tiers are not included."
        )
    none = "No list of high spenders exists yet. `drawdown nightly` creates the list from all charges."
    return Table(f"High spenders, {wallet_lists.SPENT_DAYS} days", heads, rows, none, "drawdown ledger spenders --keep",
                 note=note)  # fmt: skip


def _wallets(which: str, found: WalletLines) -> Table:
    rows = [
        (_customer(one.customer_id), cells.balance(one.balance_micro), cells.available(one.available_micro),
         Cell(one.plan or figures.UNKNOWN, "id", narrow=False), topped_up(one))
        for one in found.lines
    ]  # fmt: skip
    title = (
        "Wallets with a negative balance, the lowest first"
        if which == "owed"
        else "Wallets with a low balance, the lowest first"
    )
    none = "No wallet has a negative balance." if which == "owed" else "No wallet is at its threshold or below."
    command = cells.command("ledger", "wallets", "--which", which)
    following = url("/console/ledger", which=which) if found.after is not None else ""
    heads = ("Customer", "#Balance", "#Available", "Plan", "Top-up")
    return Table(title, heads, rows, none, command, following)


def _pools(found: list[PoolRow]) -> Table:
    rows = [
        (cells.billing(one.pool), cells.available(one.available_micro), cells.credits(one.allotted_micro),
         cells.credits(one.returned_micro, narrow=False), cells.count(one.members))
        for one in found
    ]  # fmt: skip
    heads = ("Pool", "#Available", "#Allotted", "#Returned", "#Members")
    none = "No pool exists yet. A pool allots credit to several customers."
    command = "drawdown pool list" if rows else "drawdown pool make team-budget"
    return Table("Pools", heads, rows, none, command)


def thresholds(terms: BillingTerms, account: Account, customer: str, *, is_here: bool) -> Table:
    """Return the table of thresholds, with their present state and effect.

    `is_here`: True if the embedded ledger keeps the customer's balance.
    """
    available = account.available_micro if is_here else None
    balance = available if terms.billing_provider is None or terms.read_micro is None else terms.read_micro
    halted = Cell("halted", "state", "bad") if terms.is_halted else Cell("open")
    low = terms.low_micro
    rows = [
        (Cell("Halted"), cells.credits(None if balance is None else 0), cells.credits(balance, narrow=False), halted,
         Cell(_halt_said(terms), "id", narrow=False)),
        (Cell("Low credit"), cells.credits(low), cells.credits(None if low is None else balance, narrow=False),
         _reached(low, balance),
         Cell("one message each time the credit gets low" if low is not None else "no message: no level is set",
              narrow=False)),
        (Cell("Automatic top-up"), cells.credits(terms.threshold_micro),
         cells.credits(None if terms.mode is None else available, narrow=False), state_of(terms),
         Cell(_fill_said(terms), narrow=False)),
    ]  # fmt: skip
    heads = ("Threshold", "#At or below", "#Now", "State", "Effect")
    return Table("Thresholds", heads, rows, "", cells.command("ledger", "billing", customer))


def _halt_said(terms: BillingTerms) -> str:
    if terms.is_halted:
        above = f"; the halt ends above {figures.credits(terms.resume_above_micro)}" if terms.resume_above_micro else ""
        return f"{terms.halt_reason or 'its sandboxes are stopped'}{above}"
    return "hosts stop its sandboxes at this effective balance"


def _fill_said(terms: BillingTerms) -> str:
    if terms.mode is None:
        return "no automatic top-up"
    if terms.stopped_ms is not None or terms.mode == "stopped":
        return "none, until a person starts the top-up"
    if terms.blocked_ms is not None:
        return "none, until you resume the top-up with another card, or grant a paid invoice"
    return "Drawdown fills the wallet" if terms.mode == "live" else "Drawdown records the charge that it would make"


def _reached(level: int | None, balance: int | None) -> Cell:
    if level is None or balance is None:
        return Cell("none")
    return Cell("low", "state", "warn") if balance <= level else Cell("above")


def state_of(terms: BillingTerms) -> Cell:
    """Return the state of an automatic top-up, such as armed, paused or stopped."""
    if terms.mode is None:
        return Cell("none")
    if terms.stopped_ms is not None:
        return Cell("all stopped", "state", "bad")
    if terms.blocked_ms is not None:
        return Cell("stopped automatically", "state", "bad")
    if terms.mode == "stopped":
        return Cell("paused", "state", "warn")
    return Cell("armed" if terms.mode == "live" else "shadow: no charges", "state")


def pause(terms: BillingTerms, customer: str) -> list[Link]:
    """Return the actions on an automatic top-up.

    An action that calls the payment service queues a job.
    """
    if terms.mode is None:
        return []
    found = [] if terms.mode == "live" else [act("Start top-up", "topup-start", id=customer)]
    if terms.mode == "stopped":
        return [*found, act("Start top-up in shadow mode", "topup-shadow", id=customer)]
    other_card = terms.blocked_ms is not None or terms.declines
    found += [act("Resume with another card", "topup-resume", id=customer)] if other_card else []
    return [*found, act("Pause top-up", "topup-stop", customer=customer)]


def top_up(terms: BillingTerms, customer: str, now_ms: int) -> Table:
    """Return the table of a wallet's automatic top-up."""
    title, heads = "Automatic top-up", ("Term", "Value")
    if terms.mode is None:
        fill = "--below 5 --amount 20 --price 100 --currency usd --customer CUSTOMER_THERE --most 10000"
        return Table(
            title,
            heads,
            [],
            "This wallet has no automatic top-up.",
            f"{cells.command('topup', 'set', customer)} {fill}",
        )
    by = f"by {figures.exact(terms.amount_micro)}, as many times as needed"
    if terms.fill_to_micro is not None:
        by = f"up to {figures.exact(terms.fill_to_micro)}"
    facts = [
        (Cell("State"), state_of(terms)),
        (Cell("Threshold, credits"), Cell(figures.exact(terms.threshold_micro))),
        (Cell("Amount, credits"), Cell(by)),
        (Cell("Price per credit"), Cell(cells.format_money(terms.price_minor, terms.currency))),
        (Cell("Maximum per charge"), Cell(cells.format_money(terms.most_minor, terms.currency))),
        (
            Cell("Maximum charges"),
            Cell(f"{figures.count(terms.max_day)} a day, {figures.count(terms.max_month)} in 30 days"),
        ),
        (Cell("Payment service"), Cell(f"{terms.service} as {terms.service_customer}", "id")),
        (Cell("Successive declines"), Cell(figures.count(terms.declines))),
    ]
    if terms.wait_until_ms is not None and terms.wait_until_ms > now_ms:
        facts.append((Cell("Earliest next charge, UTC"), cells.time(terms.wait_until_ms)))
    if terms.blocked_ms is not None:
        why = f"{figures.time(terms.blocked_ms)}: {terms.blocked_reason}"
        facts.append((Cell("Stopped automatically, UTC"), Cell(why, "id")))
    if terms.stopped_ms is not None:
        why = f"{figures.time(terms.stopped_ms)} by {terms.stopped_by}: {terms.stopped_reason}"
        facts.append((Cell("All top-ups stopped, UTC"), Cell(why, "id")))
    start = terms.mode == "stopped" or terms.blocked_ms is not None
    verb = "resume" if terms.blocked_ms is not None else "start"
    note = "A tick checks the payment service before it resumes or starts the top-up." if start else ""
    return Table(title, heads, facts, "", cells.command("topup", verb if start else "show", customer), note=note)
