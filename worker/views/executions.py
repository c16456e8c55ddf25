"""Runs, and what an organisation's wallet has: reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger.runs.reservations import Reservation
from drawdown.schema import ids
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class RunFilter:
    """Which runs: in these states; of an organisation, a project, a subject, an action; paid for by a customer;
    accepted at that time or before. Empty: any."""

    states: tuple[str, ...]
    org: str = ""
    project: str = ""
    subject: str = ""
    action: str = ""
    payer: str = ""
    accepted_by_ms: int = 2**53


@dataclass(frozen=True)
class RunEntry:
    """What a run drew at a time: micro-credits, of a feature's quantity where it was given so."""

    key: str
    at_ms: int
    amount_micro: int
    feature: str | None
    quantity: int | None
    actor: str
    reason: str


def list_runs(connection: sa.Connection, chosen: RunFilter, now_ms: int, most: int) -> list[Reservation]:
    """The newest first. Errors: UnknownId for an organisation or a label that no run has. To whom no names are told
    there are just no such runs: whether another organisation has that label is not for it to know."""
    labels = ((ids.PROJECT, chosen.project), (ids.SUBJECT, chosen.subject), (ids.ACT, chosen.action))
    for kind, name in ((ids.CUSTOMER, chosen.org), (ids.CUSTOMER, chosen.payer), *labels):
        if name and ids.tells_names(connection):
            ids.require(connection, kind, name)
    kept = {*chosen.states, *(("held",) if "expired" in chosen.states else ())}
    values = {**vars(chosen), "states": list(chosen.states), "kept": sorted(kept), "now_ms": now_ms, "at_most": most}
    rows = SQL.run(connection, "list", values)
    return [Reservation(**row._mapping) for row in rows]


def org_of_run(connection: sa.Connection, key: str) -> str | None:
    """Whose run it is, for good; None where there is none."""
    org: str | None = SQL.run(connection, "org", {"reservation": key}).scalar_one_or_none()
    return org


def show_run(connection: sa.Connection, key: str, now_ms: int, most: int) -> tuple[Reservation, list[RunEntry]]:
    """A run and what it drew. Errors: UnknownId."""
    ids.require(connection, ids.RUN, key)
    row = SQL.run(connection, "one", {"reservation": key, "now_ms": now_ms}).mappings().one()
    entries = SQL.run(connection, "entries", {"reservation": key, "at_most": most})
    return Reservation(**row), [RunEntry(**entry._mapping) for entry in entries]
