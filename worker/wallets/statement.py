"""An account's statement of a span of time, most often a month: what its wallet began with, what moved it, what it
ended with. Reads only.

Guarantee: it adds up to the micro-credit. Opening and all changes are closing, each section is the sum of its lines,
and a line of usage is quantity times rate, but for what rounding made of its charges. It goes by the time of booking,
so that a month does not change once it is over (`is_final`); the month of use stands beside usage. Entries are summed
up by the database, all at one moment. Each section has a bounded number of lines; the last sums up those left out.
What does not add up is said (`problems`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.payouts import PERIOD
from drawdown.ledger.rates import Rate
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.wallets.accounts import payer_of

SQL = queries(__file__)

FINAL_AFTER_MS: Final = 60 * MINUTE_MS
"""How long after its end a statement may still change: a transaction that began before may commit later."""
LINES: Final = 100
"""Of one section, unless it is said."""

Section: TypeAlias = Literal["given", "began", "topped_up", "expired", "taken_back", "usage", "runs", "other"]
SECTIONS: Final[tuple[Section, ...]] = (
    "given", "began", "topped_up", "expired", "taken_back", "usage", "runs", "other",
)  # fmt: skip
"""In the order of the statement."""


@dataclass(frozen=True)
class Span:
    """Of what is booked at or after `from_ms`, and before `to_ms`."""

    from_ms: int
    to_ms: int


@dataclass(frozen=True)
class CreditLine:
    """What came in, or went without being used, of one kind of lot (`what`), and by how much it moved the wallet.
    Of top-ups: the money that was paid, in minor units of a currency."""

    section: Section
    what: str
    entries: int
    money_minor: int | None
    currency: str | None
    moved_micro: int


@dataclass(frozen=True)
class UsageLine:
    """Charges of one feature, by the month of use and the rate: `charged = quantity * micro_credits / per_quantity`,
    rounded to a micro-credit (a half away from zero), plus `rounding`: each charge was rounded by itself. Without a
    rate: charges that no rate comes to. `more`: so many lines in one, which are not shown; their features differ."""

    feature: str | None
    month: str | None
    charges: int
    quantity: int | None
    micro_credits: int | None
    per_quantity: int | None
    rounding_micro: int | None
    charged_micro: int
    more: int


@dataclass(frozen=True)
class RunLine:
    """What runs of one project (None: of none) were charged: `drawn` while they went on, `settled` as they ended,
    `late` after their hold was over, less what was written off. `more`: so many lines in one."""

    project: str | None
    runs: int
    drawn_micro: int
    settled_micro: int
    late_micro: int
    written_off_micro: int
    charged_micro: int
    more: int


@dataclass(frozen=True)
class HeldLine:
    """A run that had credit reserved at the end, and until when. `more`: so many lines in one."""

    run: str | None
    org_id: str | None
    project: str | None
    expires_ms: int | None
    held_micro: int
    more: int


@dataclass(frozen=True)
class Change:
    """A section's sum: by how much it moved the wallet."""

    section: Section
    moved_micro: int


@dataclass(frozen=True)
class Statement:
    """`opening + all changes = closing`, in micro-credits. What is held is a part of the closing balance, not a change.
    `is_final`: nothing is booked into this span any more."""

    customer_id: str
    from_ms: int
    to_ms: int
    is_final: bool
    opening_micro: int
    changes: list[Change]
    closing_micro: int
    credits: list[CreditLine]
    usage: list[UsageLine]
    runs: list[RunLine]
    reserved_micro: int
    held: list[HeldLine]
    problems: list[str]


def span_of(month: str | None, from_ms: int | None, to_ms: int | None) -> Span:
    """A month in UTC (2026-02), or from a moment to another one. Errors: UsageError."""
    if month is not None:
        if from_ms is not None or to_ms is not None:
            raise UsageError("give a month, or a beginning and an end, not both", at="month")
        return _of_month(month)
    if from_ms is None or to_ms is None:
        raise UsageError("of when? Give a month (2026-02), or a beginning and an end", at="month")
    if from_ms >= to_ms:
        raise UsageError("a statement's end lies after its beginning", at="to_ms")
    return Span(from_ms, to_ms)


