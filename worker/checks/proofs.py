"""Store and list runs of `verify`, and stop organisations with a breach.

Guarantee: a run is one row, which never changes. An invariant holds only by a full run of all organisations without a
breach of it, while the history is not in doubt. A run of some organisations, or a run that continues another run, can
show a breach but cannot show that an invariant holds. The same is true of a run that began before another run's breach
was stored, because it may not have seen that breach. If a person resumed an organisation since, Drawdown does not stop
it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.verify.findings import FINDINGS, INVARIANTS
from drawdown.worker.verify.incremental import APART_MS, Mark, ProvenRun
from drawdown.worker.verify.verify import Breach, Verification

SQL = queries(__file__)

WHOLE_EACH_MS: Final = 7 * DAY_MS - DAY_MS // 4
"""Age of the last full run, in milliseconds, from which `verify --since-last` makes a full run.

If you run `verify --since-last` each night, every seventh run is a full run.
"""


def to_continue(connection: sa.Connection, now_ms: int) -> ProvenRun | None:
    """Return the run that the next run may continue; None: a full run is needed."""
    values = {"now_ms": now_ms, "apart_ms": APART_MS, "whole_after_ms": now_ms - WHOLE_EACH_MS}
    row = SQL.run(connection, "to_continue", values).one_or_none()
    return None if row is None else ProvenRun(row.number, row.at_ms, Mark(row.proven_to_ms, row.arrival))


def keep(
    connection: sa.Connection, found: Verification, by: By, *, took_ms: int = 0, orgs: int | None = None,
    doubted: str | None = None,
) -> int:  # fmt: skip
    """Store the result of a run, and return its number.

    `took_ms`: the duration of the run. `orgs`: the number of checked organisations; None: all. `doubted`: the reason
    for which history may be lost, or None.
    """
    values = {
        "at_ms": by.now_ms,
        "took_ms": took_ms,
        "orgs": orgs,
        "breaches": found.count,
        "by_invariant": json.dumps({str(one): count for one, count in sorted(found.by_invariant.items())}),
        "checked": json.dumps(found.checked),
        "open": json.dumps(found.open),
        "newest_action": found.newest_action,
        "doubted": doubted,
        "actor": by.actor,
        "reason": by.reason,
        **_reach(found),
    }
    SQL.run(connection, "in_turn")
    number = int(SQL.run(connection, "add", values).scalar_one())
    proves = orgs is None and doubted is None and found.point is None
    rows = [
        {
            "invariant": one,
            "held_by": number if proves and not found.by_invariant[one] else None,
            "broken_by": number if found.by_invariant[one] else None,
        }
        for one in INVARIANTS
    ]
    SQL.run(connection, "stand", {"found": rows, "saw_run": found.before.run})
    return number


def _reach(found: Verification) -> dict[str, int | None]:
    """Return the columns of a run's start and of its proven end."""
    return {
        "follows": None if found.point is None else found.point.run,
        "from_ms": None if found.point is None else found.point.window_ms,
        "proven_to_ms": None if found.mark is None else found.mark.window_ms,
        "arrival": None if found.mark is None else found.mark.arrival,
    }


WHOLE_LATE_MS: Final = 9 * DAY_MS
"""Age in milliseconds from which the last full run is late. A full run is due once a week."""


@dataclass(frozen=True)
class Invariant:
    """An invariant, with its last runs.

    `findings`: the number of kinds of breach that are checked. `says`: its meaning in short. `held_by`: the last run by
    which it held; None: not on record. `broken_by`: the last run with a breach; None: not on record. `breaches`: the
    number of breaches in the run `broken_by`. `rows`: the rows that the run `held_by` checked, by kind.
    """

    invariant: int
    name: str
    says: str
    findings: int
    held_by: int | None
    held_ms: int | None
    rows: dict[str, int]
    broken_by: int | None
    broken_ms: int | None
    breaches: int

    @property
    def holds(self) -> bool | None:
        """Return True if `held_by` is newer than `broken_by`; None: neither is on record."""
        if self.held_by is None and self.broken_by is None:
            return None
        return (self.held_by or 0) > (self.broken_by or 0)


