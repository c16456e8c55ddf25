"""Return an account's statement of a span, mostly a month.

A statement has an opening balance, changes and a closing balance, as one object or as CSV. Reads only.

Guarantee: a statement adds up to the micro-credit. The opening balance plus all changes is the closing balance, and
each section is the sum of its lines. A line of usage is quantity times rate, except for the rounding of its charges. A
statement uses the time of booking, so the statement of a month does not change after it is final (`is_final`), unless a
person books an entry in the month with `--at`. A line of usage also has the month of use. The database adds up the
entries, all as of one moment. Each section has a bounded number of lines, and the last line sums up those that are not
shown. `problems` names figures that do not add up.

In the CSV, `balance` of the first row and the column `moved` of all rows add up to `balance` of the row `closing`.
Reserved credit has its own column. A spreadsheet does not interpret a text as a formula, and a text does not change the
reading direction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.payouts import PERIOD
from drawdown.ledger.rates import Rate
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import no_formula, quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MICRO, MINUTE_MS, in_credits

SQL = queries(__file__)

FINAL_AFTER_MS: Final = 60 * MINUTE_MS
"""Milliseconds after the end of its span in which a statement may change.

An export by booking may change for the same time. A transaction that began before the end may commit later.
"""
LINES: Final = 100
"""Default for the highest number of lines of one section."""

Section: TypeAlias = Literal["given", "began", "topped_up", "expired", "taken_back", "usage", "executions", "other"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)
"""The sections, in the order of the statement."""


@dataclass(frozen=True)
class Span:
    """The span in which entries were booked: [from_ms, to_ms), in milliseconds."""

    from_ms: int
    to_ms: int


@dataclass(frozen=True)
class CreditLine:
    """Credit of one kind that came in, or that left without use.

    `what`: the kind of the lot or of the entry, `rolled over`, `allotted`, `returned`, or `of no lot`. `entries`: the
    number of entries. `moved_micro`: the change of the wallet, in micro-credits. `money_minor`: for top-ups, the paid
    money, in minor units of `currency` (None: other credit).
    """

    section: Section
    what: str
    entries: int
    money_minor: int | None
    currency: str | None
    moved_micro: int


@dataclass(frozen=True)
class UsageLine:
    """Charges of one feature, by the month of use and the rate.

    `charged_micro = quantity * micro_credits / per_quantity`, rounded to a micro-credit (a half away from zero), plus
    `rounding_micro`, because each charge was rounded separately. A line without a rate sums up charges that do not
    match a rate, and its `micro_credits`, `per_quantity` and `rounding_micro` are None. `feature` None: charges without
    a feature. `more`: the number of lines that are not shown, and that this line adds up. The features of these lines
    can differ.
    """

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
class ExecutionsLine:
    """The charges of executions of one project, less the amounts written off.

    `project` None: executions without a project, or a line that adds up others. Amounts are in micro-credits.
    `drawn_micro`: the charges before the executions ended. `settled_micro`: the charges at their end. `late_micro`: the
    charges after their reservations expired. `more`: the number of lines that are not shown, and that this line adds
    up.
    """

    project: str | None
    executions: int
    drawn_micro: int
    settled_micro: int
    late_micro: int
    written_off_micro: int
    charged_micro: int
    more: int


@dataclass(frozen=True)
class HeldLine:
    """An execution with credit reserved at the end of the span.

    If the span has not ended, the credit reserved now counts.

    `expires_ms`: the end of its reservation. `held_micro`: the reserved credit in micro-credits. `project` None: the
    execution does not have a project. `more`: the number of executions that this line adds up. If `more` is not 0,
    `execution`, `org_id`, `project` and `expires_ms` are None.
    """

    execution: str | None
    org_id: str | None
    project: str | None
    expires_ms: int | None
    held_micro: int
    more: int


@dataclass(frozen=True)
class Change:
    """The change of the wallet by one section, in micro-credits."""

    section: Section
    moved_micro: int


@dataclass(frozen=True)
class Statement:
    """A statement in micro-credits.

    `opening_micro` plus all changes is `closing_micro`. Reserved credit is a part of the closing balance, not a change.
    `held`: the executions with reserved credit. `problems`: figures that do not add up. `is_final`: the entries of this
    span can no longer change.
    """

    customer_id: str
    from_ms: int
    to_ms: int
    is_final: bool
    opening_micro: int
    changes: list[Change]
    closing_micro: int
    credits: list[CreditLine]
    usage: list[UsageLine]
    executions: list[ExecutionsLine]
    reserved_micro: int
    held: list[HeldLine]
    problems: list[str]


def span_of(month: str | None, from_ms: int | None, to_ms: int | None) -> Span:
    """Return the span of a month in UTC (2026-02), or of two times in milliseconds.

    Errors: UsageError if neither or both are given, or if the given one is invalid.
    """
    if month is not None:
        if from_ms is not None or to_ms is not None:
            raise UsageError("specify either a month or a beginning and an end, not both", at="month")
        return _of_month(month)
    if from_ms is None or to_ms is None:
        raise UsageError("missing period: expected a month such as 2026-02, or a beginning and an end", at="month")
    if from_ms >= to_ms:
        raise UsageError(
            f"invalid end of a statement {show_time(to_ms)}: expected a time after the beginning {show_time(from_ms)}",
            at="to_ms",
        )
    return Span(from_ms, to_ms)


def _of_month(month: str) -> Span:
    try:
        if not PERIOD.fullmatch(month):
            raise ValueError("the month does not have the form YYYY-MM")
        year, number = int(month[:4]), int(month[5:])
        first, after = (datetime(year + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in (number - 1, number))
        return Span(int(first.timestamp()) * 1000, int(after.timestamp()) * 1000)
    except ValueError as error:
        raise UsageError(f"invalid month {quote_value(month)}: expected a month such as 2026-02", at="month") from error


def of_customer(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int = LINES) -> Statement:
    """Return the statement of a customer's wallet.

    Usage, executions and reserved credit have at most `most` lines each, and one more that adds up the others. `most`
    does not limit the lines of credit. Call it first in its transaction, so that all its reads are as of one moment.
    """
    return _read(connection, customer_id, span, now_ms, most)


def _read(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int) -> Statement:
    values = {"account_id": wallet_account(customer_id), **vars(span), "at_most": most}
    sums = SQL.run(connection, "sums", values).one()
    credits = [_credit_line(row) for row in SQL.run(connection, "credits", values).mappings()]
    credits.sort(key=lambda line: (SECTIONS.index(line.section), line.what, line.currency or ""))
    usage = [_usage_line(row) for row in SQL.run(connection, "usage", values).mappings()]
    executions = [_executions_line(row) for row in SQL.run(connection, "executions", values).mappings()]
    changes = _changes(credits, usage, executions)
    held = _list_held(connection, customer_id, span, now_ms, most)
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
        executions=executions,
        reserved_micro=sum(line.held_micro for line in held),
        held=held,
        problems=[],
    )
    return replace(found, problems=_problems(found, int(sums.ever_micro), int(sums.kept_micro)))


def _list_held(connection: sa.Connection, customer_id: str, span: Span, now_ms: int, most: int) -> list[HeldLine]:
    """Return the reserved credit at the end of the span.

    If the span has not ended, this is the present reserved credit.
    """
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


def _executions_line(row: sa.RowMapping) -> ExecutionsLine:
    names = ("executions", "drawn_micro", "settled_micro", "late_micro", "written_off_micro", "charged_micro", "more")
    figures: dict[str, Any] = {name: int(row[name]) for name in names}
    return ExecutionsLine(project=row["project"] or None, **figures)


def _whole(value: Any) -> int | None:
    """Convert a sum to an integer.

    PostgreSQL returns a sum as a decimal number, and SQLite as an integer.
    """
    return None if value is None else int(value)


def _changes(
    credits: Sequence[CreditLine], usage: Sequence[UsageLine], executions: Sequence[ExecutionsLine]
) -> list[Change]:
    """Return the sums of the sections that have lines, in the order of the statement."""
    moved: dict[Section, int] = {}
    for line in credits:
        moved[line.section] = moved.get(line.section, 0) + line.moved_micro
    if usage:
        moved["usage"] = -sum(line.charged_micro for line in usage)
    if executions:
        moved["executions"] = -sum(line.charged_micro for line in executions)
    return [Change(section, moved[section]) for section in SECTIONS if section in moved]


def _problems(found: Statement, ever_micro: int, kept_micro: int) -> list[str]:
    """Return texts that name figures that do not add up.

    Figures do not add up if another program changed rows of the ledger.
    """
    problems = []
    moved = sum(change.moved_micro for change in found.changes)
    if found.opening_micro + moved != found.closing_micro:
        problems.append(
            f"opening {found.opening_micro} and all changes {moved} do not add up to closing "
            f"{found.closing_micro} (in micro-credits)"
        )
    if ever_micro != kept_micro:
        problems.append(
            f"the wallet has a balance of {kept_micro}, but its entries sum to {ever_micro} (in micro-credits). "
            "Run `drawdown verify`"
        )
    problems += [
        f"charges of {line.feature} ({line.charges}, {line.charged_micro} in micro-credits) do not match a rate of "
        f"{line.feature}. To list them, run `drawdown verify`"
        for line in found.usage
        if line.micro_credits is None and not line.more
    ]
    return problems


COLUMNS: Final = (
    "customer", "from", "to", "section", "item", "month_of_use", "count", "quantity", "rate_micro", "rate_per",
    "rounding_micro", "drawn_micro", "settled_micro", "late_micro", "written_off_micro", "money_minor", "currency",
    "organisation", "project", "until", "held_micro", "moved_micro", "moved", "balance_micro", "balance",
)  # fmt: skip
TEXTS: Final = ("customer", "item", "currency", "organisation", "project")
"""Columns of texts that other people or programs wrote, so CSV escapes formulas."""
_SUFFIX: Final = "_micro"
_RATES: Final = ("rounding_micro",)
"""Amounts that are shown only in micro-credits."""


def as_object(found: Statement) -> dict[str, object]:
    """Return a statement for JSON, with amounts in micro-credits and in credits."""
    return {name: _twice(value) for name, value in _with_credits(asdict(found)).items()}


def _twice(value: object) -> object:
    if isinstance(value, list):
        return [_twice(one) for one in value]
    return _with_credits(value) if isinstance(value, dict) else value


def _with_credits(row: Mapping[str, object]) -> dict[str, object]:
    made = dict(row)
    for name, micro in row.items():
        if name.endswith(_SUFFIX) and name not in _RATES:
            made[name.removesuffix(_SUFFIX)] = in_credits(micro) if isinstance(micro, int) else None
    return made


def csv_lines(found: Statement) -> Iterator[str]:
    """Yield the statement as lines of CSV.

    The lines are the header, the opening balance, the lines of all sections, the closing balance, the reserved credit,
    and the problems.
    """
    span = {"customer": found.customer_id, "from": _time(found.from_ms), "to": _time(found.to_ms)}
    yield _csv_line({name: name for name in COLUMNS})
    for row in _rows(found):
        fields = {**span, **row}
        for name in ("moved", "balance"):
            micro = fields.get(f"{name}_micro")
            if isinstance(micro, int):
                fields[name] = f"{Decimal(micro) / MICRO:.6f}"
        yield _csv_line(fields)


def _rows(found: Statement) -> Iterator[dict[str, object]]:
    yield {"section": "opening", "balance_micro": found.opening_micro}
    yield from map(_of_credit, found.credits)
    yield from map(_of_usage, found.usage)
    yield from map(_of_executions, found.executions)
    yield {"section": "closing", "balance_micro": found.closing_micro}
    yield from map(_of_held, found.held)
    for problem in found.problems:
        yield {"section": "problem", "item": problem}


def _of_credit(line: CreditLine) -> dict[str, object]:
    return {
        "section": line.section,
        "item": line.what,
        "count": line.entries,
        "money_minor": line.money_minor,
        "currency": line.currency,
        "moved_micro": line.moved_micro,
    }


def _of_usage(line: UsageLine) -> dict[str, object]:
    return {
        "section": "usage",
        "item": _more(line.more) or line.feature,
        "month_of_use": line.month,
        "count": line.charges,
        "quantity": line.quantity,
        "rate_micro": line.micro_credits,
        "rate_per": line.per_quantity,
        "rounding_micro": line.rounding_micro,
        "moved_micro": -line.charged_micro,
    }


def _of_executions(line: ExecutionsLine) -> dict[str, object]:
    return {
        "section": "executions",
        "item": _more(line.more),
        "project": line.project,
        "count": line.executions,
        "drawn_micro": line.drawn_micro,
        "settled_micro": line.settled_micro,
        "late_micro": line.late_micro,
        "written_off_micro": line.written_off_micro,
        "moved_micro": -line.charged_micro,
    }


def _of_held(line: HeldLine) -> dict[str, object]:
    return {
        "section": "held",
        "item": _more(line.more) or line.execution,
        "organisation": line.org_id,
        "project": line.project,
        "until": None if line.expires_ms is None else _time(line.expires_ms),
        "held_micro": line.held_micro,
    }


def _more(lines: int) -> str | None:
    return f"({lines} more)" if lines else None


def _time(ms: int) -> str:
    moment = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{ms % 1000:03d}Z" if ms % 1000 else f"{moment}Z"


def _csv_line(fields: Mapping[str, object]) -> str:
    texts = {name: "" if fields.get(name) is None else str(fields[name]) for name in COLUMNS}
    out = io.StringIO()
    row = [no_formula(text) if name in TEXTS else text for name, text in texts.items()]
    csv.writer(out, lineterminator="\n").writerow(row)
    return out.getvalue()
