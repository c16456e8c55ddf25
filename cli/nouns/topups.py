"""`drawdown topup`: manage wallets that Drawdown fills automatically."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import Actor, Most, New, Queued, Reason
from drawdown.cli.rendering import facts, show, table
from drawdown.providers.payments.protocol import Link, NoLink
from drawdown.schema.audit import By
from drawdown.schema.currencies import show_money
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import in_credits, parse_credits, show_credits, show_time
from drawdown.worker.engine import runner
from drawdown.worker.jobs.job_payloads import TopupJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.actions import Mode, Terms, TermsChange, in_flight, require_only_one
from drawdown.worker.topup.fill import Filled, fill
from drawdown.worker.topup.lists import (
    LISTS,
    TopupRow,
    WalletTerms,
    show_topup,
    show_wallet,
)

commands = of_noun("topup", *topups.ACTIONS, *LISTS)
Wallet = Annotated[str, typer.Argument(help="Customer who owns the wallet")]
Shadow = Annotated[bool, typer.Option("--shadow", help="Record of the charges that would be made, without charging")]
ReturnTo = Annotated[str, typer.Option(help="URL to which the customer returns")]


@commands.command("set")
def set_(
    context: typer.Context,
    wallet: Wallet,
    below: Annotated[str, typer.Option(metavar="CREDITS", help="Available credit at or below which Drawdown tops up")],
    price: Annotated[int, typer.Option(help="Price of a credit in minor units; 100 is 1 dollar")],
    currency: Annotated[str, typer.Option(help="Currency code of ISO 4217, in lower case")],
    customer: Annotated[str, typer.Option(help="Customer's id at the payment service")],
    most: Annotated[int, typer.Option(help="Maximum charge in minor units")],
    amount: Annotated[str | None, typer.Option(metavar="CREDITS", help="Credits of each top-up")] = None,
    up_to: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="Available credit to fill up to, in place of --amount")
    ] = None,
    service: Annotated[str, typer.Option(help="Payment service")] = "stripe",
    per_day: Annotated[int, typer.Option(help="Maximum number of top-ups in 24 hours")] = 3,
    per_month: Annotated[int, typer.Option(help="Maximum number of top-ups in 30 days")] = 20,
    shadow: Shadow = False,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set the automatic top-up of a wallet.

    Drawdown resets the count of declines, because the customer or card may have changed. If the terms change, Drawdown
    gives up an unsent top-up, and names an open top-up that may still be paid.
    """
    app: App = context.obj
    terms = Terms(
        threshold_micro=parse_credits(below),
        amount_micro=None if amount is None else parse_credits(amount),
        fill_to_micro=None if up_to is None else parse_credits(up_to),
        price_minor=price,
        currency=currency,
        service=service,
        service_customer=customer,
        most_minor=most,
        max_day=per_day,
        max_month=per_month,
        mode="shadow" if shadow else "live",
    )
    by, can = app.by(actor, reason), app.require_payments(service).capabilities
    if not shadow:
        _require_only_one(app, terms)
    said = app.write(lambda c: topups.set_terms(c, wallet, terms, can, by, new=new))
    before = "before: none" if said.was is None else f"before: {_in_words(said.was)}"
    dormant = app.payments.services[service].dormant
    more = [] if dormant is None or shadow else [f"Drawdown does not charge yet: {dormant}"]
    more += [in_flight(said.open_topup)] if said.open_topup else []
    show(
        app,
        {"customer_id": wallet, "terms": terms, "was": said.was, "open_topup": said.open_topup},
        [f"{wallet}: {_in_words(terms)}; {before}", *more],
    )


@commands.command("show")
def show_(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="WALLET|TOPUP", help="Wallet, or top-up as topup:WALLET:N")],
    most: Most = 20,
) -> None:
    """Show a wallet's top-ups, or one top-up's calls.

    For a wallet, the command shows its terms, too. For a top-up, it shows each call that may have taken money.
    """
    app: App = context.obj
    if not what.startswith("topup:"):
        terms, found = app.read(lambda c: show_wallet(c, what, most))
        tables = [table(what, ("", ""), facts(vars(terms))), _table("Top-ups", found)]
        show(app, {"terms": _to_json(terms), "topups": found}, tables)
        return
    one, calls = app.read(lambda c: show_topup(c, what, most))
    rows = [(call.attempt, show_time(call.started_ms), call.outcome or "unknown", call.detail) for call in calls]
    tables = [table(what, ("", ""), facts(vars(one))), table("Calls", ("#", "at", "outcome", "message"), rows)]
    show(app, {"topup": one, "calls": calls}, tables)


