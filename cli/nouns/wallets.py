"""`drawdown ledger wallets`, `entries`, `billing`, `spenders`: what the console's pages of money show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import PageSize
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.worker.checks import checks
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import payer_of
from drawdown.worker.wallets.lists import After, Chosen

Customer = Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")]


def wallets_(
    context: typer.Context,
    which: Annotated[str, typer.Option(help="owed: below nothing; low: at its threshold or below")] = "",
    plan: Annotated[str, typer.Option(help="Of customers on this plan alone")] = "",
    search: Annotated[str, typer.Option(help="With this text in their id")] = "",
    after: Annotated[str, typer.Option(help="Go on after this customer: the last one of a page")] = "",
    most: PageSize = wallets.MOST_ON_PAGE,
) -> None:
    """List wallets, the lowest balance first. Low is at or below the threshold of its automatic top-up, or the level at
    which balances are low; without either, at nothing."""
    app: App = context.obj
    begin = None
    if after:
        begin = After(after, app.read(lambda c: credit.require_wallet(c, after)).balance_micro)
    found = app.read(lambda c: wallets.page(c, Chosen(which, plan, search), begin, most))
    rows = [
        (one.customer_id, show_credits(one.balance_micro), show_credits(one.held_micro),
         show_credits(one.available_micro), one.plan, one.mode, _credits(one.threshold_micro), one.blocked_reason)
        for one in found.lines
    ]  # fmt: skip
    columns = ("customer", "#balance", "#reserved", "#available", "plan", "top-up", "#at", "stopped itself")
    more = [] if found.after is None else [f"there are more: --after {found.after.customer_id}"]
    result = {"wallets": found.lines, "next_after": None if found.after is None else found.after.customer_id}
    show(app, result, [table("Wallets", columns, rows), *more])


def entries_(
    context: typer.Context,
    customer: Customer,
    from_: Annotated[str | None, typer.Option("--from", help="Booked from this time on")] = None,
    to: Annotated[str | None, typer.Option("--to", help="...and before this time")] = None,
    amount: Annotated[str | None, typer.Option(help="Of this many credits, up or down: 4.80 finds 4.803, too")] = None,
    after: Annotated[str, typer.Option(help="Go on after this entry's key: a page's `next_after`")] = "",
    most: PageSize = wallet_entries.MOST_ENTRIES_ON_PAGE,
) -> None:
    """List a wallet's entries, the latest first by the time that each is of: each with its run or its lot, and when it
    was booked."""
    app: App = context.obj
    chosen = wallet_entries.Chosen(
        booked_from_ms=0 if from_ is None else app.past(from_, "--from"),
        booked_to_ms=wallet_entries.NEVER if to is None else app.moment(to, "--to"),
        sizes=wallet_entries.ALL.sizes if amount is None else wallet_entries.sizes_of(amount, "--amount"),
    )
    app.read(lambda c: credit.require_wallet(c, customer))
    found = app.read(lambda c: wallet_entries.page(c, customer, after, most, chosen=chosen))
    rows = [
        (show_time(one.ts), show_time(one.at_ms), one.kind, show_credits(one.moved_micro), one.feature, one.quantity,
         one.reservation, one.lot, one.key)
        for one in found.entries
    ]  # fmt: skip
    columns = ("of", "booked", "kind", "#credits", "feature", "#quantity", "run", "lot", "key")
    more = [] if found.after is None else [f"there are more: --after {found.after}"]
    result = {"customer_id": customer, "entries": found.entries, "next_after": found.after}
    show(app, result, [table(f"{customer}: entries", columns, rows), *more])


def billing_(context: typer.Context, customer: Customer) -> None:
    """Show what hangs on a wallet: who pays for whom, its thresholds, what may be bought, what happened lately."""
    app: App = context.obj
    now_ms = app.clock.now_ms()
    payer = app.read(lambda c: payer_of(c, customer, now_ms))
    terms = app.read(lambda c: wallets.terms_of(c, payer, customer))
    relations = app.read(lambda c: wallets.related(c, payer, customer, now_ms))
    plans, tiers = app.read(lambda c: wallets.offers(c, payer))
    recent, topups = app.read(lambda c: wallets.happened(c, payer, now_ms))
    related = [
        ("upstream" if one.part in wallets.UPSTREAM else "downstream", one.who, one.part.replace("_", " "), one.other,
         _credits(one.limit_micro), _credits(one.spent_micro), show_time(one.since_ms), one.said)
        for one in relations
    ]  # fmt: skip
    events = [
        (show_time(one.at_ms), one.kind or one.part, _credits(one.micro), one.state, one.said or one.key)
        for one in recent
    ]
    offered = [
        (one.part, one.name, one.at_once, _credits(one.price_micro), _credits(one.included_micro), one.is_held)
        for one in (*plans, *tiers)
    ]
    lines: list[str | Table] = [
        f"{customer}: paid from the wallet of {payer}; low at {_credits(terms.low_micro) or 'no level'}, topped up at "
        f"{_credits(terms.threshold_micro) or 'none'} ({terms.mode or 'not by itself'})",
        table("Who pays for whom", ("", "who", "how", "as", "#up to", "#spent", "since", "why"), related),
        table("Billing events", ("at", "what", "#credits", "state", "why, or key"), events),
        table("Plans and tiers", ("", "name", "#at once", "#a month", "#included", "held"), offered),
    ]
    result = {"terms": terms, "related": relations, "plans": plans, "tiers": tiers, "events": recent, "topups": topups}
    show(app, {"customer_id": customer, "payer": payer, **result}, lines)


def spenders_(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what is found for the console's page: nightly")] = False,
) -> None:
    """Show whose wallets usage and runs used most in the last 30 days. It reads all that was charged in them."""
    app: App = context.obj
    now_ms = app.clock.now_ms()
    if keep:
        found = app.write(lambda c: checks.check_spenders(c, now_ms))
    else:
        found = app.read(lambda c: wallets.spenders_now(c, now_ms))
    rows = [(one.place, one.customer_id, show_credits(one.used_micro)) for one in found]
    show(app, {"spenders": found}, [table("High spenders, 30 days", ("#place", "customer", "#used"), rows)])


def _credits(micro: int | None) -> str | None:
    return None if micro is None else show_credits(micro)
