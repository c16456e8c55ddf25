"""`drawdown ledger`: the embedded provider's wallets and rate card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, cast

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App, new_key
from drawdown.cli.options import Actor, DryRun, Most, New, PageSize, Reason
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import print_file
from drawdown.ledger import accounts, wallet
from drawdown.ledger.allocation import KINDS, Kind
from drawdown.ledger.lots import DEFAULT_PRIORITY, Terms
from drawdown.ledger.rates import Rate
from drawdown.ledger.tiers import NO_CREDIT
from drawdown.schema import ids
from drawdown.schema.currencies import show_money
from drawdown.schema.errors import AnswerLost, Exit, UsageError
from drawdown.schema.typed.parsing import parse_ahead, parse_credits, parse_time, show_credits, show_time
from drawdown.worker.catalog.wallets import orgs_of
from drawdown.worker.checks import checks
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import (
    Account,
    EntryRow,
    LotRow,
    account_of,
    list_entries,
    list_lots,
    list_rates,
    list_wallets,
    payer_of,
)
from drawdown.worker.wallets.entries import MIN_DAYS, Forecast, forecast_of
from drawdown.worker.wallets.lists import After, Chosen
from drawdown.worker.wallets.statement import LINES, CreditLine, Statement, as_object, csv_lines, of_customer, span_of
from drawdown.worker.wallets.tiers import HeldTier, tiers_of

WORDS: Final = {
    "given": "given", "began": "began", "topped_up": "topped up", "expired": "expired", "taken_back": "taken back",
    "other": "other",
}  # fmt: skip


def statement(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    month: Annotated[str | None, typer.Option(metavar="MONTH", help="2026-02, in UTC")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Or: what was booked from this time on")] = None,
    to: Annotated[str | None, typer.Option("--to", help="...and before this time")] = None,
    most: PageSize = LINES,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, safe to open in a spreadsheet")] = False,
) -> None:
    """Show what a wallet began a month with, what moved it, and what it ended with, to be added up on paper.

    It goes by the time of booking: usage that came late is in the month that it was booked in, and its own month stands
    beside. Each section ends with one line for all that --most leaves out.
    """
    app: App = context.obj
    if as_csv and app.json:
        raise UsageError("give --csv or --json, not both")
    first = None if from_ is None else app.past(from_, "--from")
    end = None if to is None else app.moment(to, "--to")
    span = span_of(month, first, end)
    app.read(lambda c: credit.require_wallet(c, customer))
    found = app.read(lambda c: of_customer(c, customer, span, app.clock.now_ms(), most))
    if as_csv:
        print_file(csv_lines(found))
    else:
        show(app, as_object(found), _shown(found))
    if found.problems:
        raise typer.Exit(Exit.PERSON)


def _shown(found: Statement) -> Iterator[str | Table]:
    yield _addition(found)
    if found.usage:
        yield _usage(found)
    if found.runs:
        yield _runs(found)
    if found.held:
        yield _held(found)
    for problem in found.problems:
        yield f"this does not add up: {problem}"


def _addition(found: Statement) -> Table:
    """The opening balance, all changes, the closing balance."""
    moved = {change.section: show_credits(change.moved_micro) for change in found.changes}
    rows: list[tuple[object, ...]] = [("opening balance", "", None, show_credits(found.opening_micro))]
    rows += [(WORDS[line.section], _what(line), line.entries, show_credits(line.moved_micro)) for line in found.credits]
    if found.usage:
        rows.append(("usage", "below", sum(line.charges for line in found.usage), moved["usage"]))
    if found.runs:
        rows.append(("runs", "below", sum(line.runs for line in found.runs), moved["runs"]))
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
    title = "Usage: quantity times micro-credits, per so many, plus what rounding made of the charges"
    return table(title, columns, rows)


def _runs(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = []
    for line in found.runs:
        amounts = (line.drawn_micro, line.settled_micro, line.late_micro, -line.written_off_micro, line.charged_micro)
        rows.append((_more(line.more) or line.project, line.runs, *map(show_credits, amounts)))
    charged = show_credits(sum(line.charged_micro for line in found.runs))
    rows.append(("all", sum(line.runs for line in found.runs), None, None, None, None, charged))
    columns = ("project", "#runs", "#drawn", "#settled", "#late", "#written off", "#credits")
    return table("Runs: drawn, settled, settled late, less what was written off", columns, rows)


def _held(found: Statement) -> Table:
    rows: list[tuple[object, ...]] = [
        (_more(line.more) or line.run, line.org_id, line.project, show_time(line.expires_ms),
         show_credits(line.held_micro))
        for line in found.held
    ]  # fmt: skip
    rows.append(("all", None, None, None, show_credits(found.reserved_micro)))
    columns = ("run", "organisation", "project", "until", "#credits")
    return table("Reserved at the end: of the closing balance, and not spent", columns, rows)


def _more(lines: int) -> str | None:
    return f"{lines:,} more" if lines else None


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


commands = typer.Typer()

LOT_COLUMNS: Final = (
    "use", "kind", "#amount", "#left", "#waits", "#used", "#expired", "#taken back", "#priority", "begins", "ends",
    "features", "lot",
)  # fmt: skip
ORGS_NAMED: Final = 5
MAX_RATE = 10**12
"""A million credits for a second: whatever is above is a slip."""


@commands.command()
def grant(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    amount: Annotated[str, typer.Argument(metavar="CREDITS", help="12.50; a negative amount after -- takes back")],
    key: Annotated[
        str | None,
        typer.Option(help="Makes a repetition harmless, e.g. an invoice's number", show_default="one of its own"),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="Also put the customer on this plan")] = None,
    kind: Annotated[str, typer.Option(help=f"What credit it is: {', '.join(KINDS)}; a gift is a bonus")] = "purchased",
    begins: Annotated[str | None, typer.Option(help="From when on it may be used", show_default="now")] = None,
    expires: Annotated[str | None, typer.Option(help="Until when it may be used", show_default="never")] = None,
    priority: Annotated[int, typer.Option(help="Lower ones are used first")] = DEFAULT_PRIORITY,
    feature: Annotated[
        list[str] | None, typer.Option(help="Pays for this feature alone; may be given again", show_default="all")
    ] = None,
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Give a customer credit, as a lot (`ledger lots`). Organisations billed as it are looked at by the next tick.
    Without --kind it counts as paid for. An unknown customer is made a wallet; with an id like another's, by --new."""
    app: App = context.obj
    by, micro = app.by(actor, reason), parse_credits(amount)
    grant_key = _clean_key(new_key() if key is None else key)
    begins_ms, expires_ms = _span(begins, expires, by.now_ms)
    terms = Terms(cast(Kind, kind), priority, begins_ms, expires_ms, tuple(sorted(set(feature))) if feature else None)

    def work(connection: sa.Connection) -> tuple[int | None, wallet.Granted, accounts.Wallet]:
        known = ids.is_known(connection, ids.CUSTOMER, customer)
        before = credit.wallet_of(connection, customer).balance_micro if known else None
        granted = credit.grant(connection, customer, micro, by, key=grant_key, plan=plan, new=new, terms=terms)
        return before, granted, credit.wallet_of(connection, customer)

    try:
        before, granted, held = app.write(work)
    except AnswerLost as error:
        raise AnswerLost(error.why, f"give it again with {_again(grant_key, terms)}, and it counts once") from error
    moved = _what_moved(before, micro, terms, by.now_ms) + ("" if key else _own_key(micro, grant_key))
    if granted.repeated:
        micro, moved = 0, f"the grant {grant_key} was made before: nothing was added"
    balance = granted.balance_micro
    line = f"{customer}: {show_credits(balance)} credits, plan {held.plan or '-'}; {moved}"
    result = {"key": grant_key, "granted_micro": micro, "balance_micro": balance, "repeated": granted.repeated}
    show(app, {"customer_id": customer, **result, "plan": held.plan, "is_new": before is None}, [line])


