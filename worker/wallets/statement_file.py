"""A statement as programs and spreadsheets take it: one object, or CSV. Pure.

Guarantee: each amount stands there exactly, in micro-credits, and in credits beside. In the CSV, `balance` of the first
row and the column `moved` of all rows come to `balance` of the row `closing`; what is held has a column of its own.
Nothing in it is taken for a formula by a spreadsheet, nor turns the direction of reading.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from drawdown.schema.text import no_formula
from drawdown.schema.units import MICRO, in_credits
from drawdown.worker.wallets.statement import CreditLine, HeldLine, RunLine, Statement, UsageLine

COLUMNS: Final = (
    "customer", "from", "to", "section", "item", "month_of_use", "count", "quantity", "rate_micro", "rate_per",
    "rounding_micro", "drawn_micro", "settled_micro", "late_micro", "written_off_micro", "money_minor", "currency",
    "organisation", "project", "until", "held_micro", "moved_micro", "moved", "balance_micro", "balance",
)  # fmt: skip
TEXTS: Final = ("customer", "item", "currency", "organisation", "project")
"""Columns of texts that others wrote."""
_SUFFIX: Final = "_micro"
_RATES: Final = ("rounding_micro",)
"""Amounts that are said in micro-credits alone."""


def as_object(found: Statement) -> dict[str, object]:
    """A statement as JSON holds it: each amount in micro-credits (`…_micro`), and in credits."""
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
    """The statement as CSV: a head, the opening balance, the lines of all sections, the closing balance, what is held,
    and what does not add up."""
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
    yield from map(_of_run, found.runs)
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


def _of_run(line: RunLine) -> dict[str, object]:
    return {
        "section": "runs",
        "item": _more(line.more),
        "project": line.project,
        "count": line.runs,
        "drawn_micro": line.drawn_micro,
        "settled_micro": line.settled_micro,
        "late_micro": line.late_micro,
        "written_off_micro": line.written_off_micro,
        "moved_micro": -line.charged_micro,
    }


def _of_held(line: HeldLine) -> dict[str, object]:
    return {
        "section": "held",
        "item": _more(line.more) or line.run,
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
