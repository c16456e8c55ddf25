"""All organisations: a page at a time, narrowed by what the address says, and the same as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.worker.verdict.watch_state import WATCHED_FOR_MS, last_round_ms
from drawdown.worker.views import org_list
from drawdown.worker.views.org_list import STATES, WITHIN, Chosen, Place

COLUMNS: Final = (
    "org_id", "provider", "plan", "state", "since", "why", "runs_out", "running", "limit", "left_now", "used_a_minute",
)  # fmt: skip


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    after = Place(ask.text("after"), ask.whole("ends") or 0)
    found = org_list.page(connection, chosen, ask.now_ms, after)
    providers, plans = org_list.providers_and_plans(connection)
    narrowed = {name: value for name, value in vars(chosen).items() if value}
    watch_ms = last_round_ms(connection) if chosen.within else ask.now_ms
    return {
        "orgs": found.lines,
        "chosen": chosen,
        "narrowed": narrowed,
        "after": after.org_id,
        "following": found.following,
        "states": STATES,
        "within": tuple(WITHIN),
        "watch_ms": watch_ms,
        "unwatched": watch_ms is None or ask.now_ms - watch_ms > WATCHED_FOR_MS,
        "providers": providers,
        "plans": sorted({*plans, *filter(None, [chosen.plan])}),
        "empty": not found.lines and not narrowed and not after.org_id,
    }


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly those of the filter: plain decimals, UTC."""
    chosen = _chosen(ask)
    yield csv_line(COLUMNS)
    for org in org_list.every(connection, chosen, ask.now_ms):
        since = None if org.since_ms is None else figures.iso(org.since_ms)
        ends = None if org.runs_out_ms is None else figures.iso(org.runs_out_ms)
        texts = (org.org_id, org.provider, org.plan, org.state, since, org.why, ends)
        amounts = (figures.plain(org.left_now_micro), figures.plain(org.used_a_minute_micro))
        yield csv_line(texts, (org.running, org.limit, *amounts))


def _chosen(ask: Ask) -> Chosen:
    within = ask.choice("within", tuple(WITHIN))
    return Chosen(ask.choice("state", STATES), ask.text("provider"), ask.text("plan"), ask.text("search"), within)
