"""`drawdown ledger`: manage the embedded provider's wallets and rate card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Most, PageSize
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import print_file
from drawdown.ledger.accounts import Wallet
from drawdown.ledger.allocation import KINDS
from drawdown.ledger.tiers import BILLED_ELSEWHERE, NO_CREDIT
from drawdown.schema.currencies import show_money
from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.worker.checks import checks
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import (
    Account,
    EntryRow,
    account_of,
    list_entries,
    list_rates,
    list_wallets,
    payer_of,
)
from drawdown.worker.wallets.entries import MIN_DAYS, Forecast, forecast_of
from drawdown.worker.wallets.statement import LINES, CreditLine, Statement, as_object, csv_lines, of_customer, span_of
from drawdown.worker.wallets.tiers import HeldTier, tiers_of

WORDS: Final = {
    "given": "given", "began": "began", "topped_up": "topped up", "expired": "expired", "taken_back": "taken back",
    "other": "other",
}  # fmt: skip


def statement(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Customer's id; usually the organisation's id")],
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="Month of the statement in UTC, such as 2026-02")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Start of the range, in place of --month")] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of the range, for --from")] = None,
    most: PageSize = LINES,
    as_csv: Annotated[bool, typer.Option("--csv", help="Output as CSV, safe to open in a spreadsheet")] = False,
) -> None:
    """Show a wallet's monthly statement.

    The statement has the opening balance, the sums of all entries, and the closing balance, so that you can add them
    up. It uses the time of booking. Late usage is in the month of its booking, with its own month beside it. If a
    section has more rows than --most, its last line sums the others. The exit status is 1 if the figures do not add up.
    """
    app: App = context.obj
    if as_csv and app.json:
        raise UsageError("specify either --csv or --json, not both")
    first = None if from_ is None else app.past(from_, "--from")
    end = None if to is None else app.moment(to, "--to")
    span = span_of(month, first, end)
    app.read(lambda c: credit.require_wallet(c, customer))
    found = app.read(lambda c: of_customer(c, customer, span, app.clock.now_ms(), most))
    if as_csv:
        print_file(csv_lines(found))
    else:
        show(app, as_object(found), _report(found))
    if found.problems:
        raise typer.Exit(Exit.PERSON)


def _report(found: Statement) -> Iterator[str | Table]:
    yield _addition(found)
    if found.usage:
        yield _usage(found)
    if found.executions:
        yield _runs(found)
    if found.held:
        yield _held_table(found)
    for problem in found.problems:
        yield f"the statement does not add up: {problem}"


def _addition(found: Statement) -> Table:
    """Return the table of a statement's sums, from the opening to the closing balance."""
    moved = {change.section: show_credits(change.moved_micro) for change in found.changes}
    rows: list[tuple[object, ...]] = [("opening balance", "", None, show_credits(found.opening_micro))]
    rows += [(WORDS[line.section], _what(line), line.entries, show_credits(line.moved_micro)) for line in found.credits]
    if found.usage:
        rows.append(("usage", "below", sum(line.charges for line in found.usage), moved["usage"]))
    if found.executions:
        rows.append(("executions", "below", sum(line.executions for line in found.executions), moved["executions"]))
    rows.append(("closing balance", "", None, show_credits(found.closing_micro)))
    when = "" if found.is_final else "; it may still change"
    title = f"{found.customer_id}, booked from {show_time(found.from_ms)} to {show_time(found.to_ms)}{when}"
    return table(title, ("what", "of", "#how many", "#credits"), rows)


def _what(line: CreditLine) -> str:
    if line.money_minor is None or line.currency is None:
        return line.what
    return f"{line.what}, for {show_money(line.money_minor, line.currency)}"


