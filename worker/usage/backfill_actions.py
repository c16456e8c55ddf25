"""Declare the actions and lists of backfills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.clock import utc
from drawdown.schema.declare import (
    ID,
    ORG,
    WINDOW,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    More,
    OrgId,
    Page,
    Showing,
    Size,
    Values,
)
from drawdown.schema.errors import UnknownId
from drawdown.schema.text import clean, typed
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.worker.engine.witness import Witness
from drawdown.worker.usage import affected, backfills
from drawdown.worker.usage.backfills import (
    Backfill,
    BackfillRow,
    Diff,
    DiffLine,
    WalletForecast,
    list_backfills,
    show_backfill,
)
from drawdown.worker.usage.withdrawals import judge_backfill

Name = Annotated[str, ID, "Name of the backfill"]
MOST_REVERTED: Final = 5_000
"""Events that a form, a call or a dry run may withdraw in one transaction.

Seals wait for that transaction.
"""
MOST_COMPARED: Final = 10_000
"""Most events of an open backfill that an API call compares. The command line compares any number of events."""


@dataclass(frozen=True)
class ShownBackfill(BackfillRow):
    """A backfill, and while it is open, the effect of closing it.

    `counts`: events by outcome. `lines`: the usage that closing would add, by feature or event type. `price_micro`: the
    total charge in micro-credits (null: a feature lacks a price, or the effect is not shown). `forecast`: the forecast
    of the wallet (null: not exactly one wallet pays, a feature lacks a price, or the effect is not shown). `hash`: the
    hash to pass to close it (null: it is not open, or has too many events to compare in one call).
    """

    counts: dict[str, int]
    lines: list[DiffLine]
    price_micro: int | None
    forecast: WalletForecast | None
    hash: str | None


@dataclass(frozen=True)
class BackfillClosed(BackfillRow):
    """A closed backfill. Its events are usage now.

    `price_micro`: the charge by the ledger's rate card, in micro-credits (null: a feature lacks a price, or the call
    was repeated). `forecast`: the forecast of the wallet (null: not exactly one wallet pays, a feature lacks a price,
    or the call was repeated).
    """

    price_micro: int | None
    forecast: WalletForecast | None


@dataclass(frozen=True)
class BackfillReverted:
    """A reverted backfill, with events that no longer count.

    `was`: the state before the call. `withdrawn`: the number of its events that are withdrawn now, by this call or
    before.
    """

    backfill: str
    was: str
    withdrawn: int


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    org_id: Annotated[str | None, ORG, "Organisation of the backfills"] = None,
) -> Page[BackfillRow]:
    return Page(list_backfills(connection, org_id=org_id or "", most=look.most))


def _show(connection: sa.Connection, look: Look, backfill: Name) -> ShownBackfill:
    try:
        found = show_backfill(connection, backfill)
    except UnknownId:
        if look.only is None:
            raise
        raise ids.not_of(ids.BACKFILL, backfill, look.only) from None
    if look.only is not None and found.org_id != look.only:
        raise ids.not_of(ids.BACKFILL, backfill, look.only)
    compared = found.state == "open" and (look.patient or found.events <= MOST_COMPARED)
    if not compared:
        return ShownBackfill(**vars(found), counts={}, lines=[], price_micro=None, forecast=None, hash=None)
    diff = backfills.diff(connection, backfill)
    left = _forecast_wallet(connection, found, diff, backfills.uncharged(connection, found, look.now_ms), look.now_ms)
    return ShownBackfill(
        **vars(found), counts=diff.counts, lines=diff.lines, price_micro=diff.price_micro, forecast=left, hash=diff.hash
    )


def _open(
    connection: sa.Connection,
    asked: Invocation,
    backfill: Name,
    *,
    org_id: OrgId,
    from_ms: Annotated[int, WINDOW, "Window boundary at which the events start"],
    to_ms: Annotated[int, WINDOW, "Window boundary at which the events end"],
) -> Backfill:
    return backfills.open_backfill(connection, backfill, org_id, from_ms, to_ms, asked.by)


def _close(
    connection: sa.Connection,
    asked: Invocation,
    backfill: Name,
    *,
    hash_: Annotated[str, ID, "Hash that `backfill show` printed", Label("Hash")],
) -> BackfillClosed:
    uncharged = backfills.uncharged(connection, show_backfill(connection, backfill), asked.by.now_ms)
    diff = backfills.close(connection, backfill, hash_, asked.by)
    found = show_backfill(connection, backfill)
    left = _forecast_wallet(connection, found, diff, uncharged, asked.by.now_ms)
    return BackfillClosed(**vars(found), price_micro=diff.price_micro, forecast=left)


@dataclass(frozen=True)
class _Going:
    """The state of a revert between portions.

    `was`: the backfill's state before the first portion. `witness`: the state of the database before it.
    """

    was: str
    witness: Witness | None


def _revert(connection: sa.Connection, asked: Invocation, backfill: Name) -> BackfillReverted | More:
    going: _Going | None = asked.state
    if going is None:
        state = show_backfill(connection, backfill).state
        going = _Going(state, judge_backfill(connection, backfill))
    _, done = backfills.revert(connection, backfill, asked.by, going.witness)
    if not done:
        return More(going)
    return BackfillReverted(backfill, going.was, show_backfill(connection, backfill).withdrawn)


def _forecast_wallet(
    connection: sa.Connection, found: BackfillRow, diff: Diff, uncharged_micro: int, now_ms: int
) -> WalletForecast | None:
    """Return the forecast of the embedded ledger's wallet that pays for a backfill.

    Return None if no such wallet pays for it, or if a feature lacks a price.
    """
    prices = [one.price_micro for one in diff.lines if one.provider == EMBEDDED and one.code is None]
    known = [price for price in prices if price is not None]
    if not prices or len(known) < len(prices):
        return None
    return backfills.left_after(connection, found, sum(known), uncharged_micro, now_ms)


# Sentences for people.


def _opened(done: Backfill) -> str:
    return f"{done.backfill}: open for {done.org_id}, {show_time(done.from_ms)} to {show_time(done.to_ms)}"


def _closed(done: BackfillClosed) -> list[str]:
    return [f"{done.backfill}: closed, {done.went_in}", *_left_lines(done.forecast, "the next tick")]


def _reverted(done: BackfillReverted) -> str:
    said = {
        "reverted": f"was reverted before (withdrawn events: {done.withdrawn:,})",
        "open": "reverted; it was open, so its events were not usage",
    }.get(
        done.was,
        f"reverted (withdrawn events: {done.withdrawn:,}). The next tick refunds the charges that are left",
    )
    return f"{done.backfill}: {said}"


def _would(found: ShownBackfill) -> list[str]:
    """Return lines about the effect of closing a backfill.

    The lines are for the text below the table of the effect.
    """
    if found.hash is None:
        return []
    counts = ", ".join(f"{times:,} {what}" for what, times in sorted(found.counts.items())) or "no events"
    total = "unknown: a feature has no price"
    if found.price_micro is not None:
        total = f"{show_credits(found.price_micro)} credits"
    close_it = f"drawdown backfill close {typed(found.backfill, '--hash', found.hash)}"
    waits = _waits_lines(found)
    return [counts, f"total: {total}", *waits, *_left_lines(found.forecast, "closing"), f"to close it: {close_it}"]


def _waits_lines(found: ShownBackfill) -> list[str]:
    """Return the commands that bill the events that stay pending after the close."""
    since = utc(found.from_ms)
    commands: dict[str, tuple[str, ...]] = {}
    for one in found.lines:
        if one.code == "unassigned":
            commands[one.code] = ("drawdown", "org", "assign", found.org_id, "--from", since)
        elif one.code == "unmapped":
            commands[one.what] = ("drawdown", "feature", "map-event", one.what, "FEATURE", "--from", since)
    return [f"{clean(what)}: pending. To bill this usage, run `{typed(*words)}`" for what, words in commands.items()]


def _left_lines(left: WalletForecast | None, what: str) -> list[str]:
    """Return lines about the remaining credit of a wallet.

    `what`: the step that charges the wallet, such as `closing`.
    """
    if left is None:
        return []
    command = typed("drawdown", "ledger", "grant", left.customer_id, "AMOUNT")
    then = f". This halts {left.org_id}. To prevent it, run `{command}` first" if left.halts else ""
    has, rest = show_credits(left.has_micro), show_credits(left.remaining_micro)
    return [f"{left.customer_id} has {has} credits: {what} leaves {rest}{then}"]


def _price(line: DiffLine) -> str:
    return "-" if line.code or line.price_micro is None else show_credits(line.price_micro)


def _waits(line: DiffLine) -> str:
    return f"pending: {line.code}" if line.code else "exempt" if line.is_exempt else ""


# Facts for dry runs.


def _standing(connection: sa.Connection, _asked: Invocation, values: Values) -> list[Fact]:
    found = show_backfill(connection, values["backfill"])
    return [
        Fact("State", found.state),
        Fact("Events", f"{found.events:,}"),
        Fact("Withdrawn", f"{found.withdrawn:,}"),
    ]


def _open_of(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = [one.backfill for one in list_backfills(connection, org_id=values["org_id"]) if one.state == "open"]
    return [Fact("Open backfills", ", ".join(found) or "none")]


def _given_back(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    return [*_standing(connection, asked, values), *affected.of_backfill(connection, values["backfill"]).facts()]


def _size(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    rows = show_backfill(connection, values["backfill"]).events
    return affected.of_backfill(connection, values["backfill"]).size(rows)


READ: Final = "usage:read"
WRITE: Final = "usage:write"
PLACE: Final = "/console/backfill?key={backfill}"
OPEN: Final = Action(
    "backfill open",
    "Open a backfill",
    "Open a backfill for events of the past. The events are not usage until you close the backfill. An organisation "
    "can have only one open backfill.",
    _open,
    _opened,
    path="/v1/backfills/{backfill}",
    scope=WRITE,
    facts=_open_of,
)
CLOSE: Final = Action(
    "backfill close",
    "Close the backfill",
    "Close a backfill, so that its events become usage. The next tick bills the events as late usage.",
    _close,
    _closed,
    path="/v1/backfills/{backfill}/close",
    scope=WRITE,
    facts=_standing,
    place=PLACE,
)
REVERT: Final = Action(
    "backfill revert",
    "Revert the backfill",
    "Withdraw all events of a backfill for good. The next tick refunds the charges. If the command is interrupted, "
    "repeat it. Send the correct events with new ids.",
    _revert,
    _reverted,
    path="/v1/backfills/{backfill}/revert",
    scope=WRITE,
    facts=_given_back,
    size=_size,
    place=PLACE,
    at_once=MOST_REVERTED,
)
ACTIONS: Final = (OPEN, CLOSE, REVERT)
LISTS: Final = (
    Listing(
        "backfill list",
        "Backfills",
        "List backfills, newest first.",
        _list,
        ("backfill", Column("org_id", "org"), Column("from_ms", "from"), Column("to_ms", "to"), "state",
         Column("events", "#events"), Column("withdrawn", "#withdrawn"), Column("actor", "by")),
        holds="backfills",
        path="/v1/backfills",
        scope=READ,
    ),
    Showing(
        "backfill show",
        "Backfill",
        "Show the charges of a backfill, or its outcome. The result has the hash that `backfill close` needs.",
        _show,
        path="/v1/backfills/{backfill}",
        scope=READ,
        open=True,
        parts={
            "lines": (
                "Closing would bill",
                (Column("what", "feature"), "provider", Column("events", "#events"), Column("quantity", "#quantity"),
                 Column("windows", "#windows"), Column("price_micro", "#credits", of_row=_price),
                 Column("code", " ", of_row=_waits)),
            ),
        },
        most=0,
        notes=_would,
    ),
)  # fmt: skip
