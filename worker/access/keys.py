"""Create, rotate, end, list and check the API keys of programs.

Guarantee: a key is never stored, logged or recorded; only its SHA-256 is stored. A key has 256 random bits, so it does
not need the slow hash that protects a password. A check reads one row by the hash. The time of that lookup does not
help an attacker, because an attacker cannot choose the hash of a guess. The rights of a key never change. A name
belongs to one program for good, because it is the actor of that program's actions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    CREDITS,
    FLAG,
    ID,
    LENGTH,
    ORG,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    New,
    Page,
    Reach,
    Values,
)
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import Part, prepared, queries, read_together
from drawdown.schema.text import quote_value, typed
from drawdown.schema.typed.parsing import lasting, show_credits, show_time
from drawdown.schema.units import DAY_MS, MAX_AMOUNT_MICRO

SQL = queries(__file__)

SCOPES: Final = (
    "catalog:read", "catalog:write", "events:read", "events:write", "executions:read", "executions:write", "guard",
    "guard:write", "hooks:read", "hooks:write", "jobs:read", "jobs:write", "keys:read", "keys:write", "ledger:read",
    "ledger:write", "orgs:read", "orgs:write", "samples:write", "settlements:read", "settlements:write", "usage:read",
    "usage:write",
)  # fmt: skip
"""The scopes of API keys. A route that takes an API key requires one of them."""
EVENTS: Final = "events:write"
SAMPLES: Final = "samples:write"
WITH_IDS: Final = frozenset({EVENTS, SAMPLES})
"""Scopes for items with ids that the sender chooses."""
PREFIX: Final = "ddk_"
"""Prefix of each key, so that scanners of source code can find leaked keys."""
ACTOR: Final = "key"
"""The prefix of the actor of a key's actions. A colon and the key's name follow."""
KEY: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
"""The form of a key. Any other text is refused without a read of the database."""
OVERLAP_MS: Final = DAY_MS
"""Default time for which a rotated API key still works, in milliseconds."""
MOST_OVERLAP_MS: Final = 30 * DAY_MS
"""Longest time for which a rotated API key still works, in milliseconds."""
MOST_OF_A_NAME: Final = 1_000
"""API keys of one name, over all rotations.

Drawdown never deletes a key's row, so that a key is never reused.
"""
MOST_LIFE_MS: Final = 3_650 * DAY_MS
"""Longest lifetime of an API key, in milliseconds."""
LEAST_LIFE_MS: Final = 60_000
"""Shortest lifetime of an API key, in milliseconds."""
USED_EVERY_MS: Final = 60_000
"""Interval between two writes of a key's last use, in milliseconds."""


@dataclass(frozen=True)
class ApiKey:
    """An API key with its rights.

    `org_id`, `cell_id`, `source`: the organisation, cell and source of usage to which the key is bound (None: any).
    `gives_micro`: the maximum of one grant, in micro-credits. `expires_ms`: the time when it expires, in milliseconds
    (None: it does not expire).
    """

    name: str
    scopes: tuple[str, ...]
    org_id: str | None
    used_ms: int | None = None
    """The time of its last earlier use, accurate to a minute; None: never."""
    cell_id: str | None = None
    source: str | None = None
    gives_micro: int = 0
    proof: str = field(default="", repr=False, compare=False)
    """The SHA-256 of the key, by which the key can be read again."""
    expires_ms: int | None = field(default=None, compare=False)
    recalled: bool = field(default=False, compare=False)
    """True if this object comes from a cache.

    A transaction must then read the key again (`Programs.identify`).
    """

    @property
    def actor(self) -> str:
        """Return the actor of all actions by this key."""
        return f"{ACTOR}:{self.name}"


@dataclass(frozen=True)
class Rotated:
    """The new key of a rotation, and the times when both keys expire.

    `expires_ms`: the time when the new key expires (None: it does not expire). `old_until_ms`: the time until which the
    old key works.
    """

    key: ApiKey
    expires_ms: int | None
    old_until_ms: int