@dataclass(frozen=True)
class Run:
    """A run of `verify`.

    `orgs`: the number of checked organisations; None: all. `by_invariant`: the number of breaches by invariant.
    `checked`: the number of checked rows by kind. `open`: the counts of open items. `newest_action`: the hash of the
    newest action. `doubted`: the reason for which history may be lost, so that the run does not prove the invariants
    (None: the history is complete). `follows`: the run that it continued, from the window `from_ms` on; None: it was a
    full run.
    """

    number: int
    at_ms: int
    took_ms: int
    orgs: int | None
    breaches: int
    by_invariant: dict[int, int]
    checked: dict[str, int]
    open: dict[str, int]
    newest_action: str
    doubted: str | None
    actor: str
    reason: str
    follows: int | None
    from_ms: int | None

    @property
    def open_items(self) -> dict[str, int]:
        """Return the counts of open items that are not zero."""
        return {name: count for name, count in self.open.items() if count}


@dataclass(frozen=True)
class RunsPage:
    """A page of runs, newest first.

    `next_before`: the start of the next page; None: this is the last page.
    """

    runs: list[Run]
    next_before: int | None


@dataclass(frozen=True)
class Last:
    """The times at which all invariants last held.

    `whole_ms`: the time by a full run. `continued_ms`: the time by a run that continued another. None: never.
    """

    whole_ms: int | None
    continued_ms: int | None


def last_held(connection: sa.Connection, now_ms: int) -> Last:
    """Return when all invariants last held.

    Only runs of all organisations count, on a history that is not in doubt.
    """
    return Last(**SQL.run(connection, "last", {"now_ms": now_ms}).one()._mapping)


def standing(connection: sa.Connection) -> list[Invariant]:
    """Return the state of each invariant, including unchecked invariants."""
    there = {row.invariant: row for row in SQL.run(connection, "standing")}
    found = []
    for number, (name, says) in INVARIANTS.items():
        row, ways = there.get(number), sum(invariant == number for invariant, _ in FINDINGS.values())
        if row is None:
            found.append(Invariant(number, name, says, ways, None, None, {}, None, None, 0))
            continue
        breaches = 0 if row.by_invariant is None else int(json.loads(row.by_invariant).get(str(number), 0))
        rows = {} if row.checked is None else json.loads(row.checked)
        found.append(
            Invariant(number, name, says, ways, row.held_by, row.held_ms, rows, row.broken_by, row.broken_ms, breaches)
        )
    return found


def list_runs(connection: sa.Connection, *, before: int = 0, most: int = 20) -> RunsPage:
    """Return the results of runs, newest first."""
    rows = [_run(row._mapping) for row in SQL.run(connection, "runs", {"before": before, "at_most": most + 1})]
    return RunsPage(rows[:most], rows[most - 1].number if len(rows) > most else None)


def _run(row: sa.RowMapping) -> Run:
    by_invariant = {int(one): int(count) for one, count in json.loads(row["by_invariant"]).items()}
    decoded = {name: json.loads(row[name]) for name in ("checked", "open")}
    return Run(**{**row, "by_invariant": by_invariant, **decoded})


def stop_breached(connection: sa.Connection, verification: Verification, now_ms: int, actor: str) -> list[str]:
    """Stop each organisation with a breach; return those that were running.

    An organisation that a person resumed after the run began is left out. Its breach may be fixed, and the next run
    shows whether it is.

    Make this the first statement of the transaction. Then a seal that is under way ends first, and the transaction
    reads the watermarks that the seal stored.
    """
    lock_buckets(connection)
    resumed = set(SQL.run(connection, "resumed_since", {"action": verification.before.action}).scalars())
    return [
        org_id
        for org_id, breach in sorted(verification.first.items())
        if org_id not in resumed
        and stop_org(connection, org_id=org_id, reason=_reason(breach), now_ms=now_ms, actor=actor)
    ]


def _reason(breach: Breach) -> str:
    where = "".join(f", {name} {value}" for name, value in _where(breach) if value is not None)
    return f"verify: invariant {breach.invariant}{where}: {breach.text}"


def _where(breach: Breach) -> tuple[tuple[str, object], ...]:
    return (("window", breach.window_ms), ("feature", breach.feature))
