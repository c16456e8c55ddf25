"""The stored state of providers: their terms for quantities, and their pauses.

Guarantee: a seal uses the terms in the database, so that two machines with different settings cannot bill in turn. If
terms changed, Drawdown does not send pushes to the provider until a person accepts them. Without terms, usage is
pending. Drawdown does not send pushes to a paused provider, and still seals its usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries

if TYPE_CHECKING:
    from drawdown.providers.protocol import Capabilities

SQL = queries(__file__)

MODE: Final = "mode"
"""The mode of a provider's key, the only term that was added later.

Databases of earlier versions do not have the mode. A machine without the key does not report the mode.
"""
WIRE: Final = frozenset({"unit", "units", "names", "mode", "way"})
"""Terms that change the place or the unit of usage at the provider, or the way in which the provider stores usage."""
UNSAID: Final = {"way": "v1"}
"""Values of terms that a provider does not store or declare.

`way`: Stripe's only way before a setting could choose it.
"""


class TermsChanged(Refused):
    """Raised if the terms in force changed after this process began."""


def take_new_terms(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> None:
    """Store the terms of new providers.

    Also store new terms of providers without sealed usage, and the mode of a key if it is not stored yet.

    Windows with usage that waited for these terms become dirty. Terms affect seals, so this stores them under the
    seal's lock.
    """
    if not _unmet(connection, declared) and not _to_learn(connection, declared):
        return
    lock_buckets(connection)
    for name in _to_learn(connection, declared):
        there = _stored(connection)[name]
        _keep(connection, name, _text(declared[name]), there.live_from_ms, there.wire_since_ms)
    for name in _unmet(connection, declared):  # another worker may have stored the terms during the wait for the lock
        before = _stored(connection).get(name)
        since_ms = 0 if before is None else before.wire_since_ms  # a recovery may have set this time
        _keep(connection, name, _text(declared[name]), declared[name].live_from_ms, since_ms)
    make_windows_dirty(connection, SQL, "waiting_for_a_provider", {})


def _unmet(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> list[str]:
    stored = _stored(connection)
    return [
        name
        for name, capabilities in declared.items()
        if name not in stored or (not is_same(stored[name].terms, capabilities) and not _is_used(connection, name))
    ]


def _to_learn(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> list[str]:
    """Return the providers with a mode that is not stored yet.

    Their other terms are the same as the stored terms.
    """
    stored = _stored(connection)
    return [
        name
        for name, capabilities in declared.items()
        if capabilities.mode
        and name in stored
        and MODE not in json.loads(stored[name].terms)
        and is_same(stored[name].terms, capabilities)
    ]


def is_same(stored: str, capabilities: Capabilities) -> bool:
    """Return True if the terms in force are those that a provider declares."""
    return not differing(json.loads(stored), _terms(capabilities))


def changed(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> dict[str, str]:
    """Return the providers with declared terms that differ from those in force.

    Each has a text about the difference and the next command.

    On the declared terms, usage would go to another place, or in another unit, than the usage sealed and compared so
    far. Machines with different settings would bill in turn.
    """
    found = {}
    for name, stored in _stored(connection).items():
        if name in declared and not is_same(stored.terms, declared[name]):
            parts = describe(differing(json.loads(stored.terms), _terms(declared[name])))
            found[name] = (
                f"its settings changed on this machine ({parts}). Restore them, or run "
                f"`drawdown provider accept {name}`"
            )
    return found


def require_terms(connection: sa.Connection, provider: str, capabilities: Capabilities) -> None:
    """Check that this process declares a provider's terms in force.

    A process reads the terms when it begins, and another machine may change them later. Call this after the statement
    that reads or claims pushes. A push that was sealed on newer terms is never visible before these terms.

    Errors: TermsChanged. Without this check, a process could send a quantity in another unit, or to another place, than
    it was sealed for.
    """
    if changed(connection, {provider: capabilities}):
        raise TermsChanged(
            f"cannot bill by {provider}: other terms were accepted after this process started. Restart the process "
            "with the settings in force. See `drawdown provider list`"
        )


def describe(moved: Mapping[str, tuple[object, object]]) -> str:
    """Return the terms that differ as one text for people."""
    return "; ".join(f"{part} was {was}, is {now}" for part, (was, now) in moved.items())


def differing(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Return the terms that differ, each before and now.

    A missing term has its default, or None. If only one side has a mode, this is not a difference.
    """
    parts = dict.fromkeys((*now, *then))
    if MODE not in now or MODE not in then:
        parts.pop(MODE, None)
    both = {part: (then.get(part, UNSAID.get(part)), now.get(part, UNSAID.get(part))) for part in parts}
    return {part: (was, new) for part, (was, new) in both.items() if was != new}