def _span(begins: str | None, expires: str | None, now_ms: int) -> tuple[int | None, int | None]:
    return (
        None if begins is None else parse_time(begins, "--begins", now_ms),
        None if expires is None else parse_ahead(expires, "--expires", now_ms),
    )


def _own_key(micro: int, key: str) -> str:
    """For whoever wants to take it back."""
    return f"; {'granted' if micro > 0 else 'booked'} {show_credits(micro)} as grant:{key}"


def _clean_key(key: str) -> str:
    if key != (key.strip() or None):
        raise UsageError(f"--key {key!r} is empty, or has blanks at its ends: give what makes this grant unlike others")
    return key


def _again(key: str, terms: Terms) -> str:
    """The options of a repetition."""
    times = (("--begins", terms.begins_ms), ("--expires", terms.expires_ms))
    return " ".join((f"--key {key}", *(f"{name} {show_time(ms)}" for name, ms in times if ms is not None)))


def _what_moved(before_micro: int | None, micro: int, terms: Terms, now_ms: int) -> str:
    if terms.begins_ms is not None and terms.begins_ms > now_ms:
        return f"{show_credits(micro)} more from {show_time(terms.begins_ms)} on"
    return "a new customer" if before_micro is None else f"before: {show_credits(before_micro)}"


@commands.command("show")
def show_(
    context: typer.Context,
    customer: Annotated[str | None, typer.Argument(help="One customer's entries")] = None,
    most: Most = 20,
) -> None:
    """Show wallets, lowest first, and the rate card; or one customer's wallet and its last entries."""
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
        table("Wallets", ("customer", "#credits", "plan"), rows),
        table("Rate card", ("feature", "#micro-credits", "#per", "from"), card),
    ]
    show(app, {"wallets": wallets, "rates": rates}, tables)


