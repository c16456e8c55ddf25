"""All organisations: a page at a time, narrowed by what the address says, and the same as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.worker.views import org_list
from drawdown.worker.views.org_list import STATES, Chosen

COLUMNS: Final = ("org_id", "provider", "plan", "state", "since", "why", "running", "limit", "balance")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    found = org_list.page(connection, chosen, ask.now_ms, ask.text("after"))
    providers, plans = org_list.providers_and_plans(connection)
    narrowed = {name: value for name, value in vars(chosen).items() if value}
    return {
        "orgs": found.lines,
        "chosen": chosen,
        "narrowed": narrowed,
        "after": ask.text("after"),
        "next_after": found.next_after,
        "states": STATES,
        "providers": providers,
        "plans": plans,
        "empty": not found.lines and not narrowed and not ask.text("after"),
    }


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly those of the filter: plain decimals, UTC."""
    chosen = _chosen(ask)
    yield csv_line(COLUMNS)
    for org in org_list.every(connection, chosen, ask.now_ms):
        since = None if org.since_ms is None else figures.iso(org.since_ms)
        texts = (org.org_id, org.provider, org.plan, org.state, since, org.why)
        yield csv_line(texts, (org.running, org.limit, figures.plain(org.balance_micro)))


def _chosen(ask: Ask) -> Chosen:
    return Chosen(ask.choice("state", STATES), ask.text("provider"), ask.text("plan"), ask.text("search"))
