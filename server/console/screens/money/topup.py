"""One top-up: what was charged for it, and each call that may have taken money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import cells
from drawdown.server.console.screens.money.billing_terms import pause
from drawdown.worker.topup.lists import Call, TopupRow, show_topup
from drawdown.worker.wallets.lists import terms_of

PATH: Final = "/console/topup"
MOST_CALLS: Final = 100


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    topup = ask.key("id") or ask.required("id")
    found, calls = show_topup(connection, topup, MOST_CALLS)
    command = cells.command("topup", "show", topup)
    return shown(
        Shown(
            PATH,
            [Table("The top-up", ("What", "As it is"), _facts(found), "", command), _calls(calls, command)],
            acts=pause(terms_of(connection, found.customer_id, found.customer_id), found.customer_id),
            query={"id": topup},
            above=Link(f"Billing of {found.customer_id}", url("/console/billing", id=found.customer_id)),
            heading=topup,
        )
    )


def _facts(one: TopupRow) -> list[tuple[Cell, Cell]]:
    resolve = cells.resolve(one.topup, one.state)
    state = Cell(one.state, "state", cells.TOPUP_TONES.get(one.state, ""), links=resolve)
    return [
        (Cell("State"), state),
        (Cell("Wallet"), cells.wallet(one.customer_id)),
        (Cell("Credits"), Cell(figures.exact(one.credits_micro))),
        (Cell("Money"), Cell(cells.money(one.money_minor, one.currency))),
        (Cell("Payment service"), Cell(one.service, "id")),
        (Cell("Payment"), Cell(one.payment_id or figures.UNKNOWN, "id")),
        (Cell("Begun, UTC"), cells.time(one.at_ms)),
        (Cell("Ended, UTC"), cells.time(one.ended_ms)),
        (Cell("Calls, and lookups"), Cell(f"{one.attempts:,}, and {one.lookups:,}")),
        (Cell("Said last"), Cell(one.evidence or one.answer or figures.UNKNOWN, "id")),
    ]


def _calls(calls: list[Call], command: str) -> Table:
    rows = [
        (
            cells.count(one.attempt),
            cells.time(one.started_ms),
            cells.time(one.finished_ms, narrow=False),
            Cell(one.outcome, "") if one.outcome else Cell("unknown", "state", "bad"),
            Cell(one.detail or figures.UNKNOWN, "id", narrow=False),
        )
        for one in calls
    ]
    heads = ("#Call", "Begun, UTC", "Ended, UTC", "Answer", "Detail")
    return Table("Calls that may have taken money", heads, rows, "It was not called yet: the next tick does.", command)
