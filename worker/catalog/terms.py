"""What is kept about providers themselves: their terms for quantities, and whether a person paused one.

Guarantee: seals go by terms that lie in the database, so that two hosts with different settings cannot fight; terms
that change need a person, and until then nothing is sent; without terms, usage waits as pending. A paused provider is
sent nothing, and its usage goes on being sealed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.locks import lock_buckets, make_dirty


def take_new_terms(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> None:
    """Take the terms of providers that are met for the first time, or of which nothing was sealed yet; what had waited
    for that becomes dirty. Terms change what a seal makes of usage, so they are kept under its lock."""
    if not _unmet(connection, declared):
        return
    lock_buckets(connection)
    for name in _unmet(connection, declared):  # another worker may have met it while this one waited
        _keep(connection, name, _text(declared[name]), declared[name].live_from_ms, 0)
    make_dirty(connection, "pending_usage WHERE reason = 'no_provider'", {})


def _unmet(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> list[str]:
    stored = _stored(connection)
    return [
        name
        for name, can in declared.items()
        if name not in stored or (stored[name].terms != _text(can) and not _is_used(connection, name))
    ]


def changed(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> dict[str, str]:
    """Which providers declare other terms than those in force: usage would go elsewhere, or in another unit, than what
    was sealed and compared so far. Hosts whose settings differ would fight over it."""
    found = {}
    for name, stored in _stored(connection).items():
        if name in declared and stored.terms != _text(declared[name]):
            then, now = json.loads(stored.terms), _terms(declared[name])
            parts = [f"{part} was {then.get(part)}, is {now[part]}" for part in now if then.get(part) != now[part]]
            found[name] = (
                f"its settings changed on this host ({'; '.join(parts)}): put them back, or "
                f"`drawdown provider accept {name}`"
            )
    return found


Transact = Callable[..., Any]
"""Runs work in a transaction and commits it; with `rollback=True`, leaves nothing behind."""


@dataclass(frozen=True)
class Stored:
    """The terms in force: as they were declared, and what became of `live_from_ms`. Names and units are since
    `wire_since_ms`."""

    terms: str
    live_from_ms: int | None
    wire_since_ms: int


def _stored(connection: sa.Connection) -> dict[str, Stored]:
    rows = connection.execute(
        sa.text("SELECT provider, terms, live_from_ms, wire_since_ms FROM provider_states WHERE terms IS NOT NULL")
    )
    return {name: Stored(terms, live, since) for name, terms, live, since in rows}


def _is_used(connection: sa.Connection, provider: str) -> bool:
    found = connection.execute(
        sa.text("SELECT 1 FROM pushes WHERE provider = :provider LIMIT 1"), {"provider": provider}
    )
    return found.first() is not None


def _keep(connection: sa.Connection, provider: str, text: str, live_from: int | None, wire_since: int) -> None:
    connection.execute(
        sa.text(
            "INSERT INTO provider_states (provider, terms, live_from_ms, wire_since_ms) "
            "VALUES (:provider, :terms, :live, :since) ON CONFLICT (provider) DO UPDATE SET terms = excluded.terms, "
            "live_from_ms = excluded.live_from_ms, wire_since_ms = excluded.wire_since_ms"
        ),
        {"provider": provider, "terms": text, "live": live_from, "since": wire_since},
    )


def _text(can: Capabilities) -> str:
    return json.dumps(_terms(can), sort_keys=True)


def _terms(can: Capabilities) -> dict[str, object]:
    return {
        "unit": can.unit,
        "units": dict(can.units),
        "names": dict(can.names),
        "negatives": can.negatives,
        "live_from_ms": can.live_from_ms,
        "balance_in_ledger": can.balance_in_ledger,
    }


def stored_terms(connection: sa.Connection) -> dict[str, Capabilities]:
    """The terms in force of every provider met; a seal goes by these alone."""
    return {
        name: Capabilities(None, True, **{**json.loads(one.terms), "live_from_ms": one.live_from_ms})
        for name, one in _stored(connection).items()
    }


def wire_since(connection: sa.Connection, provider: str) -> int:
    """Since when usage goes to a provider under its present names and units (milliseconds)."""
    found = _stored(connection).get(provider)
    return 0 if found is None else found.wire_since_ms


def paused(connection: sa.Connection) -> dict[str, tuple[int, str]]:
    """The providers that are paused: since when, and why."""
    rows = connection.execute(
        sa.text("SELECT provider, paused_ms, paused_reason FROM provider_states WHERE paused_ms IS NOT NULL")
    )
    return {name: (int(since), str(reason)) for name, since, reason in rows}
