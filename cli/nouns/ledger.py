"""`drawdown ledger`: the embedded provider's wallets and rate card."""

from __future__ import annotations

from typing import Annotated, Final, cast

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App, new_key
from drawdown.cli.nouns.statement import statement
from drawdown.cli.nouns.wallets import billing_, entries_, spenders_, wallets_
from drawdown.cli.options import Actor, Most, New, PageSize, Reason
from drawdown.cli.rendering import show, table
from drawdown.ledger import accounts, wallet
from drawdown.ledger.allocation import KINDS, Kind
from drawdown.ledger.lots import DEFAULT_PRIORITY, Terms
from drawdown.ledger.rates import Rate
from drawdown.ledger.tiers import NO_CREDIT
from drawdown.schema import ids
from drawdown.schema.errors import AnswerLost, UsageError
from drawdown.schema.typed.parsing import parse_ahead, parse_credits, parse_time, show_credits, show_time
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.accounts import (
    Account,
    EntryRow,
    LotRow,
    account_of,
    list_entries,
    list_lots,
    list_rates,
    list_wallets,
)
from drawdown.worker.wallets.entries import MIN_DAYS, Forecast, forecast_of
from drawdown.worker.wallets.tiers import HeldTier, tiers_of

commands = typer.Typer()

LOT_COLUMNS: Final = (
    "use", "kind", "#amount", "#left", "#waits", "#used", "#expired", "#taken back", "#priority", "begins", "ends",
    "features", "lot",
)  # fmt: skip
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
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Take back what nobody used of a lot, nor reserved. What was taken before is not taken again. An allotment goes
    back to its pool."""
    app: App = context.obj
    by = app.by(actor, reason)
    taken = app.write(lambda c: credit.take_back(c, lot, by, whole=whole))
    did = f"took back {show_credits(taken.taken_micro)} credits" if taken.taken_micro else "nothing is left to take"
    back = f", which went back to the pool {taken.pool}" if taken.pool and taken.taken_micro else ""
    line = f"{taken.customer_id}: {did} of {taken.lot}{back}; {show_credits(taken.balance_micro)} credits now"
    if taken.reserved_micro:
        line += f"; {show_credits(taken.reserved_micro)} of it are reserved: take them back once those runs have ended"
    show(app, vars(taken), [line])


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
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set a feature's price. What was charged keeps its price, and so does what comes late in its window or is given
    back; the first rate of a feature counts from ever.

    Each push is charged by itself, rounded to a whole micro-credit, a half away from zero.
    """
    app: App = context.obj
    by, start = app.by(actor, reason), app.window(from_, "--from")

    def work(connection: sa.Connection) -> tuple[int, Rate | None]:
        was = credit.rate_at(connection, feature, by.now_ms if start is None else start)
        return credit.set_rate(connection, feature, micro_credits, per, by, from_ms=start, new=new), was

    begins, was = app.write(work)
    before = "no rate" if was is None else f"{was.micro_credits:,} per {was.per_quantity:,}"
    lines = [f"{feature}: {micro_credits:,} micro-credits per {per:,} from {show_time(begins)} on; before: {before}"]
    if start is not None and start < by.now_ms:
        lines.append(
            "that is over: usage since then which is charged already keeps its price, what is charged from now on goes "
            "by this one; runs that were accepted keep theirs"
        )
    result = {"feature": feature, "micro_credits": micro_credits, "per_quantity": per, "start_ms": begins, "was": was}
    show(app, result, lines)


commands.command("statement")(statement)
for name, act in (("wallets", wallets_), ("entries", entries_), ("billing", billing_), ("spenders", spenders_)):
    commands.command(name)(act)