@dataclass(frozen=True)
class StoredTerms:
    """The terms in force of a provider.

    `terms`: the declaration, as JSON. `live_from_ms`: the start of sending, which only a cut-over changes (None:
    always). `wire_since_ms`: the time since which the names and units are in force.
    """

    terms: str
    live_from_ms: int | None
    wire_since_ms: int


def _stored(connection: sa.Connection) -> dict[str, StoredTerms]:
    rows = SQL.run(connection, "terms_in_force")
    return {row.provider: StoredTerms(row.terms, row.live_from_ms, row.wire_since_ms) for row in rows}


def _is_used(connection: sa.Connection, provider: str) -> bool:
    return SQL.run(connection, "is_used", {"provider": provider}).first() is not None


def _keep(connection: sa.Connection, provider: str, text: str, live_from_ms: int | None, wire_since_ms: int) -> None:
    values = {"provider": provider, "terms": text, "live_from_ms": live_from_ms, "wire_since_ms": wire_since_ms}
    SQL.run(connection, "keep_terms", values)


def _text(capabilities: Capabilities) -> str:
    return json.dumps(_terms(capabilities), sort_keys=True)


def _terms(capabilities: Capabilities) -> dict[str, object]:
    return {
        "unit": capabilities.unit,
        "units": dict(capabilities.units),
        "names": dict(capabilities.names),
        "negatives": capabilities.negatives,
        "live_from_ms": capabilities.live_from_ms,
        "balance_in_ledger": capabilities.balance_in_ledger,
        # Include the way only if a provider has several ways, so that the stored terms of all others stay the same.
        **({"way": capabilities.way} if capabilities.way else {}),
        **({MODE: capabilities.mode} if capabilities.mode else {}),
    }


def stored_terms(connection: sa.Connection) -> dict[str, Capabilities]:
    """Return the terms in force, by provider. A seal uses only these."""
    from drawdown.providers.protocol import Capabilities  # imported here, because `status` does not need it

    return {
        name: Capabilities(None, True, **{**json.loads(stored.terms), "live_from_ms": stored.live_from_ms})
        for name, stored in _stored(connection).items()
    }


def wire_since(connection: sa.Connection, provider: str) -> int:
    """Return the time (milliseconds) since which a provider has its names and units."""
    found = _stored(connection).get(provider)
    return 0 if found is None else found.wire_since_ms


def date_differing_terms(connection: sa.Connection, declared: Mapping[str, Capabilities], since_ms: int) -> list[str]:
    """Set the date of changed places and units of providers, and return the providers.

    The date is at least `since_ms`. A lost history may have accepted the declared terms and sent pushes on them. A
    lookup on either terms then does not prove that the provider lacks an earlier push (R1).
    """
    moved = [
        (name, stored)
        for name, stored in sorted(_stored(connection).items())
        if name in declared and not WIRE.isdisjoint(differing(json.loads(stored.terms), _terms(declared[name])))
    ]
    for name, stored in moved:
        _keep(connection, name, stored.terms, stored.live_from_ms, max(since_ms, stored.wire_since_ms))
    return [name for name, _ in moved]


def paused(connection: sa.Connection) -> dict[str, tuple[int, str]]:
    """Return the paused providers, each with the pause's start (ms) and reason."""
    rows = SQL.run(connection, "paused")
    return {row.provider: (int(row.paused_ms), str(row.paused_reason)) for row in rows}
