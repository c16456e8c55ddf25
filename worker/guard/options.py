"""List the ways out of a block, open or closed, and describe each.

The ways are: top up, sponsor, request a limit override, and run locally.

Guarantee: this module does not write. The possible ways are the `options` of one check's answer. A second check, with
the sponsor as payer, shows whether the sponsor could pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

import sqlalchemy as sa

from drawdown.guard.periods import PERIODS, Period, end_of
from drawdown.schema.clock import utc
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.schema.units import counted_credits, in_credits
from drawdown.worker.catalog.wallets import keeper_of
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.overrides import MOST_ASKED
from drawdown.worker.guard.terms import MAX_UNITS, Wish
from drawdown.worker.guard.use import Answer, Option

SQL = queries(__file__)

CONSUME: Final = "/v1/guard/consume"
OVERRIDES: Final = "/v1/guard/overrides"


@dataclass(frozen=True)
class WayTold:
    """One way out of a block, as the HTTP API returns it.

    `code`: the reason why the way is closed (null: it is open). `description`: the way in words. `call`: the request
    that a program sends. If `call` is a use, the program must add a use key. `link`: the page for the organisation's
    users. `command`: the operator's command. `payers`: organisations that could pay. `at`: the provider that sells the
    credit. `missing`, `missing_micro`: the missing credit in credits and micro-credits (null: unknown).
    `pending_requests`: the number of requests for a limit override that wait for a decision.
    """

    option: Option
    open: bool
    code: str | None
    description: str
    call: Mapping[str, object] | None
    link: str | None
    command: str | None
    payers: list[str]
    at: str | None
    missing: int | float | None
    missing_micro: int | None
    pending_requests: int


@dataclass(frozen=True)
class WaysTold:
    """The guard's present answer to a wish, and all four ways out, open or closed.

    The fields from `decision` to `reason` are as in `Answer`.
    """

    org_id: str
    metric: str
    quantity: int
    decision: str
    would: str
    rule: str
    reason: str
    options: list[WayTold]
    as_of_ms: int


def describe_ways(connection: sa.Connection, wish: Wish, page: str, now_ms: int) -> WaysTold:
    """Return the ways out for a wish. Errors: as `guard.check`.

    `page`: the address of the page where an organisation's users see their usage; empty: such a page does not exist.
    """
    found = ways_out(connection, wish, now_ms)
    answer = found.answer
    ways = [_describe_way(way, wish, answer.payer or wish.org_id, page) for way in found.ways]
    kept = (answer.metric, answer.quantity, answer.decision, answer.would, answer.rule, answer.reason)
    return WaysTold(wish.org_id, *kept, ways, answer.as_of_ms)


def _describe_way(way: Way, wish: Wish, payer: str, page: str) -> WayTold:
    return WayTold(
        option=way.option,
        open=way.is_open,
        code=way.code,
        description=way.description,
        call=_call(way, wish),
        link=(page or None) if way.is_open and way.option in ("top_up", "request_override") else None,
        command=_command(way, wish, payer),
        payers=list(way.payers),
        at=way.at,
        missing=None if way.missing_micro is None else in_credits(way.missing_micro),
        missing_micro=way.missing_micro,
        pending_requests=way.pending_requests,
    )


def _call(way: Way, wish: Wish) -> Mapping[str, object] | None:
    body: dict[str, str | int] = {"org_id": wish.org_id, "metric": wish.metric}
    if way.option == "sponsor" and way.payers:
        return {"method": "POST", "path": CONSUME, "body": {**body, "quantity": wish.quantity, "payer": way.payers[0]}}
    if way.option == "request_override" and way.override is not None:
        return {"method": "POST", "path": OVERRIDES, "body": {**body, **vars(way.override)}}
    return None


def _command(way: Way, wish: Wish, payer: str) -> str | None:
    if way.option == "top_up" and way.is_open and way.at is None:
        return typed("drawdown", "ledger", "grant", payer, "AMOUNT")
    if way.option == "sponsor" and way.code == "no_sponsor":
        return typed("drawdown", "payer", "allow", "PAYER", wish.org_id)
    if way.option == "request_override" and way.pending_requests:
        return typed("drawdown", "override", "list", "--metric", wish.metric)
    if way.option == "request_override" and (asks := way.override) is not None:
        ask = ("drawdown", "override", "ask", wish.metric, str(asks.amount), "--per", asks.period)
        return typed(*ask, "--org", wish.org_id, "--expires", utc(asks.ends_ms))
    return None


OPTIONS: Final[tuple[Option, ...]] = get_args(Option)
MOST_SPONSORS: Final = 5
"""Payers of an organisation that one call checks, each by a guard check."""


@dataclass(frozen=True)
class Override:
    """The limit override of the nearest limit that a program may request.

    The limit override is enough for this use, until the period ends. `amount` is in base units.
    """

    period: Period
    amount: int
    ends_ms: int


@dataclass(frozen=True)
class Way:
    """One way out of a block.

    `code`: the reason why it is closed (None: it is open). `description`: the way in words. `payers`: organisations
    that could pay. `override`: the limit override to request (None: this is another way, or it is closed).
    `pending_requests`: the number of requests for a limit override that wait for a decision. `at`: the provider that
    keeps and sells the credit (None: the embedded ledger). `missing_micro`: the missing credit in micro-credits (None:
    unknown).
    """

    option: Option
    code: str | None
    description: str
    payers: tuple[str, ...] = ()
    override: Override | None = None
    pending_requests: int = 0
    at: str | None = None
    missing_micro: int | None = None

    @property
    def is_open(self) -> bool:
        return self.code is None


@dataclass(frozen=True)
class Ways:
    """The guard's present answer, and the four ways in the order of `OPTIONS`."""

    answer: Answer
    ways: tuple[Way, ...]


