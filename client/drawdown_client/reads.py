"""What is read of an organisation: its usage, and its balance. Pure: which calls there are, and how pages are put
together."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final, Literal, TypeAlias

from drawdown_client.calls import Answer, Call, get
from drawdown_client.errors import Unreachable
from drawdown_client.items import moment_ms

MOST_PAGES: Final = 100
"""Of one answer."""
MOST_ROWS: Final = 1_000
"""Of one page: as the server has it."""

Moment: TypeAlias = datetime | date | int
"""An aware datetime, a day in UTC, or milliseconds since 1970."""
By: TypeAlias = Literal["feature", "day", "sandbox", "project", "subject"]


def usage(org: str, from_: Moment, to: Moment | None, by: By, after: str | None) -> Call:
    query = {"from": _said(from_), "to": None if to is None else _said(to), "by": by, "after": after}
    return get("v1", "usage", org, query=query)


def balance(org: str) -> Call:
    return get("v1", "balance", org)


def joined(pages: list[Answer]) -> Answer:
    """One answer with the rows of all pages."""
    whole = {**pages[0], "rows": [row for page in pages for row in page["rows"]]}
    whole.pop("next", None)
    return whole


def next_of(page: Answer, before: str | None) -> str | None:
    """Where the next page begins, if there is one. Errors: Unreachable for what is no page, or the same again."""
    after, rows = page.get("next"), page.get("rows")
    is_page = isinstance(rows, list) and len(rows) <= MOST_ROWS and all(isinstance(row, dict) for row in rows)
    if not is_page or not isinstance(after, str | None) or after in ("", before or ""):
        raise Unreachable("the answer is no page of usage")
    return after


def too_many() -> Unreachable:
    return Unreachable(f"the usage has more than {MOST_PAGES:,} pages: ask for less of it")


def _said(moment: Moment) -> str:
    if isinstance(moment, date) and not isinstance(moment, datetime):
        return moment.isoformat()
    return str(moment_ms(moment))