def _show_one(app: App, customer: str, most: int) -> None:
    now_ms = app.clock.now_ms()

    def work(connection: sa.Connection) -> tuple[int | None, Account, list[EntryRow], list[HeldTier], Forecast]:
        at_once = credit.require_wallet(connection, customer).max_concurrent
        account = account_of(connection, customer, now_ms)
        ends = forecast_of(connection, customer, account.available_micro, now_ms)
        return at_once, account, list_entries(connection, customer, most), tiers_of(connection, customer), ends

    at_once, account, entries, held, ends = app.read(work)
    rows = [
        (show_time(e.at_ms), show_time(e.ts), e.kind, show_credits(e.moved_micro),
         e.feature, e.quantity, e.key)
        for e in entries
    ]  # fmt: skip
    title = f"{customer}: {show_credits(account.available_micro)} credits available, "
    title += f"{show_credits(account.reserved_micro)} reserved, "
    title += f"{show_credits(account.unbilled_micro)} used and not charged yet, " if account.unbilled_micro else ""
    title += f"{show_credits(account.over_micro)} over, " if account.over_micro else ""
    title += f"plan {account.plan or '-'}"
    title += "".join(f", tier {_tier(one)}" for one in held if one.ended_ms is None)
    columns = ("booked", "of", "kind", "#credits", "feature", "#quantity", "key")
    over = [one for one in held if one.ended_ms is not None]
    ended = [f"tier {one.tier} ended at {show_time(one.ended_ms)}{_why(one)}" for one in over]
    result = {**vars(account), **account.in_credits(), "max_concurrent": at_once, "tiers": held, "entries": entries}
    lines: list[str | Table] = [table(title, columns, rows), *_parts(account), *ended, _ends(ends)]
    show(app, {**result, "forecast": ends.said()}, lines)


def _ends(found: Forecast) -> str:
    """When the credit ends, and what that rests on."""
    if found.used_micro is None:
        state = "nothing is available" if found.state == "spent" else "when the credit ends is not known"
        return f"{state}: {found.days} of {MIN_DAYS} full days of use are known"
    rests = f"{show_credits(found.used_micro)} were used in {found.days} full days from {show_time(found.from_ms)} on"
    said = {"ends": f"the credit ends at {show_time(found.ends_ms)}", "spent": "nothing is available",
            "lasts": "the credit does not end"}  # fmt: skip
    return f"{said[found.state]}, by the use of late: {rests}"


def _parts(account: Account) -> list[str]:
    """What a wallet is made of; nothing of an empty one."""
    micro = {name: vars(account)[f"{name}_micro"] for name in KINDS}
    parts = [f"{name} {show_credits(left)}" for name, left in micro.items() if left]
    parts += [f"owed {show_credits(account.owed_micro)}"] if account.owed_micro else []
    waits = f"suppliers wait for {show_credits(account.hold_micro)} of what was charged"
    return [f"left: {', '.join(parts)}"] * bool(parts) + [waits] * bool(account.hold_micro)


def _tier(held: HeldTier) -> str:
    then = "goes on" if held.renews else "ends"
    return f"{held.tier} ({held.at_once:,} at once, {then} at {show_time(held.paid_to_ms)})"


def _why(held: HeldTier) -> str:
    return ": there was no credit for another month" if held.ended_reason == NO_CREDIT else ""


@commands.command("lots")
def lots_(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="The customer (by default the organisation's id)")],
    most: PageSize = 100,
) -> None:
    """Show a customer's lots in their order of use, and what became of each. An amount is what is left, waits to
    expire, was used, expired and was taken back."""
    app: App = context.obj
    app.read(lambda c: credit.require_wallet(c, customer))
    found = app.read(lambda c: list_lots(c, customer, app.clock.now_ms()))
    shown = found.lots[:most]
    title = f"{customer}: {len(found.lots):,} lots; the order of use: {found.order}"
    lines: list[str | Table] = [table(title, LOT_COLUMNS, [_lot_cells(row) for row in shown])]
    if found.owed_micro:
        lines.append(f"{show_credits(found.owed_micro)} credits were used that no lot paid for: the next one does")
    if found.back_micro:
        lines.append(f"{show_credits(found.back_micro)} credits were given back, and pay for later use first")
    result = {**vars(found), "customer_id": customer, "lots": shown, "more": len(found.lots) - len(shown)}
    show(app, result, lines)


