"""Build the calls that read an organisation's usage and balance, and join pages.

The module does not send the calls.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final, Literal, TypeAlias, TypedDict, cast

from drawdown_client.calls import Answer, Call, get
from drawdown_client.errors import Unreachable
from drawdown_client.items import moment_ms

MOST_PAGES: Final = 100
"""Maximum number of pages of a usage query."""
MOST_ROWS: Final = 1_000
"""Maximum number of rows of one page."""
MAX_CHARS: Final = 64 * 1024 * 1024
"""Maximum characters of all pages together."""

Moment: TypeAlias = datetime | date | int
"""An aware datetime, a day in UTC, or milliseconds since 1970."""
By: TypeAlias = Literal["feature", "day", "sandbox", "project", "subject"]


class UsageRow(TypedDict):
    """The usage of a feature in base units.

    `group`: the day, sandbox, project or subject; empty if the group is unknown or pruned, or for `by="feature"`.
    `feature`: empty if the usage is not mapped to a feature yet. `unit`: the base unit. `sealed`: the sealed quantity;
    None if pushes do not distinguish the groups.
    """

    group: str
    feature: str
    unit: str
    used: int
    sealed: int | None


class Carried(TypedDict):
    """Sealed base units that wait until they fill a whole unit of the provider."""

    provider: str
    customer_id: str
    feature: str
    quantity: int


class Usage(TypedDict):
    """All pages of GET /v1/usage/{org_id}.

    `pruned`: True if samples at the start of the range were deleted. For that part, `used` is the sealed quantity.
    """

    org_id: str
    by: str
    from_ms: int
    to_ms: int
    pruned: bool
    rows: list[UsageRow]
    carried: list[Carried]


class Balance(TypedDict):
    """The main fields of GET /v1/balance/{org_id}, in credits and in micro-credits.

    `available`: credit that you can still reserve. `unbilled`: used credit that the next ticks charge.
    """

    org_id: str
    customer_id: str
    plan: str | None
    available: float
    available_micro: int
    reserved: float
    reserved_micro: int
    unbilled: float
    unbilled_micro: int
    balance: float
    balance_micro: int


def usage(org_id: str, from_: Moment | None, to: Moment | None, by: By, pages: Pages) -> Call:
    """Return the call for the next page of usage.

    All pages use the start of the range in the first page.
    """
    begin = pages.from_ms if from_ is None else _ms(from_)
    query = {"from_ms": begin, "to_ms": None if to is None else _ms(to), "by": by, "after": pages.after}
    return get("v1", "usage", org_id, query=query)


def balance(org_id: str) -> Call:
    return get("v1", "balance", org_id)


class Pages:
    """The pages of one usage query.

    `after`: the cursor of the next page; None before the first page and after the last page. `whole`: the joined
    result, with the rows of all pages and the other fields of the first page; None until the last page is added.
    """

    def __init__(self) -> None:
        self.after: str | None = None
        self.whole: Usage | None = None
        self._first: Answer | None = None
        self._rows: list[Answer] = []
        self._pages = self._chars = 0

    @property
    def from_ms(self) -> str | None:
        """Return the start of the range in the first page; None before that page.

        The text is a number of milliseconds since 1970.
        """
        found = None if self._first is None else self._first.get("from_ms")
        return str(found) if isinstance(found, int) else None

    def add(self, page: Answer) -> None:
        """Add a page.

        Errors: Unreachable if the page is invalid or repeated, or if all pages together are too large.
        """
        after, rows = page.get("next"), page.get("rows")
        is_page = isinstance(rows, list) and len(rows) <= MOST_ROWS and all(isinstance(row, dict) for row in rows)
        if not is_page or not isinstance(after, str | None) or after in ("", self.after or ""):
            raise Unreachable("invalid response: expected a page of usage. Check the server address")
        self._first = page if self._first is None else self._first
        self._pages += 1
        self._chars += len(str(page))
        if self._pages + (after is not None) > MOST_PAGES or self._chars > MAX_CHARS:
            raise Unreachable(
                f"too much usage: more than {MOST_PAGES:,} pages or {MAX_CHARS:,} characters. Request a shorter range"
            )
        self._rows += page["rows"]
        self.after = after
        if after is None:
            whole = {**self._first, "rows": self._rows}
            whole.pop("next", None)
            self.whole = cast(Usage, whole)


def _ms(moment: Moment) -> str:
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return str(moment_ms(moment))
