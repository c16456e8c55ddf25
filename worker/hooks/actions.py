"""What people say of webhooks to the operator's product: endpoints, their secrets, replays, and when a balance is low.

Guarantee: no secret lies here, or on record: an endpoint has the number of its secret, which is made from
DRAWDOWN_HOOK_SECRET. A name is for good: an endpoint that was ended never goes on. What is replayed is the message as
it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.schema import ids
from drawdown.schema.audit import By, in_turn, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.messages import BALANCE_EXHAUSTED, BALANCE_LOW, EVENTS, TEST, Message, tell_one, wanted
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.halts.addresses import origin

SQL = queries(__file__)

MAX_ENDPOINTS: Final = 16
"""That go on: each message is written for each, and each is called beside the others."""
OVERLAP_MS: Final = DAY_MS
"""For how long the old secret signs beside the new one, unless it is said."""
MOST_OVERLAP_MS: Final = 30 * DAY_MS
REPLAYED_AT_ONCE: Final = 10_000
"""Messages that one command has sent again."""
EVERYBODY: Final = ""
"""Stands where an organisation could stand."""
LEVELS: Final = {BALANCE_LOW: "low", BALANCE_EXHAUSTED: "exhausted"}


@dataclass(frozen=True)
class Endpoint:
    """Where the product listens, and for what; `generation`: of its secret."""

    name: str
    url: str
    events: tuple[str, ...]
    generation: int


@dataclass(frozen=True)
class Rotated:
    """The number of the new secret, and until when the one before signs, too."""

    generation: int
    old_until_ms: int


@dataclass(frozen=True)
class Replayed:
    """How many deliveries are due again, and how many more have failed than were taken at once."""

    replayed: int
    left: int


def set_endpoint(
    connection: sa.Connection, name: str, url: str, events: Sequence[str], by: By, *, new: bool
) -> tuple[Endpoint, Endpoint | None]:
    """Say where the product listens, and for which events (none: as before, or for all); now, and before. It is told
    what happens from now on.

    Errors: UsageError for a name or URL that is none; UnknownId for an event there is not and, unless `new`, for an
    endpoint there is not; Refused for one that was ended, and for too many.
    """
    if not is_clean_id(name):
        raise UsageError("an endpoint's name has 1 to 200 characters, none of them control characters")
    if origin(url) is None:
        raise UsageError("that is no http(s) URL of the plain form, such as https://app.example/webhooks/drawdown")
    for event in events:
        ids.require_among(ids.EVENT, event, EVENTS)
    ids.require(connection, ids.ENDPOINT, name, new=new)
    before = _endpoint(_hold(connection, name))
    if before is None:  # nothing is locked yet: whoever adds this one, or another, is waited for
        in_turn(connection)
        before = _endpoint(_hold(connection, name))
    told = wanted(connection)
    if before is None and SQL.run(connection, "going").scalar_one() >= MAX_ENDPOINTS:
        raise Refused(f"{MAX_ENDPOINTS} endpoints go on: end one first (`drawdown hook end`)")
    kept = before.events if before is not None else EVENTS
    made = Endpoint(name, url, tuple(sorted(set(events))) or kept, 1 if before is None else before.generation)
    values = {"name": name, "url": url, "events": " ".join(made.events), "now_ms": by.now_ms}
    SQL.run(connection, "set", {**values, "actor": by.actor, "reason": by.reason})
    for level in (level for event, level in LEVELS.items() if event in made.events and event not in told):
        # Nobody listened: what was low then is told by the next read that finds it so.
        SQL.run(connection, "end_episodes", {"level": level, "now_ms": by.now_ms})
    was = None if before is None else {"url": before.url, "events": before.events}
    record(connection, "hook_set", name, {"url": url, "events": made.events, "was": was}, by)
    return made, before


def rotate(connection: sa.Connection, name: str, by: By, *, overlap_ms: int = OVERLAP_MS) -> Rotated:
    """Sign by a new secret, and for `overlap_ms` by the one before, too; no older one signs any more.

    Errors: UsageError; UnknownId; Refused for an endpoint that was ended.
    """
    if not 0 <= overlap_ms <= MOST_OVERLAP_MS:
        raise UsageError("the old secret signs for 30 more days at most")
    before = _known(connection, name)
    done = Rotated(before.generation + 1, by.now_ms + overlap_ms)
    SQL.run(connection, "rotate", {"name": name, **vars(done)})
    record(connection, "hook_rotate", name, vars(done), by)
    return done


def end(connection: sa.Connection, name: str, by: By) -> int | None:
    """Tell an endpoint nothing more; how many messages it was still to be told, None where it was ended before.

    Errors: UnknownId.
    """
    row = _hold(connection, name, lock="to_end")
    if row is None:
        ids.require(connection, ids.ENDPOINT, name)
        raise Refused(f"{name} appeared this moment: try again")
    if row["ended_ms"] is not None:
        return None
    values = {"name": name, "now_ms": by.now_ms}
    SQL.run(connection, "end", values)
    left = SQL.run(connection, "give_up", values).rowcount
    record(connection, "hook_end", name, {"untold": left}, by)
    return left


def replay(connection: sa.Connection, message_id: str, by: By, *, endpoint: str = "") -> list[str]:
    """Send a message again, to all endpoints it was for or to one; to which. Its schedule begins anew.

    Errors: UnknownId; Refused where none of its endpoints goes on.
    """
    ids.require(connection, ids.MESSAGE, message_id)
    if endpoint:
        _known(connection, endpoint)
    values = {"message_id": message_id, "endpoint": endpoint}
    sent_to = list(SQL.run(connection, "going_on_of", values).scalars())
    if not sent_to:
        raise Refused(
            f"{message_id} was for no endpoint that goes on: `drawdown hook show {message_id}` shows for which"
        )
    SQL.run(connection, "replay", {"message_id": message_id, "endpoints": sent_to, "now_ms": by.now_ms})
    record(connection, "hook_replay", message_id, {"endpoints": sent_to}, by)
    return sent_to


def replay_failed(connection: sa.Connection, endpoint: str, by: By) -> Replayed:
    """Send again all that an endpoint failed to take, the oldest first. Errors: UnknownId; Refused for one that was
    ended."""
    _known(connection, endpoint)
    values = {"endpoint": endpoint, "now_ms": by.now_ms, "at_most": REPLAYED_AT_ONCE}
    replayed = SQL.run(connection, "replay_failed", values).rowcount
    done = Replayed(replayed, int(SQL.run(connection, "failed", {"endpoint": endpoint}).scalar_one()))
    record(connection, "hook_replay_failed", endpoint, vars(done), by)
    return done


def try_endpoint(connection: sa.Connection, name: str, by: By) -> str:
    """Have an endpoint told that a person tries it; the message's id. Errors: UnknownId; Refused where it was ended."""
    _known(connection, name)
    message = Message(TEST, f"{TEST}:{name}:{by.now_ms}", by.now_ms, {"endpoint": name})
    tell_one(connection, message, name)
    record(connection, "hook_test", name, {"message_id": message.message_id}, by)
    return message.message_id


