"""Show one organisation, in tabs.

The tabs are its usage, ledger, pushes, halts and verdicts, assignments, limits, changes by people, and its stored rows
without secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.text import typed
from drawdown.schema.units import DAY_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Table, act
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.customers import usage
from drawdown.server.console.screens.money import cells, wallets
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.rules.cells import number, text_cell, time
from drawdown.worker.access.audit import AuditFilter, list_audit
from drawdown.worker.guard.allowances import Standing, StandingRow, standing_of
from drawdown.worker.orgs import lists as org_history
from drawdown.worker.status import tables
from drawdown.worker.verdict.effective_balance import verdict_history
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.accounts import PaidFrom, list_lots, paid_from, payer_of

Tab = Callable[[sa.Connection, Ask], Mapping[str, object]]
PUSH_DAYS: Final = 1
MOST_AUDITED: Final = 100
"""Changes by people that an organisation's page shows."""
HALTS: Final = "/console/halts"


def pushes(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    found = org_history.pushes_between(connection, org_id, ask.now_ms - PUSH_DAYS * DAY_MS, ask.now_ms)
    rows = [
        (
            Cell(figures.time(one.window_ms), "time", href=url("/console/push", key=one.key)),
            Cell(one.feature, "id"),
            Cell(figures.count(one.sealed_qty), "number"),
            Cell(figures.count(one.sent_qty), "number", narrow=False),
            Cell(one.provider, "id", narrow=False),
            cells_of.state(one.state),
            Cell(figures.count(one.attempts), "number", narrow=False),
            Cell(one.last_error or one.key, "id", narrow=False),
        )
        for one in found
    ]
    heads = ("Window, UTC", "Feature", "#Sealed", "#Sent", "Provider", "State", "#Attempts", "Error or key")
    none = "No push exists for a window of the last 24 hours."
    table = Table("Pushes of the last 24 hours", heads, rows, none, f"drawdown push list --org {quote(org_id)}")
    return {"part": "org_tables.html", "tables": [table]}


def halts(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    told = [
        (Cell(figures.time(one.halted_at), "time"),
         Cell(one.cell_id, "id", href=url(HALTS, state="any", cell=one.cell_id)),
         cells_of.answer_cell(one.halted_at, one.acked_at_ms, one.due_at_ms),
         Cell(figures.count(one.attempts), "number", narrow=False),
         Cell(one.last_error or figures.UNKNOWN, "id", narrow=False))
        for one in org_history.halts_of(connection, org_id)
    ]  # fmt: skip
    said = [
        (
            Cell(figures.time(one.at_ms), "time"),
            Cell(*(("halted", "state", "bad") if one.is_halted else ("open", "state"))),
            Cell(one.reason or figures.UNKNOWN, "id"),
            cells.balance(one.balance_micro),
            Cell(figures.count(one.max_concurrent_sandboxes), "number", narrow=False),
        )
        for one in verdict_history(connection, org_id)
    ]
    show = f"drawdown org show {typed(org_id)}"
    tables = [
        Table("Notified cells", ("Halted, UTC", "Cell", "Answer", "#Attempts", "Error"), told,
              "No cell received a halt for this organisation.", show),
        Table("Last ten verdicts", ("Time, UTC", "Verdict", "Reason", "#Balance", "#Concurrent sandboxes"), said,
              "No verdict exists yet. The first read at its provider writes one.", show),
    ]  # fmt: skip
    return {"part": "org_tables.html", "tables": tables}


def assignment(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    rows = [
        (Cell(figures.time(one.start_ms), "time"), Cell("open" if one.end_ms is None else figures.time(one.end_ms)),
         Cell(one.provider, "id"), Cell(one.customer_id or figures.UNKNOWN, "id"), Cell(one.actor, "id", narrow=False),
         Cell(one.reason, "id", narrow=False))
        for one in org_history.assignments_of(connection, org_id)
    ]  # fmt: skip
    heads = ("From, UTC", "To, UTC", "Provider", "Customer", "Actor", "Reason")
    table = Table(
        "Assignments",
        heads,
        rows,
        "No provider bills this organisation yet.",
        f"drawdown org assign {typed(org_id, '--provider', 'embedded')}",
    )
    ways = [
        act("Assign to the ledger or no provider", "assign", id=org_id),
        act("Assign to another provider", "assign-remote", id=org_id),
    ]
    return {"part": "org_tables.html", "tables": [table], "ways": ways}


def audit(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    rows = [
        (Cell(figures.time(one.at_ms), "time"), Cell(one.action.replace("_", " ")), Cell(one.actor, "id"),
         Cell(one.via, narrow=False), Cell(one.reason, "id"))
        for one in list_audit(connection, AuditFilter(target=org_id), most=MOST_AUDITED).actions
    ]  # fmt: skip
    heads = ("Time, UTC", "Action", "Actor", "Channel", "Reason")
    none = "No change of this organisation exists yet."
    table = Table("Changes by people", heads, rows, none, f"drawdown audit list --target {quote(org_id)}")
    return {"part": "org_tables.html", "tables": [table]}


TABS_OF_TABLES: Final[dict[str, Tab]] = {"pushes": pushes, "halts": halts, "assignment": assignment, "audit": audit}


def ledger(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, after, chosen = ask.required("id"), ask.key("after"), wallets.chosen_by(ask)
    paid = paid_from(connection, org_id, ask.now_ms)
    customer = paid.customer_id
    lots = list_lots(connection, customer, ask.now_ms)
    found = wallet_entries.page(connection, customer, after, chosen=chosen)
    if not (paid.is_here or lots.lots or found.entries or chosen.narrows or after):
        return {"part": "org_tables.html", "tables": [wallets.no_wallet(customer, paid)]}
    filters = wallets.chosen_filters(ask)
    query = {"id": org_id, "tab": "ledger", **{one.name: one.value for one in filters}}
    tables: list[Table] = [
        wallets.entries_table(found, customer, chosen, "/console/org", query, after),
        wallets.lots_table(lots, customer),
    ]
    return {"part": "org_tables.html", "tables": tables, "filters": filters, "file": _file(customer, filters)}


def _file(customer: str, filters: tuple[Filter, ...]) -> str:
    return url(f"{wallets.WALLET_PATH}.csv", id=customer, **{one.name: one.value for one in filters})


RULES: Final = {"operator": "operator's halt", "no_entitlement": "not in its plan"}


def limits(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    after = ask.text("after")
    found = standing_of(connection, org_id, ask.now_ms, after=after)
    return {"part": "org_tables.html", "tables": [_limits(found, after), _refusals(found)]}


def _limits(found: Standing, after: str) -> Table:
    rows = [
        (text_cell(one.metric), Cell(one.period or figures.UNKNOWN), _amount(one), number(one.used),
         _remaining_cell(one), time(one.resets_ms, wide=True), Cell(*_rule(one), narrow=False),
         time(one.until_ms, wide=True))
        for one in found.rows
    ]  # fmt: skip
    heads = ("Metric", "Period", "#Limit", "#Used", "#Left", "Resets, UTC", "Source", "Limit override ends, UTC")
    next_ = url("/console/org", id=found.org_id, tab="limits", after=found.next_after) if found.next_after else ""
    none = "No metric exists yet. Create the first one with `drawdown guard set`."
    first = url("/console/org", id=found.org_id, tab="limits") if after else ""
    command = f"drawdown limit show {typed(found.org_id)}"
    return Table("Limits", heads, rows, none, command, next_, _note(found), first=first)


def _note(found: Standing) -> str:
    plan = (
        f"Limits of the plan {found.plan}"
        if found.plan
        else "The organisation has no plan, so the limits of every other plan apply"
    )
    pays = "The organisation bought credit" if found.pays else "The organisation never bought credit"
    if found.halted:
        return f"The organisation is {found.halted}, so it cannot use any metric. {plan}. {pays}."
    return f"{plan}. {pays}."


def _amount(one: StandingRow) -> Cell:
    if one.period is not None and one.amount is None:
        return Cell("unlimited", "number")
    return number(one.amount)


def _remaining_cell(one: StandingRow) -> Cell:
    if one.remaining is None:
        return Cell("unlimited", "number")
    if one.remaining == 0:
        return Cell("used up", "state", "warn")
    return Cell(f"{figures.count(one.remaining)}, low", "state", "warn") if one.low else number(one.remaining)


def _rule(one: StandingRow) -> tuple[str, str]:
    """Return a rule's text and the kind of its cell.

    The rule of a limit is `limit:PLAN:PERIOD`. The rule of a limit override is `override:N`.
    """
    kind, _, more = one.rule.partition(":")
    if kind == "override":
        return f"limit override {more}", ""
    plan = more.rpartition(":")[0]
    return (RULES[kind], "") if kind in RULES else ("every other plan" if plan == "*" else f"plan {plan}", "id")


def _refusals(found: Standing) -> Table:
    rows = [
        (text_cell(one.metric), Cell(one.reason.replace("_", " ")), number(one.times), number(one.quantity, wide=True),
         Cell("blocked", "state", "warn") if one.enforced else Cell("would be in phase 3", "state"),
         time(one.last_ms, wide=True))
        for one in found.refusals
    ]  # fmt: skip
    heads = ("Metric", "Reason", "#Times", "#Quantity", "Outcome", "Last, UTC")
    none = "Drawdown did not block any use in 24 hours, and phase 3 would not have blocked any use."
    return Table("Blocked in 24 hours", heads, rows, none, f"drawdown guard check METRIC --org {quote(found.org_id)}")


FIRST_TABLE = "orgs"


def raw_rows(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    table = ask.choice("table", (FIRST_TABLE, *(name for name in tables.TABLES if name != FIRST_TABLE)))
    found = tables.raw_rows(connection, table, org_id, payer_of(connection, org_id, ask.now_ms))
    return {"part": "org_tables.html", "tables": [_raw_rows(org_id, table, found), _raw_there(org_id, table)]}


def _raw_there(org_id: str, chosen: str) -> Table:
    rows = [
        (Cell(name, href="" if name == chosen else url("/console/org", id=org_id, tab="raw", table=name)),
         Cell("shown above" if name == chosen else tables.COMMENTS[name], narrow=False))
        for name in tables.TABLES
    ]  # fmt: skip
    return Table(
        "Tables with rows of this organisation",
        ("Table", "Content"),
        rows,
        "No table exists.",
        f"drawdown org show {typed(org_id)}",
    )


def _raw_rows(org_id: str, table: str, found: tables.RawRows) -> Table:
    rows = [
        tuple(text_cell("NULL" if cell is None else cell, wide=at > 2) for at, cell in enumerate(row))
        for row in found.rows
    ]
    note = "Times are in milliseconds, and amounts in micro-credits. Drawdown cuts long texts and omits secrets"
    note += "." if found.whole else f". This table shows the last {tables.MOST_ROWS} rows by its index."
    return Table(
        table,
        found.columns,
        rows,
        "This table has no row about this organisation.",
        f"drawdown org show {typed(org_id)}",
        note=note,
    )


OTHERS: Final = {"ledger": ledger, **TABS_OF_TABLES, "limits": limits, "raw": raw_rows}
TABS: Final = ("usage", *OTHERS)


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    tab = ask.choice("tab", TABS)
    org = require_org(connection, ask.required("id"))
    paid = paid_from(connection, org.org_id, ask.now_ms)
    found = usage.read(connection, ask, org, paid) if tab == "usage" else OTHERS[tab](connection, ask)
    shown = {
        "org": org,
        "acts": acts(org, paid),
        "keeper": paid.keeper,
        "takes_credit": paid.takes_credit,
        "begins_ms": paid.begins_ms,
        "tab": tab,
        "tabs": TABS,
    }
    return {**shown, "empty": False, **found}


def acts(org: sa.Row[Any], paid: PaidFrom) -> list[Link]:
    """Return the main actions on an organisation.

    Credit goes to the wallet that pays for the organisation, if it has one.
    """
    halt = (
        act("Lift the halt", "lift", id=org.org_id)
        if org.operator_halt
        else act("Halt manually" if org.is_halted else "Halt", "halt", id=org.org_id)
    )
    billing = Link("Billing", url("/console/billing", id=org.org_id))
    runs = Link("Executions", url("/console/executions", org=org.org_id, state="any"))
    override = [act("Set org override", "org-override", org=org.org_id)]
    if org.override_halted is not None or org.override_max_concurrent is not None:
        override.append(act("End org override", "org-override", org=org.org_id, undo="yes"))
    assign = act("Assign to another provider", "assign-remote", id=org.org_id)
    grant = [act("Give credit", "grant", id=paid.customer_id)] if paid.takes_credit else []
    return [*grant, halt, *override, assign, billing, runs]


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the organisation's ledger, for the days that the page shows."""
    require_org(connection, ask.required("id"))
    return usage.csv_lines(connection, ask)
