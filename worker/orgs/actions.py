"""Changes of an organisation by a person: registered, halted, overridden.

Guarantee: an operator's override wins over any provider's verdict at once, whether or not a provider can be asked. It
is on record with actor and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record, record_many, require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import queries
from drawdown.schema.units import MAX_ID_CHARS
from drawdown.worker.verdict.asks import mark_for_projection
from drawdown.worker.verdict.org_row import apply_now, lock_rows

SQL = queries(__file__)
MAX_HALTED: Final = 10_000
"""Organisations that one command halts, in one transaction."""


def register(connection: sa.Connection, org_id: str) -> None:
    """Make the organisation known.

    Errors: UsageError for an id that no sample could carry.
    """
    if not is_clean_id(org_id):
        raise UsageError(f"an organisation's id has 1 to {MAX_ID_CHARS} characters, none of them control characters")
    SQL.run(connection, "register", {"org_id": org_id, "bucket": bucket_of(org_id)})


@dataclass(frozen=True)
class Halted:
    """What an operator's halt, or the end of one, made of an organisation. `before`: whether an operator's halt held it
    already; the reason is why it is halted now, if it is."""

    org_id: str
    before: bool
    was_halted: bool
    is_halted: bool
    halt_reason: str | None


def halt(connection: sa.Connection, org_ids: Sequence[str], by: By, *, undo: bool = False) -> list[Halted]:
    """Halt organisations at once, or undo the operator's halt (then the provider's verdict counts again), in one
    transaction. One answer for each, in order.

    Errors: UnknownId, for all of them, where one is; UsageError for more than MAX_HALTED.
    """
    if len(org_ids) > MAX_HALTED:
        raise UsageError(f"these are {len(org_ids):,} organisations: at most {MAX_HALTED:,} are halted at once")
    action = "org_halt_lift" if undo else "org_halt"
    before = {org: require_org(connection, org) for org in sorted(set(org_ids))}
    done = [(org, {"was_halted": bool(row.is_halted)}) for org, row in before.items()]
    record_many(connection, action, done, by)
    SQL.run(connection, "set_operator_halt", {"operator_halt": not undo, "orgs": [{"org_id": org} for org in before]})
    mark_for_projection(connection, list(before), by.now_ms)
    apply_now(connection, list(before), by.now_ms)
    found = []
    for org, row in before.items():
        now = require_org(connection, org)
        found.append(Halted(org, bool(row.operator_halt), bool(row.is_halted), bool(now.is_halted), now.halt_reason))
    return found


@dataclass(frozen=True)
class Override:
    """The operator's word against the provider's: how many sandboxes at once, halted or not, until when. None: the
    provider's word counts; for the time, until it is undone."""

    max_concurrent: int | None = None
    halted: bool | None = None
    until_ms: int | None = None

    @property
    def says_something(self) -> bool:
        return self.max_concurrent is not None or self.halted is not None


@dataclass(frozen=True)
class Overridden:
    """What held before, what holds now, and how the organisation stands by it."""

    org_id: str
    was: Override
    now: Override
    is_halted: bool
    max_concurrent_sandboxes: int | None


def override(
    connection: sa.Connection,
    org_id: str,
    by: By,
    *,
    max_concurrent: int | None = None,
    halted: bool | None = None,
    until_ms: int | None = None,
) -> Overridden:
    """Let the operator's word win over the provider's, until a time or until it is undone. What is not named (None)
    stays as it was said before.

    Errors: UnknownId; UsageError for nothing said, a limit below zero or an end in the past.
    """
    if max_concurrent is not None and max_concurrent < 0:
        raise UsageError("--max-concurrent is zero or more")
    if until_ms is not None and until_ms <= by.now_ms:
        raise UsageError("--until lies in the past")
    was = _override_of(connection, org_id, by.now_ms)
    now = Override(
        was.max_concurrent if max_concurrent is None else max_concurrent,
        was.halted if halted is None else halted,
        was.until_ms if until_ms is None else until_ms,
    )
    if not now.says_something:
        raise UsageError(f"{org_id} has no override whose end --until could set: give --max-concurrent or --never-halt")
    return _say(connection, org_id, was, now, by)


def end_override(connection: sa.Connection, org_id: str, by: By) -> Overridden:
    """Undo all that an override says: the provider's word counts again. Errors: UnknownId."""
    return _say(connection, org_id, _override_of(connection, org_id, by.now_ms), Override(), by)


def _override_of(connection: sa.Connection, org_id: str, now_ms: int) -> Override:
    """What holds, kept from whoever else would change it meanwhile; one that has run out holds no longer."""
    require_org(connection, org_id)
    (row,) = lock_rows(connection, [org_id])
    if row.override_until_ms is not None and row.override_until_ms <= now_ms:
        return Override()
    return Override(row.override_max_concurrent, row.override_halted, row.override_until_ms)


def _say(connection: sa.Connection, org_id: str, was: Override, now: Override, by: By) -> Overridden:
    from drawdown.schema.tables.orgs import orgs  # here: with it comes PostgreSQL's dialect, also for SQLite

    connection.execute(
        orgs.update()
        .where(orgs.c.org_id == org_id)
        .values(override_max_concurrent=now.max_concurrent, override_halted=now.halted, override_until_ms=now.until_ms)
    )
    mark_for_projection(connection, [org_id], by.now_ms)
    apply_now(connection, [org_id], by.now_ms)
    details = {**asdict(now), "was": asdict(was)}
    record(connection, "org_override", org_id, details, by)
    org = require_org(connection, org_id)
    return Overridden(org_id, was, now, bool(org.is_halted), org.max_concurrent_sandboxes)