def _lot_cells(row: LotRow) -> tuple[object, ...]:
    became = (row.left_micro, row.waits_micro, row.used_micro, row.expired_micro, row.taken_micro)
    span = (show_time(row.begins_ms), show_time(row.expires_ms))
    features = ", ".join(row.features or ("all",))
    credits = [show_credits(micro) for micro in (row.amount_micro, *became)]
    return (row.place or row.state, row.kind, *credits, row.priority, *span, features, row.lot)


@commands.command("take-back")
def take_back(
    context: typer.Context,
    lot: Annotated[
        str, typer.Argument(metavar="LOT", help="The lot, as `ledger lots` and `pool show` name it; or its grant's key")
    ],
    whole: Annotated[
        bool, typer.Option("--whole", help="All of it: what it paid for is paid by other lots, or owed")
    ] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take back what nobody used of a lot, nor reserved. What was taken before is not taken again. An allotment goes
    back to its pool."""
    app: App = context.obj
    by = app.by(actor, reason)

    def work(connection: sa.Connection) -> tuple[credit.TakenBack, list[str]]:
        done = credit.take_back(connection, lot, by, whole=whole)
        return done, orgs_of(connection, [done.customer_id])

    taken, orgs = app.write(work, rollback=dry_run)
    took, went, then = ("would take", "would go", "would be left") if dry_run else ("took", "went", "now")
    did = f"{took} back {show_credits(taken.taken_micro)} credits" if taken.taken_micro else "nothing is left to take"
    back = f", which {went} back to the pool {taken.pool}" if taken.pool and taken.taken_micro else ""
    line = f"{taken.customer_id}: {did} of {taken.lot}{back}; {show_credits(taken.balance_micro)} credits {then}"
    if taken.reserved_micro:
        line += f"; {show_credits(taken.reserved_micro)} of it are reserved: take them back once those runs have ended"
    paid = f"it pays for {', '.join(orgs[:ORGS_NAMED])}" if orgs else "it pays for no organisation"
    paid += f" and {len(orgs) - ORGS_NAMED:,} more" if len(orgs) > ORGS_NAMED else ""
    if taken.taken_micro and taken.balance_micro <= 0:
        paid += ", which the next tick halts" if orgs else ""
    told = [line, f"{taken.customer_id}: {paid}"] if dry_run else [line]
    show(app, {**vars(taken), "orgs": orgs, "dry_run": dry_run}, told)


@commands.command()
def rate(
    context: typer.Context,
    feature: Annotated[str, typer.Argument(help="The feature")],
    micro_credits: Annotated[int, typer.Option(min=0, max=MAX_RATE, help="Micro-credits (a credit is a million)")],
    per: Annotated[
        int, typer.Option(min=1, max=MAX_RATE, help="For this many base units (seconds, or MB-seconds)")
    ] = 1,
    from_: Annotated[str | None, typer.Option("--from", help="For usage from this window on")] = None,
    new: New = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set a feature's price. What was charged keeps its price, and so does what comes late in its window or is given
    back; the first rate of a feature counts from ever.

    Each push is charged by itself, rounded to a whole micro-credit, a half away from zero.
    """
    app: App = context.obj
    by, start = app.by(actor, reason), app.window(from_, "--from")

    def work(connection: sa.Connection) -> tuple[int, Rate | None, credit.RateEffect]:
        was = credit.rate_at(connection, feature, by.now_ms if start is None else start)
        begins = credit.set_rate(connection, feature, micro_credits, per, by, from_ms=start, new=new)
        return begins, was, credit.rate_effect(connection, feature, was, micro_credits, per, by.now_ms)

    begins, was, effect = app.write(work, rollback=dry_run)
    before = "no rate" if was is None else f"{was.micro_credits:,} per {was.per_quantity:,}"
    would = "would be " if dry_run else ""
    lines = [
        f"{feature}: {would}{micro_credits:,} micro-credits per {per:,} from {show_time(begins)} on; before: {before}",
        f"the last day's use, {effect.quantity:,} base units of {_organisations(effect.orgs)}, "
        f"costs {show_credits(effect.micro)} credits by it, and {show_credits(effect.was_micro)} before",
    ]
    if start is not None and start < by.now_ms:
        lines.append(
            "that is over: usage since then which is charged already keeps its price, what is charged from now on goes "
            "by this one; runs that were accepted keep theirs"
        )
    result = {"feature": feature, "micro_credits": micro_credits, "per_quantity": per, "start_ms": begins, "was": was}
    show(app, {**result, "effect": effect, "dry_run": dry_run}, lines)


def _organisations(count: int) -> str:
    return f"{count:,} organisation{'' if count == 1 else 's'}"


commands.command("statement")(statement)
for name, act in (("wallets", wallets_), ("entries", entries_), ("billing", billing_), ("spenders", spenders_)):
    commands.command(name)(act)