def hash_of(key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal, which Drawdown stores."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_all(connection: sa.Connection, proofs: Collection[str], now_ms: int) -> Mapping[str, ApiKey]:
    """Return the valid keys with these hashes, by hash.

    Unknown, expired and ended keys are omitted.
    """
    with prepared(connection):
        read = read_together(connection, keys=finding(proofs, now_ms))
    return index_keys(read["keys"])


def finding(proofs: Collection[str], now_ms: int) -> Part:
    """Return the query of the valid keys with these hashes.

    `index_keys` reads its rows.
    """
    return SQL.part("find", {"proofs": sorted(set(proofs)), "now_ms": now_ms})


def index_keys(rows: Iterable[Any]) -> Mapping[str, ApiKey]:
    """Return the keys from the rows of `finding`, by hash."""
    return {
        row.key_sha256: ApiKey(
            row.name,
            tuple(row.scopes.split()),
            row.org_id,
            row.used_ms,
            row.cell_id,
            row.source,
            row.gives_micro,
            row.key_sha256,
            row.expires_ms,
        )
        for row in rows
    }


def note_use(connection: sa.Connection, key: str, now_ms: int) -> ApiKey | None:
    """Record that a key is used now, at most once a minute.

    Return the key as stored; None if it is unknown, expired or ended.
    """
    proof = hash_of(key)
    SQL.run(connection, "note_use", {"key_sha256": proof, "now_ms": now_ms, "since_ms": now_ms - USED_EVERY_MS})
    return find_all(connection, [proof], now_ms).get(proof)


def create(
    connection: sa.Connection,
    key: str,
    name: str,
    scopes: Collection[str],
    by: By,
    *,
    org_id: str | None = None,
    cell_id: str | None = None,
    source: str | None = None,
    gives_micro: int = 0,
    for_ms: int | None = None,
    new: bool = False,
    any_source: bool = False,
) -> int | None:
    """Create an API key from the secret `key`.

    Return the time when the key expires, in milliseconds; None if it does not expire.

    `any_source`: allow a key of one organisation to send events of every source, and samples with every id. The holder
    of the key can then use the ids of other producers' usage.

    Errors: UsageError for an invalid value, or if a key of one organisation lacks a source that it needs. UnknownId for
    an unknown scope, and unless `new`, for an unknown organisation or cell. Refused if another key has the name or the
    secret.
    """
    if not is_clean_id(name):
        raise UsageError(
            f"invalid key name {quote_value(name)}: expected 1 to 200 characters without control characters"
        )
    if not scopes:
        raise UsageError(f"missing scope: expected at least one of {', '.join(SCOPES)}")
    for scope in scopes:
        ids.require_among(ids.SCOPE, scope, SCOPES)
    if org_id is not None:
        ids.require(connection, ids.CUSTOMER, org_id, new=new)
    if cell_id is not None:
        ids.require(connection, ids.CELL, cell_id, new=new)
    if source is not None and not is_clean_id(source):
        raise UsageError(
            f"invalid source {quote_value(source)}: expected 1 to 200 characters without control characters"
        )
    sends = sorted(WITH_IDS.intersection(scopes))
    if org_id is not None and source is None and sends and not any_source:
        what = {EVENTS: "events", SAMPLES: "samples"}[sends[0]]
        raise UsageError(
            f"a key of one organisation with the scope {sends[0]} needs --source. Without --source, the key can use "
            f"ids of your own {what}, and Drawdown then does not bill your {what}. If you trust the holder of the key, "
            "pass --any-source"
        )
    if for_ms is not None and not LEAST_LIFE_MS <= for_ms <= MOST_LIFE_MS:
        raise UsageError(f"invalid lifetime {lasting(for_ms)} of a key: expected 1 minute to 3,650 days")
    if not 0 <= gives_micro <= MAX_AMOUNT_MICRO:
        raise UsageError(
            f"invalid grant limit {show_credits(gives_micro)} of a key: expected 0 to 1,000,000,000 credits"
        )
    made = ApiKey(name, tuple(sorted(set(scopes))), org_id, cell_id=cell_id, source=source, gives_micro=gives_micro)
    expires_ms = None if for_ms is None else by.now_ms + for_ms
    taken = Refused(
        f"the name {name} belongs to an active or ended key. Use another name. To replace an active key, run `drawdown "
        f"key rotate {typed(name)}`"
    )
    if ids.is_known(connection, ids.API_KEY, name) or not _insert(connection, made, key, expires_ms, by):
        raise taken
    bound = {"org_id": org_id, "cell_id": cell_id, "source": source, "gives_micro": gives_micro}
    record(connection, "key_create", name, {"scopes": made.scopes, **bound, "expires_ms": expires_ms}, by)
    return expires_ms


def rotate(connection: sa.Connection, key: str, name: str, by: By, *, overlap_ms: int = OVERLAP_MS) -> Rotated:
    """Rotate an API key.

    `key`: the new secret. The old key works for another `overlap_ms`, but never after its own expiry. The new key gets
    the same lifetime as the old key had at its creation.

    Errors: UsageError for an invalid overlap or secret. UnknownId. Refused for an ended key, if the name has
    MOST_OF_A_NAME keys, or if another key has the secret.
    """
    if not 0 <= overlap_ms <= MOST_OVERLAP_MS:
        raise UsageError(f"invalid overlap {lasting(overlap_ms)}: expected 0 to 30 days")
    if _hold(connection, name) >= MOST_OF_A_NAME:
        raise Refused(
            f"cannot rotate key {name}: the limit of {MOST_OF_A_NAME - 1:,} rotations is reached. Create a key with "
            "another name (`drawdown key create NAME --scope SCOPE`)"
        )
    row = SQL.run(connection, "going", {"name": name}).one()
    if row.ended_ms is not None:
        raise Refused(
            f"cannot rotate key {name}: it has ended. Create a key with another name (`drawdown key create NAME "
            "--scope SCOPE`)"
        )
    old_until = by.now_ms + overlap_ms
    old_until = old_until if row.expires_ms is None else min(old_until, row.expires_ms)
    expires = None if row.expires_ms is None else by.now_ms + row.expires_ms - row.created_ms
    scopes = tuple(row.scopes.split())
    made = ApiKey(
        name, scopes, row.org_id, cell_id=row.cell_id, source=row.source, gives_micro=row.gives_micro
    )  # fmt: skip
    values = {"key_sha256": row.key_sha256, "now_ms": by.now_ms, "expires_ms": old_until}
    SQL.run(connection, "supersede", values)
    if not _insert(connection, made, key, expires, by):
        raise Refused("this key exists already. Create a new random key")
    record(connection, "key_rotate", name, {"expires_ms": expires, "old_until_ms": old_until}, by)
    return Rotated(made, expires, old_until)


def end(connection: sa.Connection, name: str, by: By) -> bool:
    """End all API keys of a name.

    Return True if at least one of them was not ended before. Errors: UnknownId.
    """
    _hold(connection, name)
    ended = SQL.run(connection, "end", {"name": name, "now_ms": by.now_ms}).all()
    if ended:
        record(connection, "key_end", name, {}, by)
    return bool(ended)


def _hold(connection: sa.Connection, name: str) -> int:
    """Lock a name, and return the number of its keys. Errors: UnknownId.

    Until this transaction ends, other transactions cannot rotate or end keys of the name. The next statement sees all
    keys.
    """
    found = SQL.run(connection, "hold_name", {"name": name}).all()
    if not found:
        ids.require(connection, ids.API_KEY, name)
        raise Refused(explain_race("key", name))
    return len(found)


def _insert(connection: sa.Connection, made: ApiKey, key: str, expires_ms: int | None, by: By) -> bool:
    if not KEY.fullmatch(key):
        raise UsageError("invalid key: expected ddk_ and 43 random characters of A-Z, a-z, 0-9, - and _")
    values = {
        "key_sha256": hash_of(key),
        "name": made.name,
        "scopes": " ".join(made.scopes),
        "org_id": made.org_id,
        "cell_id": made.cell_id,
        "source": made.source,
        "gives_micro": made.gives_micro,
        "created_ms": by.now_ms,
        "expires_ms": expires_ms,
        "actor": by.actor,
        "reason": by.reason,
    }
    return SQL.run(connection, "insert", values).first() is not None


@dataclass(frozen=True)
class KeyRow:
    """An API key in a list. Times are in milliseconds.

    `org_id`, `cell_id`, `source`: the organisation, cell or source to which it is bound (None: any). `used_ms`: its
    last use, accurate to a minute (None: never). `maker_ended`: the access of the console user who created it has
    ended. Only `page_of_keys` sets `maker_ended`. `gives_micro`: the maximum of one grant, in micro-credits.
    `expires_ms` None: it does not expire. `rotated_ms`, `ended_ms` None: it was not rotated, or not ended. `actor`,
    `reason`: those of the key's creation.
    """

    name: str
    scopes: list[str]
    org_id: str | None
    cell_id: str | None
    source: str | None
    gives_micro: int
    state: Literal["good", "rotated", "expired", "ended"]
    created_ms: int
    expires_ms: int | None
    rotated_ms: int | None
    ended_ms: int | None
    used_ms: int | None
    actor: str
    reason: str
    maker_ended: bool = False


def list_keys(connection: sa.Connection, now_ms: int, most: int) -> list[KeyRow]:
    """Return API keys, sorted by name, with the newest key of each name first.

    The state `rotated` means that a newer key exists, and that the old key still works.
    """
    return [_row(row._mapping, now_ms) for row in SQL.run(connection, "list", {"at_most": most})]


@dataclass(frozen=True)
class KeysPage:
    """A page of API keys.

    `next_after`: the name after which the next page begins (None: this is the last page).
    """

    keys: list[KeyRow]
    next_after: str | None


def page_of_keys(connection: sa.Connection, now_ms: int, *, after: str = "", most: int = 100) -> KeysPage:
    """Return a page of API keys, sorted by name.

    The page has the newest key of each name, and the older keys that still work.
    """
    values = {"after": after, "at_most": most + 1, "now_ms": now_ms}
    found = [_row(row._mapping, now_ms) for row in SQL.run(connection, "taken", values)]
    names = list(dict.fromkeys(one.name for one in found))
    shown = set(names[:most])
    return KeysPage([one for one in found if one.name in shown], names[most - 1] if len(names) > most else None)


def keys_named(connection: sa.Connection, name: str, now_ms: int) -> list[KeyRow]:
    """Return all keys that a name ever had, the oldest first."""
    return [_row(row._mapping, now_ms) for row in SQL.run(connection, "named", {"name": name})]


def _row(row: sa.RowMapping, now_ms: int) -> KeyRow:
    state: Literal["good", "rotated", "expired", "ended"] = "good" if row["rotated_ms"] is None else "rotated"
    if row["expires_ms"] is not None and row["expires_ms"] <= now_ms:
        state = "expired"
    if row["ended_ms"] is not None:
        state = "ended"
    more = {"scopes": row["scopes"].split(), "state": state, "maker_ended": bool(row.get("maker_ended"))}
    return KeyRow(**{**row, **more})


# Actions and lists.


@dataclass(frozen=True)
class KeyMade:
    """A new API key.

    `key`: the key itself, which Drawdown shows only once (null: the call was repeated).

    `org_id`, `cell_id`, `source`: the organisation, cell and source to which it is bound (null: any). `expires_ms`
    null: it does not expire. `gives_micro`: the maximum of one grant, in micro-credits.
    """

    name: str
    key: str | None
    scopes: list[str]
    org_id: str | None
    cell_id: str | None
    source: str | None
    gives_micro: int
    expires_ms: int | None


@dataclass(frozen=True)
class KeyRotated(KeyMade):
    """The new key of a rotation.

    `old_until_ms`: the time until which the old key works.
    """

    old_until_ms: int


@dataclass(frozen=True)
class KeyEnded:
    """The end of all keys of a name.

    `changed`: True if at least one of the keys was not ended before.
    """

    name: str
    changed: bool


Name = Annotated[str, ID, "Name of the key; the actor in the audit log is key:NAME"]


def _create(
    connection: sa.Connection,
    asked: Invocation,
    name: Name,
    *,
    scopes: Annotated[list[str], ID, f"Scope of the key: {', '.join(SCOPES)}", Label("Scopes")],
    org_id: Annotated[str | None, ORG, "Organisation to which the key is bound", Label("Organisation")] = None,
    cell_id: Annotated[str | None, ID, "Cell of the samples that the key sends"] = None,
    source: Annotated[str | None, ID, "Source of the usage that the key sends"] = None,
    any_source: Annotated[bool, FLAG, "All sources, for a key that is bound to an organisation"] = False,
    gives_micro: Annotated[int, CREDITS, "Maximum credit that one call may give", Label("Maximum grant, credits")] = 0,
    for_ms: Annotated[int | None, LENGTH, "Lifetime, such as 90d (unlimited if omitted)"] = None,
    new: New = False,
) -> KeyMade:
    key = PREFIX + asked.secret
    for one in scopes:
        ids.require_among(ids.SCOPE, one, SCOPES)
    wanted = ApiKey(name, tuple(scopes), org_id, cell_id=cell_id, source=source, gives_micro=gives_micro)
    _require_within(asked.reach, wanted, None if for_ms is None else asked.by.now_ms + for_ms)
    expires = create(
        connection, key, name, scopes, asked.by, org_id=org_id, cell_id=cell_id, source=source,
        gives_micro=gives_micro, for_ms=for_ms, new=new, any_source=any_source,
    )  # fmt: skip
    return KeyMade(name, key, sorted(set(scopes)), org_id, cell_id, source, gives_micro, expires)


def _rotate(
    connection: sa.Connection,
    asked: Invocation,
    name: Name,
    *,
    overlap_ms: Annotated[int, LENGTH, "Time for which the old key also works: 0s, 2h, 7d"] = OVERLAP_MS,
) -> KeyRotated:
    key = PREFIX + asked.secret
    done = rotate(connection, key, name, asked.by, overlap_ms=overlap_ms)
    _require_within(asked.reach, done.key, done.expires_ms)
    made = done.key
    return KeyRotated(
        name, key, sorted(made.scopes), made.org_id, made.cell_id, made.source, made.gives_micro, done.expires_ms,
        done.old_until_ms,
    )  # fmt: skip


def _end(connection: sa.Connection, asked: Invocation, name: Name) -> KeyEnded:
    if asked.reach is not None:
        for row in keys_named(connection, name, asked.by.now_ms):
            own = ApiKey(
                name, tuple(row.scopes), row.org_id, cell_id=row.cell_id, source=row.source, gives_micro=row.gives_micro
            )
            _require_within(asked.reach, own, asked.reach.expires_ms)
    return KeyEnded(name, end(connection, name, asked.by))


def _require_within(reach: Reach | None, key: ApiKey, expires_ms: int | None) -> None:
    """Refuse a key with more rights or a longer lifetime than the calling key.

    The calling key is the key of the program that calls. Errors: Refused.
    """
    if reach is None:
        return
    beyond = sorted(set(key.scopes) - reach.scopes)
    if beyond:
        raise Refused(
            f"your key does not have the scope {beyond[0]}, so it cannot create, rotate or end a key with this scope. "
            "Use a key with this scope"
        )
    for name in ("org_id", "cell_id", "source"):
        own = getattr(reach, name)
        if own is not None and getattr(key, name) != own:
            raise Refused(
                f"your key is bound to {own}, so it cannot create, rotate or end a key without this binding. Use a key "
                "without this binding"
            )
    if key.gives_micro > reach.gives_micro:
        raise Refused(
            f"your key can grant {show_credits(reach.gives_micro)} credits at once, so it cannot create, rotate or end "
            f"a key that can grant {show_credits(key.gives_micro)}. Use a key with a higher limit"
        )
    if reach.expires_ms is not None and (expires_ms is None or expires_ms > reach.expires_ms):
        raise Refused(
            f"your key expires at {show_time(reach.expires_ms)}, and the new key must not expire later. Create a key "
            "with a shorter lifetime, or use a key that expires later"
        )


def _facts(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the facts about a name for a dry run.

    The facts are the keys of the name, in the order of their creation, and the last use.
    """
    found = keys_named(connection, values["name"], asked.by.now_ms)
    facts = [Fact(f"Created {show_time(one.created_ms)}, number {at}", one.state) for at, one in enumerate(found, 1)]
    used = max((one.used_ms for one in found if one.used_ms is not None), default=None)
    return [Fact("Keys with this name", str(len(found))), *facts, Fact("Last used", show_time(used), fixed=False)]


def _recovery_hint(values: Values) -> str:
    """Return the hint for a lost response that contained a new key.

    The key may exist, although the caller never received it.
    """
    word = typed(values["name"])
    told = f"if `drawdown key list` shows a new key of {values['name']}, that key is lost"
    return f"{told}. `drawdown key rotate {word}` shows another key; `drawdown key end {word}` ends all of them"


def _until(done: KeyMade) -> str:
    return f"{done.name}: " + (
        "never expires" if done.expires_ms is None else f"valid until {show_time(done.expires_ms)}"
    )


def _list(connection: sa.Connection, look: Look) -> Page[KeyRow]:
    return Page(list_keys(connection, look.now_ms, look.most))


def _any(value: str | None) -> str:
    return value or "any"


PLACE: Final = "/console/keys"
ACTIONS: Final = (
    Action(
        "key create",
        "Create a key",
        "Create a key and show it once.",
        _create,
        _until,
        path="/v1/keys",
        scope="keys:write",
        role="admin",
        facts=_facts,
        place=PLACE,
        shown_once="key",
        lost_hint=_recovery_hint,
    ),
    Action(
        "key rotate",
        "Rotate a key",
        "Rotate a key and show the new key once. The old key works until the overlap ends.",
        _rotate,
        lambda done: f"{done.name}: the old key works until {show_time(done.old_until_ms)}",
        path="/v1/keys/{name}/rotate",
        scope="keys:write",
        role="admin",
        facts=_facts,
        place=PLACE,
        shown_once="key",
        lost_hint=_recovery_hint,
    ),
    Action(
        "key end",
        "End a key",
        "Revoke all keys of a name.",
        _end,
        lambda done: f"{done.name}: {'ended' if done.changed else 'already ended'}",
        path="/v1/keys/{name}/end",
        scope="keys:write",
        facts=_facts,
        place=PLACE,
    ),
)
LISTS: Final = (
    Listing(
        "key list",
        "Keys",
        "List keys by name: scopes, expiry and last use. The list never shows a key itself.",
        _list,
        (Column("name", "key"), Column("scopes", show=" ".join), Column("org_id", "org", _any),
         Column("cell_id", "cell", _any), Column("source", show=_any), Column("gives_micro", "#grant limit"), "state",
         Column("created_ms", "created"), Column("expires_ms", "expires"), Column("ended_ms", "ended"),
         Column("used_ms", "last used"), Column("actor", "by")),
        holds="keys",
        path="/v1/keys",
        scope="keys:read",
    ),
)  # fmt: skip
