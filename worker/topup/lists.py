"""List automatic top-ups, and return their figures for Prometheus.

The lists contain terms, charges and the calls of charges. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.declare import ORG, Column, Look, Showing
from drawdown.schema.sql import Part, queries
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_credits

SQL = queries(__file__)

State: TypeAlias = Literal["due", "sending", "in_doubt", "credited", "declined", "needs_customer", "given_up", "shadow"]
STATES: Final[tuple[str, ...]] = get_args(State)
MOST_OWED: Final = 20
"""Wallets with paused top-ups and a debt that `status` lists."""


@dataclass(frozen=True)
class WalletTerms:
    """A wallet's terms (see `actions.Terms`), and its available credit.

    `blocked_reason`: the reason why its top-ups stopped until a person resumes them. `wait_until_ms`: the end
    of the wait after a decline. `declines`: declined charges in a row. `blocked_ms` None: its top-ups have not stopped.
    """

    customer_id: str
    mode: str
    available_micro: int
    threshold_micro: int
    amount_micro: int | None
    fill_to_micro: int | None
    price_minor: int
    currency: str
    service: str
    service_customer: str
    most_minor: int
    max_day: int
    max_month: int
    declines: int
    wait_until_ms: int | None
    blocked_ms: int | None
    blocked_reason: str | None


@dataclass(frozen=True)
class TopupRow:
    """A top-up, in micro-credits and minor units of money.

    `answer`, `evidence`: the last response, as a word and as text. `ended_ms` None: it is open, or a shadow.
    `payment_id` None: the payment is unknown.
    """

    topup: str
    customer_id: str
    credits_micro: int
    money_minor: int
    currency: str
    service: str
    state: str
    attempts: int
    lookups: int
    at_ms: int
    due_at_ms: int
    ended_ms: int | None
    answer: str | None
    evidence: str | None
    payment_id: str | None


@dataclass(frozen=True)
class Call:
    """One call that may have charged the card.

    `outcome`: the result of the call (None: unknown). `finished_ms` None: the call has not ended, or its process died.
    `detail`: the response in words (None: without a response).
    """

    attempt: int
    started_ms: int
    finished_ms: int | None
    outcome: str | None
    detail: str | None


@dataclass(frozen=True)
class Switched:
    """The stop of all top-ups, with its time (milliseconds), actor and reason."""

    stopped_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class TopupFigures:
    """Figures of top-ups.

    `open`: the number of open top-ups and the time of the oldest in milliseconds, by state. `ended`: the number of
    ended top-ups, by state. `blocked`: the number of wallets with top-ups that wait until a person resumes them.
    `manual_review`: the number of top-ups for which a person must record the outcome. `stopped`: all top-ups are
    stopped.
    """

    open: dict[str, tuple[int, int]]
    ended: dict[str, int]
    blocked: int
    manual_review: int
    stopped: bool


@dataclass(frozen=True)
class PausedDebt:
    """A wallet with a debt, and with paused top-ups.

    `owed_micro`: the debt, in micro-credits. The top-ups pause because no organisation uses the wallet now. The wallet
    still pays for usage from before its organisation moved, even if Drawdown seals that usage later.
    """

    customer_id: str
    owed_micro: int

    def __str__(self) -> str:
        return (
            f"the wallet {self.customer_id} owes {show_credits(self.owed_micro)} credits. Its top-ups pause, because "
            f"no organisation uses it: `drawdown ledger show {typed(self.customer_id)}`"
        )


def paused_debts_part(now_ms: int) -> Part:
    """Return the query of the largest debts of wallets with paused top-ups.

    The query runs with others in one statement.
    """
    return SQL.part("paused_debts", {"now_ms": now_ms, "at_most": MOST_OWED})


def list_terms(connection: sa.Connection, most: int, wallet: str = "") -> list[WalletTerms]:
    """Return the terms of wallets.

    Wallets with top-ups that a person must resume come first. `wallet`: return only the terms of this wallet (empty: of
    all wallets).

    Errors: UnknownId for a wallet without terms.
    """
    if wallet:
        ids.require(connection, ids.TOPPED_UP, wallet)
    rows = SQL.run(connection, "wallets", {"wallet": wallet, "at_most": most}).mappings()
    names = WalletTerms.__dataclass_fields__
    return [WalletTerms(**{name: row[name] for name in names}) for row in rows]


def list_topups(
    connection: sa.Connection, most: int, states: Sequence[str] = STATES, wallet: str = ""
) -> list[TopupRow]:
    """Return top-ups, newest first."""
    values = {"states": list(states), "wallet": wallet, "at_most": most}
    return [TopupRow(**row) for row in SQL.run(connection, "topups", values).mappings()]


def show_wallet(connection: sa.Connection, customer_id: str, most: int) -> tuple[WalletTerms, list[TopupRow]]:
    """Return a wallet's terms and its newest top-ups. Errors: UnknownId."""
    (terms,) = list_terms(connection, 1, customer_id)
    return terms, list_topups(connection, most, wallet=customer_id)