@commands.command()
def resume(
    context: typer.Context, wallet: Wallet, queue: Queued = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Resume top-ups after the customer changed the card.

    If the wallet is low, Drawdown charges the card once, immediately. In shadow mode, it only records the charge.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    if queue:
        return _queue(app, TopupJob(wallet, "resume"), by)
    terms = app.read(lambda c: topups.require_terms(c, wallet))
    if terms.mode != "shadow":
        _require_only_one(app, terms)
    said = app.write(lambda c: topups.resume(c, wallet, by))
    done = runner.run(fill(app.context(), wallet), app.world())
    was = f"; before, they were stopped ({said.blocked_reason})" if said.blocked_reason else ""
    result = {"customer_id": wallet, "was_blocked": said.blocked_reason, "filled": done}
    show(app, result, [f"{wallet}: top-ups are resumed{was}", _sentence(done)])


@commands.command()
def start(
    context: typer.Context,
    wallet: Wallet,
    shadow: Shadow = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Start the automatic top-ups of a wallet."""
    app: App = context.obj
    if shadow and queue:
        raise UsageError("specify either --shadow or --queue, not both")
    if queue:
        return _queue(app, TopupJob(wallet, "start"), app.by(actor, reason))
    if not shadow:
        _require_only_one(app, app.read(lambda c: topups.require_terms(c, wallet)))
    _set_mode(app, wallet, "shadow" if shadow else "live", actor, reason)


@commands.command()
def card(context: typer.Context, wallet: Wallet, return_to: ReturnTo) -> None:
    """Print the link with which a customer adds a card.

    Send the link to the customer only, because it works without a sign-in.
    """
    _link(context.obj, wallet, return_to, portal=False)


@commands.command()
def portal(context: typer.Context, wallet: Wallet, return_to: ReturnTo) -> None:
    """Print the link to a customer's cards and payments.

    Send the link to the customer only, because it works without a sign-in.
    """
    _link(context.obj, wallet, return_to, portal=True)


def _link(app: App, wallet: str, return_to: str, *, portal: bool) -> None:
    terms = app.read(lambda c: topups.require_terms(c, wallet))
    service = app.require_payments(terms.service)
    ask = service.portal_link if portal else service.card_link
    found: Link | NoLink = runner.ask(lambda: ask(terms.service_customer, return_to), app.world())
    if isinstance(found, NoLink):
        raise Refused(f"{terms.service} did not return a page: {found.reason}. Fix the cause, or try again later")
    ends = "" if found.expires_ms is None else f" (until {show_time(found.expires_ms)})"
    result = {"customer_id": wallet, "url": found.url, "expires_ms": found.expires_ms}
    show(app, result, [f"{found.url}{ends}"])


def _require_only_one(app: App, terms: Terms) -> None:
    """Refuse a customer that the payment service tops up itself. Errors: Refused."""
    app.require_payments(terms.service)
    runner.run(require_only_one(app.context(), terms.service, terms.service_customer), app.world())


def _queue(app: App, asked: TopupJob, by: By) -> None:
    job_id = app.write(lambda c: place(c, asked, by))
    show(app, {"customer_id": asked.wallet, "job": job_id}, [QUEUED.format(job_id)])


def _set_mode(app: App, wallet: str, mode: Mode, actor: str | None, reason: str) -> None:
    by = app.by(actor, reason)
    said: TermsChange = app.write(lambda c: topups.set_mode(c, wallet, mode, by))
    assert said.was is not None
    lines = [f"{wallet}: {mode}; before: {said.was.mode}"]
    if said.blocked_reason and mode == "live":
        lines.append(
            f"the top-ups stopped: {said.blocked_reason}. To resume them, run `drawdown topup resume {typed(wallet)}`"
        )
    lines += [in_flight(said.open_topup)] if said.open_topup else []
    result = {"customer_id": wallet, "mode": mode, "was": said.was.mode, "blocked": said.blocked_reason}
    show(app, {**result, "open_topup": said.open_topup}, lines)


def _in_words(terms: Terms) -> str:
    how = f"up to {show_credits(terms.fill_to_micro)}" if terms.fill_to_micro is not None else ""
    how = how or f"by {show_credits(terms.amount_micro or 0)}"
    return (
        f"{terms.mode}; at or below {show_credits(terms.threshold_micro)} credits {how}, at "
        f"{show_money(terms.price_minor, terms.currency)} a credit, {show_money(terms.most_minor, terms.currency)} at "
        f"most at once, {terms.max_day} a day, "
        f"{terms.max_month} in 30 days; at {terms.service} as {terms.service_customer}"
    )


def _table(title: str, found: list[TopupRow]) -> Table:
    rows = [
        (one.topup, one.state, show_credits(one.credits_micro), show_money(one.money_minor, one.currency), one.attempts,
         show_time(one.at_ms), one.evidence)
        for one in found
    ]  # fmt: skip
    return table(title, ("top-up", "state", "#credits", "#money", "#calls", "started", "last message"), rows)


def _to_json(terms: WalletTerms) -> dict[str, object]:
    return {**vars(terms), "available": in_credits(terms.available_micro)}


def _sentence(done: Filled) -> str:
    return f"{done.begun} begun, {done.credited} credited, {done.declined} declined, {done.looked_up} looked up"