def _usage(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = [
        (_more(line.more) or line.feature, line.month, line.charges, line.quantity, line.micro_credits,
         line.per_quantity, line.rounding_micro, show_credits(line.charged_micro))
        for line in found.usage
    ]  # fmt: skip
    charged = show_credits(sum(line.charged_micro for line in found.usage))
    rows.append(("all", None, sum(line.charges for line in found.usage), None, None, None, None, charged))
    columns = ("feature", "used in", "#charges", "#quantity", "#micro-credits", "#per", "#rounding", "#credits")
    title = "Usage: quantity times micro-credits, divided by per, plus rounding"
    return table(title, columns, rows)


def _runs(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = []
    for line in found.executions:
        amounts = (line.drawn_micro, line.settled_micro, line.late_micro, -line.written_off_micro, line.charged_micro)
        rows.append((_more(line.more) or line.project, line.executions, *map(show_credits, amounts)))
    charged = show_credits(sum(line.charged_micro for line in found.executions))
    rows.append(("all", sum(line.executions for line in found.executions), None, None, None, None, charged))
    columns = ("project", "#executions", "#drawn", "#settled", "#late", "#written off", "#credits")
    return table("Executions: drawn, settled and settled late, minus the credits written off", columns, rows)


def _held_table(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = [
        (_more(line.more) or line.execution, line.org_id, line.project, show_time(line.expires_ms),
         show_credits(line.held_micro))
        for line in found.held
    ]  # fmt: skip
    rows.append(("all", None, None, None, show_credits(found.reserved_micro)))
    columns = ("execution", "organisation", "project", "until", "#credits")
    return table("Reserved at the end: included in the closing balance", columns, rows)


def _more(lines: int) -> str | None:
    return f"{lines:,} more" if lines else None


Customer = Annotated[str, typer.Argument(help="Customer's id; usually the organisation's id")]


def billing_(context: typer.Context, customer: Customer) -> None:
    """Show a wallet's billing terms and recent changes.

    The command lists payers, thresholds, and the plans and tiers that you sell.
    """
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
        f"{_credits(terms.threshold_micro) or 'none'} ({terms.mode or 'not automatic'})",
        table("Payers", ("", "party", "relation", "as", "#limit", "#spent", "since", "reason"), related),
        table("Billing events", ("at", "event", "#credits", "state", "reason or key"), events),
        table("Plans and tiers", ("", "name", "#at once", "#a month", "#included", "held"), offered),
    ]
    result = {"terms": terms, "related": relations, "plans": plans, "tiers": tiers, "events": recent, "topups": topups}
    show(app, {"customer_id": customer, "payer": payer, **result}, lines)


def spenders_(
    context: typer.Context,
    keep: Annotated[
        bool, typer.Option("--keep", help="Result stored for the console, as by `drawdown nightly`")
    ] = False,
) -> None:
    """Show the wallets that spent the most in 30 days.

    The command reads all charges of usage and executions in that period.
    """
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


commands = of_noun("ledger", *credit.ACTIONS, *wallets.LISTS)


@commands.command("show")
def show_(
    context: typer.Context,
    customer: Annotated[str | None, typer.Argument(help="Customer to show")] = None,
    most: Most = 20,
) -> None:
    """Show wallets and the rate card, or one wallet's entries."""
    app: App = context.obj
    if customer is None:
        _show_all(app, most)
    else:
        _show_one(app, customer, most)


def _show_all(app: App, most: int) -> None:
    wallets, rates = app.read(lambda c: (list_wallets(c, most), list_rates(c)))
    rows = [(one.account_id.split(":", 1)[1], show_credits(one.balance_micro), one.plan) for one in wallets]
    card = [(one.feature, one.micro_credits, one.per_quantity, show_time(one.start_ms)) for one in rates]
    tables = [
        table("Wallets", ("customer", "#balance", "plan"), rows),
        table("Rate card", ("feature", "#micro-credits", "#per", "from"), card),
    ]
    show(app, {"wallets": wallets, "rates": rates}, tables)


def _show_one(app: App, customer: str, most: int) -> None:
    now_ms = app.clock.now_ms()

    def work(connection: sa.Connection) -> tuple[Wallet, Account, list[EntryRow], list[HeldTier], Forecast]:
        booked = credit.require_wallet(connection, customer)
        account = account_of(connection, customer, now_ms)
        ends = forecast_of(connection, customer, account.available_micro, now_ms)
        return booked, account, list_entries(connection, customer, most), tiers_of(connection, customer), ends

    booked, account, entries, held, ends = app.read(work)
    due_micro = account.balance_micro - booked.balance_micro
    rows = [
        (show_time(e.at_ms), show_time(e.ts), e.kind, show_credits(e.moved_micro),
         e.feature, e.quantity, e.key)
        for e in entries
    ]  # fmt: skip
    title = f"{customer}: {show_credits(account.available_micro)} credits available, "
    title += f"{show_credits(account.reserved_micro)} reserved, "
    title += f"{show_credits(account.unbilled_micro)} used and not charged yet, " if account.unbilled_micro else ""
    title += f"{show_credits(account.over_micro)} over, " if account.over_micro else ""
    title += f"{show_credits(due_micro)} not booked yet, " if due_micro else ""
    title += f"plan {account.plan or '-'}"
    title += "".join(f", tier {_tier(one)}" for one in held if one.ended_ms is None)
    columns = ("booked", "of", "kind", "#credits", "feature", "#quantity", "key")
    over = [one for one in held if one.ended_ms is not None]
    ended = [f"tier {one.tier} ended at {show_time(one.ended_ms)}{_why(one)}" for one in over]
    result = {
        **vars(account),
        **account.in_credits(),
        "max_concurrent": booked.max_concurrent,
        "tiers": held,
        "entries": entries,
    }
    lines: list[str | Table] = [table(title, columns, rows), *_parts(account), *ended, _ends(ends)]
    show(app, {**result, "forecast": ends.to_json()}, lines)


def _ends(found: Forecast) -> str:
    """Return when the credit ends, and the use behind this forecast."""
    if found.used_micro is None:
        state = "no credit is available" if found.state == "spent" else "the end of the credit is not known yet"
        return f"{state}: {found.days} of {MIN_DAYS} full days of use are known"
    rests = (
        f"{show_credits(found.used_micro)} credits were used in {found.days} full days from "
        f"{show_time(found.from_ms)} on"
    )
    said = {"ends": f"the credit ends at {show_time(found.ends_ms)}", "spent": "no credit is available",
            "lasts": "the credit does not end"}  # fmt: skip
    return f"{said[found.state]}, by recent use: {rests}"


def _parts(account: Account) -> list[str]:
    """Return the parts of a wallet in words; empty for an empty wallet."""
    micro = {name: vars(account)[f"{name}_micro"] for name in KINDS}
    parts = [f"{name} {show_credits(left)}" for name, left in micro.items() if left]
    parts += [f"owed {show_credits(account.owed_micro)}"] if account.owed_micro else []
    waits = f"on hold for suppliers: {show_credits(account.hold_micro)} of these charges"
    return [f"left: {', '.join(parts)}"] * bool(parts) + [waits] * bool(account.hold_micro)


def _tier(held: HeldTier) -> str:
    then = "renews" if held.renews else "ends"
    return f"{held.tier} ({held.at_once:,} at once, {then} at {show_time(held.paid_to_ms)})"


def _why(held: HeldTier) -> str:
    if held.ended_reason == BILLED_ELSEWHERE:
        return ": another provider bills its organisations"
    return ": the credit did not cover another month" if held.ended_reason == NO_CREDIT else ""


commands.command("statement")(statement)
for name, act in (("billing", billing_), ("spenders", spenders_)):
    commands.command(name)(act)