def _of_month(month: str) -> Span:
    try:
        if not PERIOD.fullmatch(month):
            raise ValueError("it is not written as one")
        year, number = int(month[:4]), int(month[5:])
        first, after = (datetime(year + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in (number - 1, number))
        return Span(int(first.timestamp()) * 1000, int(after.timestamp()) * 1000)
    except ValueError as error:
        raise UsageError(f"{month!r} is no month: write 2026-02", at="month") from error


def of_customer(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int = LINES) -> Statement:
    """The statement of a customer's wallet, with `most` lines of each section. It must come first in its transaction:
    all that it reads is of one moment."""
    return _read(connection, customer_id, span, now_ms, most)


def of_org(connection: sa.Connection, org_id: str, span: Span, now_ms: int, most: int = LINES) -> Statement:
    """The same, of the wallet that pays for an organisation now. Errors: UnknownId."""
    return _read(connection, payer_of(connection, org_id, now_ms), span, now_ms, most)


def _read(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int) -> Statement:
    values = {"account_id": wallet_account(customer_id), **vars(span), "at_most": most}
    sums = SQL.run(connection, "sums", values).one()
    credits = [_credit_line(row) for row in SQL.run(connection, "credits", values).mappings()]
    credits.sort(key=lambda line: (SECTIONS.index(line.section), line.what, line.currency or ""))
    usage = [_usage_line(row) for row in SQL.run(connection, "usage", values).mappings()]
    runs = [_run_line(row) for row in SQL.run(connection, "runs", values).mappings()]
    changes = _changes(credits, usage, runs)
    held = _held(connection, customer_id, span, now_ms, most)
    found = Statement(
        customer_id=customer_id,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        is_final=now_ms >= span.to_ms + FINAL_AFTER_MS,
        opening_micro=int(sums.opening_micro),
        changes=changes,
        closing_micro=int(sums.closing_micro),
        credits=credits,
        usage=usage,
        runs=runs,
        reserved_micro=sum(line.held_micro for line in held),
        held=held,
        problems=[],
    )
    return replace(found, problems=_problems(found, int(sums.ever_micro), int(sums.kept_micro)))


def _held(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int) -> list[HeldLine]:
    """At the end of the span; of one that goes on, now."""
    is_over = span.to_ms <= now_ms
    values = {"customer_id": customer_id, "until_ms": min(span.to_ms, now_ms + 1), "at_most": most}
    rows = SQL.run(connection, "held", values, standing="stood_then" if is_over else "stands_now")
    return [
        HeldLine(
            row.reservation or None,
            row.org_id or None,
            row.project or None,
            None if row.expires_ms is None else int(row.expires_ms),
            int(row.held_micro),
            int(row.more),
        )
        for row in rows
    ]


def _credit_line(row: sa.RowMapping) -> CreditLine:
    money = row["money_minor"]
    return CreditLine(
        row["section"],
        row["what"],
        int(row["entries"]),
        None if money is None else int(money),
        row["currency"],
        int(row["moved_micro"]),
    )


def _usage_line(row: sa.RowMapping) -> UsageLine:
    quantity, charged = _whole(row["quantity"]), int(row["charged_micro"])
    micro, per, rounding = _whole(row["micro_credits"]), _whole(row["per_quantity"]), None
    if quantity is not None and micro is not None and per is not None:
        rounding = charged - Rate(row["feature"], 0, micro, per).price(quantity)
    return UsageLine(
        row["feature"], row["month"], int(row["charges"]), quantity, micro, per, rounding, charged, int(row["more"])
    )


def _run_line(row: sa.RowMapping) -> RunLine:
    names = ("runs", "drawn_micro", "settled_micro", "late_micro", "written_off_micro", "charged_micro", "more")
    figures: dict[str, Any] = {name: int(row[name]) for name in names}
    return RunLine(project=row["project"] or None, **figures)


def _whole(value: Any) -> int | None:
    """A sum comes as a decimal number from one database, and as an integer from the other."""
    return None if value is None else int(value)


def _changes(credits: Sequence[CreditLine], usage: Sequence[UsageLine], runs: Sequence[RunLine]) -> list[Change]:
    """Those that there are, in their order."""
    moved: dict[Section, int] = {}
    for line in credits:
        moved[line.section] = moved.get(line.section, 0) + line.moved_micro
    if usage:
        moved["usage"] = -sum(line.charged_micro for line in usage)
    if runs:
        moved["runs"] = -sum(line.charged_micro for line in runs)
    return [Change(section, moved[section]) for section in SECTIONS if section in moved]


def _problems(found: Statement, ever_micro: int, kept_micro: int) -> list[str]:
    """What does not add up: rows that were changed behind the ledger's back."""
    problems = []
    moved = sum(change.moved_micro for change in found.changes)
    if found.opening_micro + moved != found.closing_micro:
        problems.append(
            f"opening {found.opening_micro} and all changes {moved} are not closing {found.closing_micro} micro-credits"
        )
    if ever_micro != kept_micro:
        problems.append(
            f"the wallet keeps a balance of {kept_micro} micro-credits, its entries come to {ever_micro}: "
            "`drawdown verify` says since when"
        )
    problems += [
        f"{line.charges} charges of {line.feature}, {line.charged_micro} micro-credits, are at no rate of it: "
        "`drawdown verify` names them"
        for line in found.usage
        if line.micro_credits is None and not line.more
    ]
    return problems
