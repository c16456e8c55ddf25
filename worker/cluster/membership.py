"""Register the workers of a cluster, and agree on their terms.

Guarantee: while any worker of a database is alive, all workers use one set of terms. Overlapping shards bill correctly.
Without the agreement, two clusters could do all work twice, or assign new organisations to different providers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import BUCKETS, DAY_MS, SECOND_MS

MAX_SHARDS: Final = BUCKETS
"""Shards of a tick. At most this number of jobs of each kind wait. Running jobs have the same limit."""
LIVES_S: Final = 30
"""Seconds without a heartbeat after which a worker counts as dead.

Other workers then take over its jobs.
"""
KEPT_S: Final = DAY_MS // SECOND_MS
"""Seconds for which a dead worker stays in the list."""
SHARDS: Final = 4
"""Shards, unless the first worker sets another number."""
EVERY_S: Final = 300
"""Seconds between ticks, unless the first worker sets another number."""
MOST_NAMED: Final = 3
"""Workers that an error names."""
SQL = queries(__file__)


NOBODY: Final = "none"
"""The value of `--new-org-provider` that leaves new organisations unassigned."""


@dataclass(frozen=True)
class Terms:
    """The terms of all workers of a database.

    `shards`: the number of parts of a tick. `every_s`: seconds between two ticks. `new_org_provider`: the provider of
    new organisations (None: they stay unassigned). `providers`: the providers that each worker can use. A worker
    without the settings of a provider would leave its pushes to other workers.
    """

    shards: int
    every_s: int
    new_org_provider: str | None
    providers: tuple[str, ...]


@dataclass(frozen=True)
class RequestedTerms:
    """The terms that a worker was started with. None: use the agreed term."""

    shards: int | None
    every_s: int | None
    new_org_provider: str | None
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """A worker: its unique name, and the version of its program."""

    name: str
    version: str


@dataclass(frozen=True)
class Membership:
    """The terms to use, and the number of living workers, including this one."""

    terms: Terms
    living: int


def take_part(connection: sa.Connection, member: Member, wanted: RequestedTerms) -> Membership:
    """Register a worker, or renew its registration, and return the terms.

    A worker calls this function repeatedly. Errors: Refused if living workers use different terms, or terms of another
    version of Drawdown.
    """
    found = SQL.run(connection, "hold_agreed").scalar_one()
    others = list(SQL.run(connection, "others", {"name": member.name, "lives_s": LIVES_S}).scalars())
    terms = decide(wanted, _terms(found, others), others)
    SQL.run(connection, "agree", {"terms": json.dumps(asdict(terms), sort_keys=True)})
    SQL.run(connection, "note_worker", asdict(member))
    SQL.run(connection, "forget_gone", {"kept_s": KEPT_S})
    return Membership(terms, 1 + len(others))


def decide(wanted: RequestedTerms, agreed: Terms | None, others: Sequence[str]) -> Terms:
    """Return the terms to use: those of other living workers, or else `wanted`.

    Errors: Refused if `wanted` differs from the terms of other living workers.
    """
    shards, every_s = (agreed.shards, agreed.every_s) if agreed is not None else (SHARDS, EVERY_S)
    asked = Terms(
        shards=shards if wanted.shards is None else wanted.shards,
        every_s=every_s if wanted.every_s is None else wanted.every_s,
        new_org_provider=_new_orgs(wanted.new_org_provider, agreed),
        providers=tuple(sorted(wanted.providers)),
    )
    if agreed is None or not others or asked == agreed:
        return asked
    theirs, ours = asdict(agreed), asdict(asked)
    differ = "; ".join(f"{name}: {_format_value(theirs[name])} there, {_format_value(ours[name])} here"
                       for name in theirs if theirs[name] != ours[name])  # fmt: skip
    more = "" if len(others) <= MOST_NAMED else f" and {len(others) - MOST_NAMED:,} more"
    raise Refused(
        f"other workers of this database ({', '.join(others[:MOST_NAMED])}{more}) have different terms: {differ}. Use "
        f"the same terms, or end these workers first. A killed worker counts as live for another {LIVES_S} s"
    )


def _new_orgs(wanted: str | None, agreed: Terms | None) -> str | None:
    """Return the provider of new organisations; None: they are not assigned.

    `wanted`: None stands for the agreed provider, and `none` leaves organisations unassigned.
    """
    if wanted is None:
        return None if agreed is None else agreed.new_org_provider
    return None if wanted == NOBODY else wanted


def _terms(text: str | None, others: Sequence[str]) -> Terms | None:
    """Return the agreed terms; None if the workers must agree again.

    Terms of another version of Drawdown may have different fields. They stay in force while a worker of that version is
    alive.

    Errors: Refused while such a worker is alive.
    """
    if text is None:
        return None
    found = json.loads(text)
    if found.keys() != {field.name for field in fields(Terms)}:
        if not others:
            return None
        raise Refused(
            f"other workers of this database ({', '.join(others[:MOST_NAMED])}) have terms of another version of "
            "Drawdown. Install their version here, or end these workers first"
        )
    return Terms(**{**found, "providers": tuple(found["providers"])})


def _format_value(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple | list) else str(value or "none")


class Book:
    """A writer of one worker's state, with one transaction for each change."""

    def __init__(self, engine: sa.Engine, member: Member) -> None:
        self._engine, self._name = engine, {"name": member.name}

    def note_done(self) -> None:
        write(self._engine, lambda c: SQL.run(c, "note_done", self._name))

    def failed(self, text: str) -> None:
        write(self._engine, lambda c: SQL.run(c, "note_failed", {**self._name, "failure": text}))

    def leave(self) -> None:
        write(self._engine, lambda c: SQL.run(c, "leave", self._name))

    def forget_schedules(self) -> None:
        write(self._engine, lambda c: SQL.run(c, "forget_schedules", {"kept_s": 2 * KEPT_S}))