def ways_out(connection: sa.Connection, wish: Wish, now_ms: int, most_sponsors: int = MOST_SPONSORS) -> Ways:
    """Return the ways out for a wish that is blocked, or would be in phase 3.

    `most_sponsors`: the number of sponsors to check. If it is 0, the answer shows whether a sponsor exists, and does
    not name the provider that keeps the balance. Errors: as `guard.check`.
    """
    found = guard.check(connection, wish, now_ms)
    ways = {option: _closed(option, found) for option in OPTIONS if option not in found.options}
    if "top_up" in found.options:
        ways["top_up"] = _top_up(connection, wish, found, now_ms, asks_keeper=most_sponsors > 0)
    if "sponsor" in found.options:
        ways["sponsor"] = _sponsor(connection, wish, found, now_ms, most_sponsors)
    if "request_override" in found.options:
        ways["request_override"] = _request(connection, wish, found, now_ms)
    if "run_locally" in found.options:
        ways["run_locally"] = Way("run_locally", None, "work on your own machine is not metered here")
    return Ways(found, tuple(ways[option] for option in OPTIONS))


def _closed(option: Option, found: Answer) -> Way:
    if found.would != "block":
        return Way(option, "not_blocked", "the use is not blocked")
    if found.rule == "operator":
        return Way(option, "operator", "a person halted the organisation, and a person must resume it")
    if option in ("top_up", "sponsor"):
        return Way(option, "not_credit", "a limit blocks the use, and credit does not raise a limit")
    return Way(option, "not_limit", "credit is missing, and a limit does not block the use")


def _top_up(connection: sa.Connection, wish: Wish, found: Answer, now_ms: int, *, asks_keeper: bool) -> Way:
    if found.reason == "payer_not_allowed":
        said = f"{found.payer or wish.payer} does not pay for {wish.org_id}, and credit does not change that"
        return Way("top_up", "not_credit", said)
    payer = found.payer or wish.org_id
    missing = None if found.balance_micro is None else max(found.price_micro - found.balance_micro, 0)
    keeper = keeper_of(connection, payer, now_ms) if asks_keeper else None
    if keeper is not None:
        return Way("top_up", None, f"{keeper} keeps the balance. Buy credit at {keeper}", at=keeper)
    short = "" if not missing else f"; missing: {counted_credits(missing)}"
    return Way("top_up", None, f"credit for the wallet of {payer}{short}", missing_micro=missing)


def _sponsor(connection: sa.Connection, wish: Wish, found: Answer, now_ms: int, most: int) -> Way:
    # Read one row more, because one of the rows may be the present payer's.
    values = {"org_id": wish.org_id, "now_ms": now_ms, "at_most": max(most, 1) + 1}
    names = [name for name in SQL.run(connection, "sponsors", values).scalars() if name != found.payer]
    if not names:
        return Way("sponsor", "no_sponsor", f"{wish.org_id} does not have another payer")
    if not most:
        return Way("sponsor", None, "another payer may have enough credit left")
    checks = {name: guard.check(connection, replace(wish, payer=name), now_ms) for name in names[:most]}
    able = tuple(name for name, one in checks.items() if one.would != "block")
    if not able and all(one.reason == "halted" for one in checks.values()):
        return Way("sponsor", "sponsor_short", f"{wish.org_id} is halted, so that no other payer can pay. Top up first")
    if not able:
        return Way(
            "sponsor", "sponsor_short", f"the credit or the remaining limit of {', '.join(names[:most])} is too low"
        )
    return Way("sponsor", None, f"{', '.join(able)} can pay for it", payers=able)


def _request(connection: sa.Connection, wish: Wish, found: Answer, now_ms: int) -> Way:
    period: Period = next((one for one in PERIODS if one == found.period), "month")
    used = found.used
    if used is None:  # no limit applies, but earlier use counts against the limit override
        used = guard_counts.look(connection, wish.org_id, wish.metric, now_ms).counted[period].used
    wanted = Override(period, min(used + wish.quantity, MAX_UNITS), found.resets_ms or end_of(period, now_ms))
    values = {"org_id": wish.org_id, "metric": wish.metric, "now_ms": now_ms}
    asked = int(SQL.run(connection, "asked", values).scalar_one())
    if asked >= MOST_ASKED:
        said = f"{asked} requests already wait for approval"
        return Way("request_override", "too_many_asked", said, pending_requests=asked)
    waits = f"; {counted(asked, 'request waits', 'requests wait')} for approval" if asked else ""
    return Way("request_override", None, f"a person decides{waits}", override=wanted, pending_requests=asked)
