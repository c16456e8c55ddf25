"""The tab Limits of an organisation: what it may use of each metric, by which rule, what it has used, and when that
begins anew; and what was blocked in a day. The figures are those of `drawdown limit show`."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Table
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules.cells import number, said, time
from drawdown.worker.guard.standing import Standing, StandingRow, standing_of

RULES: Final = {"operator": "an operator's word", "no_entitlement": "its plan says nothing of it: none"}


def tab(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    after = ask.text("after")
    found = standing_of(connection, org_id, ask.now_ms, after=after)
    return {"part": "org_tables.html", "tables": [_limits(found, after), _refusals(found)]}


def _limits(found: Standing, after: str) -> Table:
    rows = [
        (said(one.metric), Cell(one.period or figures.UNKNOWN), _amount(one), number(one.used), _left(one),
         time(one.resets_ms, wide=True), Cell(*_rule(one), narrow=False), time(one.until_ms, wide=True))
        for one in found.rows
    ]  # fmt: skip
    heads = ("Metric", "Per", "#Limit", "#Used", "#Left", "Begins anew, UTC", "By", "Override until, UTC")
    next_ = url("/console/org", id=found.org_id, tab="limits", after=found.next_after) if found.next_after else ""
    none = "Nothing is counted yet: the first metric is made by `drawdown guard set`."
    first = url("/console/org", id=found.org_id, tab="limits") if after else ""
    command = f"drawdown limit show {typed(found.org_id)}"
    return Table("Limits", heads, rows, none, command, next_, _note(found), first=first)


def _note(found: Standing) -> str:
    plan = f"By the plan {found.plan}" if found.plan else "By what is said of every other plan, as it is on none"
    pays = "credit was bought" if found.pays else "no credit was ever bought"
    if found.halted:
        return f"It is {found.halted}: nothing may be used, whatever is left. {plan}; {pays}."
    return f"{plan}; {pays}."


def _amount(one: StandingRow) -> Cell:
    if one.period is not None and one.amount is None:
        return Cell("without an end", "number")
    return number(one.amount)


def _left(one: StandingRow) -> Cell:
    if one.left is None:
        return Cell("without an end", "number")
    if one.left == 0:
        return Cell("none left", "state", "warn")
    return Cell(f"{figures.count(one.left)}, little", "state", "warn") if one.low else number(one.left)


def _rule(one: StandingRow) -> tuple[str, str]:
    """A limit's rule is `limit:PLAN:PERIOD`, an override's `override:N`."""
    kind, _, more = one.rule.partition(":")
    if kind == "override":
        return f"override {more}", ""
    plan = more.rpartition(":")[0]
    return (RULES[kind], "") if kind in RULES else ("every other plan" if plan == "*" else f"plan {plan}", "id")


def _refusals(found: Standing) -> Table:
    rows = [
        (said(one.metric), Cell(one.reason.replace("_", " ")), number(one.times), number(one.amount, wide=True),
         Cell("blocked", "state", "warn") if one.enforced else Cell("would be in phase 3", "state"),
         time(one.last_ms, wide=True))
        for one in found.refusals
    ]  # fmt: skip
    heads = ("Metric", "Why", "#Times", "#Amount", "What came of it", "Last, UTC")
    none = "Nothing was blocked in 24 hours, and nothing would have been."
    return Table("Blocked in 24 hours", heads, rows, none, f"drawdown guard check METRIC --org {quote(found.org_id)}")
