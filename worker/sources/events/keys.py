"""What an event is known by, and what was taken under that before.

Guarantee: an event is that of its organisation, source and id. Whoever speaks for one organisation alone (a key that is
bound to it, a backfill) neither meets nor takes what another one has. Whoever speaks for any claims source and id for
all of them: the same for another organisation is other content. Either finds what the other took of its organisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.sql import queries
from drawdown.worker.sources.samples.made import OF_EVENTS

SQL = queries(__file__)

PREFIX: Final = OF_EVENTS
"""Begins the ids of events' samples, and what stands where the id of a sandbox stands."""


@dataclass(frozen=True)
class Stored:
    """What an event said that was taken before, as `content_of` says it, and the sample that it has."""

    sample_id: str
    content: tuple[Any, ...]
    withdrawn: bool


def sample_id_of(source: str, event_id: str, org_id: str | None = None) -> str:
    """The id of an event's sample: the same for the same key, on every host. Without an organisation it is a claim on
    source and id among all of them; with one it is the id of an event for which its organisation alone was spoken."""
    parts = (source, event_id) if org_id is None else (org_id, source, event_id)
    return PREFIX + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def content_of(event: UsageEvent) -> tuple[Any, ...]:
    """What an event says beside its key, in the order of the table."""
    return (event.event_type, event.org_id, event.quantity, event.occurred_ms, event.subject, event.project,
            event.plan_key, event.properties_json)  # fmt: skip


def is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two events of one key say the same. A CloudEvent's subject is a label to whoever is bound to an
    organisation, and to others the organisation itself: one that is the organisation says nothing more."""
    return _meant(one) == _meant(other)


def _meant(content: tuple[Any, ...]) -> tuple[Any, ...]:
    event_type, org_id, quantity, ts, subject, *rest = content
    return (event_type, org_id, quantity, ts, None if subject == org_id else subject, *rest)


def keyed(names: Sequence[str], events: Sequence[UsageEvent], *, own: bool) -> list[dict[str, str]]:
    """Each event by all that it may have been taken under: its sample's id (its name), that of the other way to send
    it, and its key."""
    return [
        {
            "sample_id": name,
            "other_id": sample_id_of(event.source, event.event_id, None if own else event.org_id),
            "source": event.source,
            "event_id": event.event_id,
            "org_id": event.org_id,
        }
        for name, event in zip(names, events, strict=True)
    ]


def stored(connection: sa.Connection, asked: Sequence[dict[str, str]]) -> dict[tuple[str, str], Stored]:
    """What was taken under the keys of events, by their names and organisations: first of their own organisation, then
    of whichever claimed source and id."""
    if not asked:
        return {}
    found: dict[tuple[str, str], Stored] = {}
    for row in SQL.run(connection, "stored", {"keys": asked}):  # the own one comes last
        said = Stored(str(row.sample_id), tuple(row)[4:-1], bool(row.withdrawn))
        found[str(row.name), str(row.asker)] = said
    return found


def withdrawn(connection: sa.Connection, asked: Sequence[dict[str, str]]) -> set[str]:
    """The names of those that were withdrawn, also if they were pruned since."""
    return set(SQL.run(connection, "withdrawn", {"keys": asked}).scalars()) if asked else set()
