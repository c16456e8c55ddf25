"""Show all organisations by page, filtered by the address, or as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.request_params import Ask
from drawdown.worker.orgs.lists import STATES, OrgFilter, Place, every_org, list_orgs, providers_and_plans
from drawdown.worker.verdict.watch_state import WATCHED_FOR_MS, last_round_ms

COLUMNS: Final = (
    "org_id", "provider", "plan", "state", "since", "why", "runs_out", "running", "limit", "left_now", "used_a_minute",
)  # fmt: skip
PAGE_ROWS: Final = 50
WITHIN: Final[Mapping[str, int]] = {
    "": 0, "1h": 60 * MINUTE_MS, "6h": 360 * MINUTE_MS, "24h": DAY_MS, "7d": 7 * DAY_MS,
}  # fmt: skip
"""Choices of a time in milliseconds within which an organisation's credit ends.

The list is then sorted by this time. '' selects all organisations, sorted by id.
"""
FILTERS: Final = ("search", "state", "provider", "plan", "within")
"""Parameters of the address that filter the list."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen, sort = _chosen(connection, ask)
    after = Place(ask.text("after"), ask.whole("ends"))
    found = list_orgs(connection, chosen, ask.now_ms, sort=sort, after=after, most=PAGE_ROWS)
    providers, plans = providers_and_plans(connection)
    typed = {name: ask.query.get(name, "") for name in FILTERS}
    narrowed = {name: value for name, value in typed.items() if value}
    watch_ms = last_round_ms(connection) if typed["within"] else ask.now_ms
    return {
        "orgs": found.orgs,
        "chosen": typed,
        "narrowed": narrowed,
        "after": after.org_id,
        "following": found.following,
        "states": ("", *STATES),
        "within": tuple(WITHIN),
        "watch_ms": watch_ms,
        "unwatched": watch_ms is None or ask.now_ms - watch_ms > WATCHED_FOR_MS,
        "providers": providers,
        "plans": sorted({*plans, *filter(None, [chosen.plan])}),
        "empty": not found.orgs and not narrowed and not after.org_id,
    }


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the organisations of the filter as lines of CSV.

    Amounts are plain credits, and times are in UTC.
    """
    chosen, sort = _chosen(connection, ask)
    yield csv_line(COLUMNS)
    for org in every_org(connection, chosen, ask.now_ms, sort):
        since = None if org.since_ms is None else figures.iso(org.since_ms)
        ends = None if org.runs_out_ms is None else figures.iso(org.runs_out_ms)
        texts = (org.org_id, org.billing_provider, org.plan, org.state, since, org.why, ends)
        amounts = (figures.plain(org.left_now_micro), figures.plain(org.used_a_minute_micro))
        yield csv_line(texts, (org.running, org.max_concurrent_sandboxes, *amounts))


def _chosen(connection: sa.Connection, ask: Ask) -> tuple[OrgFilter, str]:
    """Return the filter and the order of the list.

    Errors: UsageError; UnknownId for a provider.
    """
    if provider := ask.text("provider"):
        ids.require(connection, ids.PROVIDER, provider)
    within, state = ask.choice("within", tuple(WITHIN)), ask.choice("state", ("", *STATES))
    ends_by_ms = ask.now_ms + WITHIN[within] if within else None
    chosen = OrgFilter(provider, ask.text("plan"), ask.text("search"), state, ends_by_ms)
    return chosen, "end" if within else "name"
