"""List settlements, suppliers and payouts.

This module also returns the sums of suppliers and the file of a payout. Reads only.

Guarantee: for each supplier, the sum of all its settlements (net) is hold + eligible + frozen + released + reversed.
The sum of all its payouts (paid) is released less the clawbacks that payouts have deducted. A file's lines add up to
its total. The same payout always gives the same bytes, which Drawdown reads and writes in parts. A spreadsheet does not
interpret a text of the file as a formula, and a text does not change the reading direction.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, get_args

import sqlalchemy as sa

from drawdown.ledger import payouts, settlements
from drawdown.ledger.payouts import Payout, above_micro, period_of
from drawdown.ledger.reservations import Denied
from drawdown.ledger.settlements import Freeze, Reversal, Settlement, Standing, settlement_of
from drawdown.schema import ids
from drawdown.schema.declare import ID, ORG, Column, Listing, Look, Page, Showing
from drawdown.schema.errors import UnknownId
from drawdown.schema.sql import queries
from drawdown.schema.text import no_formula, quote_value
from drawdown.schema.typed.parsing import lasting, show_credits, show_percent
from drawdown.schema.units import MICRO

SQL = queries(__file__)

MOST_ON_PAGE: Final = 50
"""Settlements on one page."""
MOST_SETTLEMENTS_AT_ONCE: Final = 1_000
"""Settlements of a download that Drawdown reads into memory at a time."""


@dataclass(frozen=True)
class SettlementFilter:
    """A filter of settlements by state, supplier, organisation and project.

    `states`: the states that match. An empty `supplier`, `org` or `project` matches any.
    """

    states: tuple[str, ...]
    supplier: str = ""
    org: str = ""
    project: str = ""


@dataclass
class Sums:
    """The sums of a supplier's settlements, in micro-credits.

    `clawed_back_micro`: the amount reversed after its release. `carried_micro`: the part of `clawed_back_micro` that
    payouts have not deducted yet. `unsettled_micro`: the charges of the supplier's executions that expired and were not
    settled.
    """

    net_micro: int = 0
    hold_micro: int = 0
    eligible_micro: int = 0
    frozen_micro: int = 0
    released_micro: int = 0
    reversed_micro: int = 0
    clawed_back_micro: int = 0
    carried_micro: int = 0
    paid_micro: int = 0
    unsettled_micro: int = 0


@dataclass(frozen=True)
class Account:
    """A supplier with its newest terms (see `ledger.settlements.Terms`), and its sums."""

    supplier: str
    share_ppm: int
    hold_ms: int
    threshold_micro: int
    takes_clawbacks: bool
    is_frozen: bool
    sums: Sums


@dataclass(frozen=True)
class NextPayout:
    """The amount of a supplier's payout this month, and its threshold.

    A payout is possible only if `due_micro` exceeds the threshold `above_micro`. Both are in micro-credits. `is_made`:
    the supplier already has a payout for this or a later month.
    """

    due_micro: int
    above_micro: int
    is_made: bool

    @property
    def may_be_made(self) -> bool:
        return self.due_micro > self.above_micro and not self.is_made


def page(
    connection: sa.Connection, chosen: SettlementFilter, now_ms: int, after: str = "", most: int = MOST_ON_PAGE
) -> tuple[list[Settlement], str | None]:
    """Return a page of settlements, newest first.

    The page begins after the settlement of the execution `after`. The second value is the execution after which the
    next page begins (None: this is the last page). Errors: UnknownId.
    """
    found = _page(connection, chosen, now_ms, after, most + 1)
    return found[:most], found[most - 1].reservation if len(found) > most else None


def every(connection: sa.Connection, chosen: SettlementFilter, now_ms: int) -> Iterator[Settlement]:
    """Yield all chosen settlements, newest first. Errors: as `page`."""
    after = ""
    while rows := _page(connection, chosen, now_ms, after, MOST_SETTLEMENTS_AT_ONCE):
        yield from rows
        after = rows[-1].reservation


def _page(connection: sa.Connection, chosen: SettlementFilter, now_ms: int, after: str, most: int) -> list[Settlement]:
    for kind, given in ((ids.SUPPLIER, chosen.supplier), (ids.CUSTOMER, chosen.org), (ids.PROJECT, chosen.project)):
        if given:
            ids.require(connection, kind, given)
    values = {**vars(chosen), "states": list(chosen.states), "now_ms": now_ms, "at_most": most, "after": after}
    if after:
        last = settlements.read(connection, after, now_ms)
        if last is None:
            ids.require(connection, ids.SETTLEMENT, after)
        assert last is not None
        values["after_ms"] = last.settled_ms
    behind = "from_there" if after else "from_the_start"
    rows = SQL.run(connection, "page", values, of_settlements="of_chosen", behind=behind).mappings()
    return [settlement_of(row) for row in rows]


def show_settlement(
    connection: sa.Connection, reservation: str, now_ms: int, most: int
) -> tuple[Settlement, list[Reversal], list[Freeze]]:
    """Return a settlement, its reversals, and the freezes of it and of its supplier.

    Errors: UnknownId.
    """
    found = settlements.read(connection, reservation, now_ms)
    if found is None:
        ids.require(connection, ids.SETTLEMENT, reservation)
    assert found is not None
    values = {"reservation": reservation, "supplier": found.supplier, "at_most": most}
    reversals = SQL.run(connection, "reversals", values).mappings()
    freezes = SQL.run(connection, "freezes", values).mappings()
    taken = [Reversal(**{**row, "is_clawback": bool(row["is_clawback"])}) for row in reversals]
    return found, taken, [Freeze(**row) for row in freezes]


def list_suppliers(connection: sa.Connection, now_ms: int, most: int) -> list[Account]:
    """Return suppliers, sorted by name, each with its sums as of `now_ms`."""
    rows = SQL.run(connection, "suppliers", {"at_most": most}, which="of_any").mappings().all()
    sums = _sums(connection, [row["supplier"] for row in rows], now_ms)
    return [_account(row, sums[row["supplier"]]) for row in rows]


def account_of_supplier(connection: sa.Connection, supplier: str, now_ms: int) -> Account:
    """Return one supplier with its sums as of `now_ms`. Errors: UnknownId."""
    ids.require(connection, ids.SUPPLIER, supplier)
    values = {"supplier": supplier, "at_most": 1}
    row = SQL.run(connection, "suppliers", values, which="of_name").mappings().one()
    return _account(row, _sums(connection, [supplier], now_ms)[supplier])


def next_payouts(connection: sa.Connection, found: Sequence[Account], now_ms: int) -> dict[str, NextPayout]:
    """Return the next payouts of suppliers, by supplier."""
    values = {"suppliers": [one.supplier for one in found], "now_ms": now_ms}
    agreed = {
        row.supplier: row.threshold_micro
        for row in SQL.run(connection, "agreed", values, of_settlements="of_suppliers")
    }
    last = {row.supplier: row.period for row in SQL.run(connection, "last_periods", values)}
    return {
        one.supplier: NextPayout(
            one.sums.eligible_micro - one.sums.carried_micro,
            above_micro(agreed.get(one.supplier), one.threshold_micro),
            last.get(one.supplier, "") >= period_of(now_ms),
        )
        for one in found
    }


def list_payouts(connection: sa.Connection, supplier: str, most: int) -> list[Payout]:
    """Return payouts, newest first.

    `supplier`: return only payouts of this supplier ('': of all suppliers). Errors: UnknownId.
    """
    if supplier:
        ids.require(connection, ids.SUPPLIER, supplier)
    return payouts.newest(connection, supplier, most)


def unpaid(connection: sa.Connection, payout: str) -> int:
    """Return the part of a payout for executions of overdrawn wallets.

    The part is in micro-credits. A wallet is overdrawn if its balance is negative now.
    """
    return int(SQL.run(connection, "unpaid", {"payout": payout}).scalar_one())


def sums_of(connection: sa.Connection, chosen: SettlementFilter, now_ms: int) -> Sums:
    """Return the sums of the chosen settlements.

    `carried_micro`, `paid_micro` and `unsettled_micro` are 0, because they belong to a supplier, not to settlements.
    """
    found = Sums()
    of_settlements = "of_chosen_org" if chosen.org else "of_chosen"
    values = {**vars(chosen), "states": list(chosen.states), "now_ms": now_ms}
    for row in SQL.run(connection, "sums", values, of_settlements=of_settlements):
        _add(found, row)
    return found


def _add(own: Sums, row: sa.Row[Any]) -> None:
    """Add a row to `own`.

    The row has the sums of a supplier's settlements in one state.
    """
    own.net_micro += int(row.net_micro)
    own.reversed_micro += int(row.reversed_micro)
    own.clawed_back_micro += int(row.clawed_back_micro)
    if row.state != "reversed":
        name = f"{row.state}_micro"
        setattr(own, name, getattr(own, name) + int(row.owed_micro))


def _sums(connection: sa.Connection, suppliers: list[str], now_ms: int) -> dict[str, Sums]:
    found = {supplier: Sums() for supplier in suppliers}
    values = {"suppliers": suppliers, "states": list(get_args(Standing)), "now_ms": now_ms}
    for row in SQL.run(connection, "sums", values, of_settlements="of_suppliers"):
        _add(found[row.supplier], row)
    for row in SQL.run(connection, "paid", values):
        found[row.supplier].paid_micro = int(row.paid_micro)
        found[row.supplier].carried_micro = int(row.carried_micro)
    for own in found.values():
        own.carried_micro += own.clawed_back_micro
    for row in SQL.run(connection, "unsettled", values):
        found[row.supplier].unsettled_micro = int(row.drawn_micro)
    return found


def _account(row: sa.RowMapping, sums: Sums) -> Account:
    booleans = {name: bool(row[name]) for name in ("takes_clawbacks", "is_frozen")}
    return Account(**{**row, **booleans}, sums=sums)


LINES_AT_ONCE: Final = 1_000
"""Lines of a payout that Drawdown reads into memory at a time."""
COLUMNS: Final = (
    "payout", "supplier", "period", "line", "kind", "execution", "settled_at", "gross_micro", "share_ppm", "net_micro",
    "amount_micro", "amount", "reason",
)  # fmt: skip
TEXTS: Final = ("payout", "supplier", "line", "execution", "reason")
"""Columns of texts that other people or programs wrote, so CSV escapes formulas."""


@dataclass(frozen=True)
class Line:
    """A line of a payout: a released settlement or a deducted clawback.

    `reservation`: the execution. `share_ppm`: the supplier's share, in parts per million. `reversal`, `reason`: those
    of a clawback, which has a negative amount (None: the line is a settlement).
    """

    line: str
    reservation: str
    reversal: str | None
    settled_ms: int
    gross_micro: int
    share_ppm: int
    net_micro: int
    amount_micro: int
    reason: str | None


def require_payout(connection: sa.Connection, payout: str) -> Payout:
    """Return a payout by its id. Errors: UnknownId."""
    found = payouts.read(connection, payout)
    if found is None:
        ids.require(connection, ids.PAYOUT, payout)
    assert found is not None
    return found


def lines_of(connection: sa.Connection, payout: str) -> Iterator[Line]:
    """Yield all lines of a payout, sorted by id, and read them a page at a time."""
    after: str | None = ""
    while after is not None:
        values = {"payout": payout, "after": after, "at_most": LINES_AT_ONCE}
        page = [Line(**row) for row in SQL.run(connection, "lines", values).mappings()]
        yield from page
        after = page[-1].line if len(page) == LINES_AT_ONCE else None


def csv_file(connection: sa.Connection, found: Payout) -> Iterator[str]:
    """Yield the file of a payout as CSV, line by line."""
    yield _csv_line(COLUMNS)
    for line in lines_of(connection, found.payout):
        fields = _fields(found, line)
        texts = {name: "" if fields[name] is None else str(fields[name]) for name in COLUMNS}
        yield _csv_line([no_formula(text) if name in TEXTS else text for name, text in texts.items()])


def json_file(connection: sa.Connection, found: Payout) -> Iterator[str]:
    """Yield the file of a payout as parts of one JSON object.

    The object has the payout and its rows.
    """
    yield json.dumps(vars(found), sort_keys=True)[:-1] + ', "rows": ['
    for number, line in enumerate(lines_of(connection, found.payout)):
        yield (", " if number else "") + json.dumps(_fields(found, line), sort_keys=True)
    yield "]}\n"


def _fields(found: Payout, line: Line) -> dict[str, object]:
    """Return a line's columns.

    Exact amounts are in micro-credits. The amount for people is in credits.
    """
    return {
        "payout": found.payout,
        "supplier": found.supplier,
        "period": found.period,
        "line": line.line,
        "kind": "settlement" if line.reversal is None else "clawback",
        "execution": line.reservation,
        "settled_at": datetime.fromtimestamp(line.settled_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gross_micro": line.gross_micro,
        "share_ppm": line.share_ppm,
        "net_micro": line.net_micro,
        "amount_micro": line.amount_micro,
        "amount": f"{Decimal(line.amount_micro) / MICRO:.6f}",
        "reason": line.reason,
    }


def _csv_line(texts: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(texts)
    return out.getvalue()


@dataclass(frozen=True)
class SettlementRow:
    """A supplier's settlement of one execution.

    `gross_micro`: the charge of the execution. `net_micro`: the supplier's share of it. `owed_micro`: that share, less
    the part that was reversed before its release. `share_ppm`: the share in parts per million. `payout`: the payout
    that released it (None: not released).
    """

    execution: str
    org_id: str
    project: str | None
    supplier: str
    state: Standing
    gross_micro: int
    share_ppm: int
    net_micro: int
    owed_micro: int
    reversed_micro: int
    clawed_back_micro: int
    settled_ms: int
    hold_until_ms: int
    payout: str | None


@dataclass(frozen=True)
class ReversalRow:
    """A reversed part of a settlement.

    `is_clawback`: the settlement was released before the reversal.
    """

    reversal: str
    amount_micro: int
    is_clawback: bool
    at_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class FreezeRow:
    """A freeze of a settlement, or (`whole`) of its supplier.

    `ended_ms`, `ended_by`, `ended_reason`: the end of the freeze, its actor and its reason (None: the freeze
    continues).
    """

    whole: bool
    from_ms: int
    actor: str
    reason: str
    ended_ms: int | None
    ended_by: str | None
    ended_reason: str | None


@dataclass(frozen=True)
class ShownSettlement(SettlementRow):
    """A settlement, its reversals, and the freezes of it and of its supplier."""

    reversals: list[ReversalRow]
    freezes: list[FreezeRow]


@dataclass
class SupplierRow(Sums):
    """A supplier with its newest terms, and its sums in micro-credits (see `Sums`).

    `net_micro` is the sum of hold, eligible, frozen, released and reversed.
    """

    supplier: str = ""
    share_ppm: int = 0
    hold_ms: int = 0
    threshold_micro: int = 0
    takes_clawbacks: bool = True
    is_frozen: bool = False


Supplier = Annotated[str, ID, "Supplier's id"]
Run = Annotated[str, ID, "Key of the execution"]
OfSupplier = Annotated[str, ID, "Supplier of the settlements or payouts"]


def row_of(found: Settlement) -> SettlementRow:
    """Return a settlement as a row of lists."""
    kept = {one.name: getattr(found, one.name) for one in fields(SettlementRow) if one.name != "execution"}
    return SettlementRow(execution=found.reservation, **kept)


def _settlements(
    connection: sa.Connection,
    look: Look,
    *,
    supplier: OfSupplier = "",
    state: Annotated[list[Standing] | None, "State of the settlements"] = None,
    org_id: Annotated[str | None, ORG, "Organisation of the executions"] = None,
    project: Annotated[str, ID, "Project of the executions"] = "",
) -> Page[SettlementRow]:
    if look.only is not None and (supplier or project):
        # This key must not learn whether such a supplier, or such a project of another organisation, exists.
        said = (
            f"suppliers and projects belong to all organisations, but this key is bound to {look.only}. Omit both, or "
            "use another key"
        )
        raise Denied("foreign_org", said)
    chosen = SettlementFilter(tuple(state or get_args(Standing)), supplier, org_id or "", project)
    found, following = page(connection, chosen, look.now_ms, look.after, look.most)
    return Page([row_of(one) for one in found], following)


def _settlement(connection: sa.Connection, look: Look, execution: Run) -> ShownSettlement:
    if look.only is not None:  # a bound key must not learn whether executions of other organisations exist
        there = settlements.read(connection, execution, look.now_ms)
        if there is None or there.org_id != look.only:
            raise UnknownId(
                f"{look.only} does not have a settlement of execution {quote_value(execution)}. Check the key",
                ids.SETTLEMENT.noun,
            )
    found, reversals, freezes = show_settlement(connection, execution, look.now_ms, look.most)
    taken = [ReversalRow(one.reversal, one.amount_micro, one.is_clawback, one.at_ms, one.actor, one.reason)
             for one in reversals]  # fmt: skip
    frozen = [FreezeRow(one.reservation is None, one.from_ms, one.actor, one.reason, one.ended_ms, one.ended_by,
                        one.ended_reason) for one in freezes]  # fmt: skip
    return ShownSettlement(**vars(row_of(found)), reversals=taken, freezes=frozen)


def _suppliers(connection: sa.Connection, look: Look) -> Page[SupplierRow]:
    found = list_suppliers(connection, look.now_ms, look.most)
    return Page([
        SupplierRow(
            **vars(one.sums), supplier=one.supplier, share_ppm=one.share_ppm, hold_ms=one.hold_ms,
            threshold_micro=one.threshold_micro, takes_clawbacks=one.takes_clawbacks, is_frozen=one.is_frozen,
        )
        for one in found
    ])  # fmt: skip


def _payouts(connection: sa.Connection, look: Look, *, supplier: OfSupplier = "") -> Page[Payout]:
    return Page(list_payouts(connection, supplier, look.most))


def _clawed(micro: int) -> str:
    """Return the deduction of a payout, in credits as text."""
    return show_credits(-micro)


SCOPE: Final = "settlements:read"
LISTS: Final = (
    Listing(
        "settlement list",
        "Settlements",
        "List settlements, newest first.",
        _settlements,
        ("execution", "supplier", "state", Column("gross_micro", "#charged"),
         Column("share_ppm", "#share", show_percent),
         "owed_micro", "clawed_back_micro", Column("hold_until_ms", "held until")),
        holds="settlements",
        path="/v1/settlements",
        scope=SCOPE,
        most=50,
        paged=True,
    ),
    Showing(
        "settlement show",
        "Settlement",
        "Show a settlement: amounts, reversals and freezes.",
        _settlement,
        path="/v1/settlements/{execution}",
        scope=SCOPE,
        open=True,
        parts={
            "reversals": (
                "Reversed",
                (Column("at_ms", "at"), "amount_micro", Column("is_clawback", "clawback"), "actor", "reason",
                 Column("reversal", "key")),
            ),
            "freezes": (
                "Frozen",
                (Column("whole", "all of its supplier"), Column("from_ms", "from"), "actor", "reason",
                 Column("ended_ms", "until"), "ended_by", Column("ended_reason", "end reason")),
            ),
        },
    ),
    Listing(
        "supplier list",
        "Suppliers",
        "List suppliers with their terms and amounts in credits. The list shows the amounts on hold, eligible, frozen, "
        "released and reversed, and their sum, the net amount.",
        _suppliers,
        ("supplier", Column("share_ppm", "#share", show_percent), Column("hold_ms", "held for", lasting),
         Column("is_frozen", "all frozen"), *(one.name for one in fields(Sums))),
        holds="suppliers",
        path="/v1/suppliers",
        scope=SCOPE,
        most=50,
    ),
    Listing(
        "settlement payouts",
        "Payouts",
        "List payouts, newest first.",
        _payouts,
        (Column("payout", "payout"), "released_micro", Column("carried_micro", "#clawed back", _clawed), "total_micro",
         Column("lines", "#lines"), Column("at_ms", "at"), Column("actor", "by")),
        holds="payouts",
        path="/v1/payouts",
        scope=SCOPE,
        most=50,
    ),
)  # fmt: skip