def set_low(
    connection: sa.Connection, org_id: str, low_micro: int | None, by: By, *, new: bool = False
) -> tuple[bool, int | None]:
    """Say at or below which balance an organisation's is low, or that of all who have no level of their own; None:
    never. Whether there was a level, and which. Errors: UsageError; UnknownId, unless `new`."""
    if low_micro is not None and abs(low_micro) > MAX_ENTRY_MICRO:
        raise UsageError("a level lies within a thousand million credits")
    if org_id != EVERYBODY:
        ids.require(connection, ids.ORG, org_id, new=new)
    row = SQL.run(connection, "level", {"org_id": org_id}).one_or_none()
    was = None if row is None else row.low_micro
    values = {"org_id": org_id, "low_micro": low_micro, "now_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "set_level", values)
    record(connection, "hook_low", org_id or "all", {"low_micro": low_micro, "was": was}, by)
    return row is not None, was


def _hold(connection: sa.Connection, name: str, lock: str = "to_change") -> sa.RowMapping | None:
    return SQL.run(connection, "hold", {"name": name}, lock=lock).mappings().one_or_none()


def _endpoint(row: Any) -> Endpoint | None:
    """Errors: Refused for one that was ended."""
    if row is None:
        return None
    if row["ended_ms"] is not None:
        raise Refused(f"{row['name']} was ended: make another endpoint, with another name")
    return Endpoint(row["name"], row["url"], tuple(row["events"].split()), row["generation"])


def _known(connection: sa.Connection, name: str) -> Endpoint:
    """Nobody else changes it until this transaction is over. Errors: UnknownId; Refused for one that was ended."""
    found = _endpoint(_hold(connection, name))
    if found is None:
        ids.require(connection, ids.ENDPOINT, name)
        raise Refused(f"{name} appeared this moment: try again")
    return found