def show_topup(connection: sa.Connection, topup: str, most: int) -> tuple[TopupRow, list[Call]]:
    """Return a top-up and its calls, newest first. Errors: UnknownId."""
    ids.require(connection, ids.TOPUP, topup)
    row = SQL.run(connection, "topup", {"topup": topup}).mappings().one()
    calls = SQL.run(connection, "attempts", {"topup": topup, "at_most": most}).mappings()
    return TopupRow(**row), [Call(**call) for call in calls]


def switched(connection: sa.Connection) -> Switched | None:
    """Return the stop of all top-ups; None if they are not stopped."""
    row = SQL.run(connection, "switched").mappings().one_or_none()
    return None if row is None else Switched(**row)


def open_now(connection: sa.Connection) -> dict[str, int]:
    """Return the number of open top-ups, by state."""
    return {row.state: int(row.topups) for row in SQL.run(connection, "open")}


def figures(connection: sa.Connection, since_ms: int) -> TopupFigures:
    """Return the figures of open top-ups, and of top-ups ended since `since_ms`."""
    open_ = {row.state: (int(row.topups), int(row.oldest_ms)) for row in SQL.run(connection, "open")}
    ended = {row.state: int(row.topups) for row in SQL.run(connection, "ended", {"since_ms": since_ms})}
    blocked = int(SQL.run(connection, "blocked").scalar_one())
    person = int(SQL.run(connection, "manual_review").scalar_one())
    return TopupFigures(open_, ended, blocked, person, switched(connection) is not None)


@dataclass(frozen=True)
class Topups:
    """Wallets with automatic top-ups, and the top-ups.

    Stopped wallets and the newest top-ups come first. `stopped`: the stop of all top-ups by the kill switch (None: the
    kill switch is off).
    """

    stopped: Switched | None
    wallets: list[WalletTerms]
    topups: list[TopupRow]


def _topups(
    connection: sa.Connection,
    look: Look,
    *,
    customer_id: Annotated[str | None, ORG, "Customer who owns the wallet"] = None,
    state: Annotated[list[State] | None, "State of the top-ups"] = None,
) -> Topups:
    terms = list_terms(connection, look.most, customer_id or "")
    found = list_topups(connection, look.most, tuple(state or STATES), customer_id or "")
    stopped = switched(connection)
    if stopped is not None and look.only is not None:  # an organisation must not see the operator's name and reason
        stopped = Switched(stopped.stopped_ms, "", "")
    return Topups(stopped, terms, found)


LISTS: Final = (
    Showing(
        "topup list",
        "Top-ups",
        "List wallets with automatic top-ups, and their top-ups. Stopped wallets and the newest top-ups come "
        "first.",
        _topups,
        path="/v1/topups",
        scope="ledger:read",
        most=50,
        parts={
            "wallets": (
                "Wallets",
                (Column("customer_id", "wallet"), "mode", "available_micro", Column("threshold_micro", "#threshold"),
                 "service", Column("blocked_reason", "stop reason")),
            ),
            "topups": (
                "Top-ups",
                (Column("topup", "top-up"), "state", "credits_micro", Column("money_minor", "#minor units"), "currency",
                 Column("attempts", "#calls"), Column("at_ms", "started"), Column("evidence", "last message")),
            ),
        },
    ),
)  # fmt: skip
