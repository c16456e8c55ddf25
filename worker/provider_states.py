"""What is kept about providers themselves: their terms for quantities, and whether a person paused one.

Guarantee: a seal knows the units of a provider even where its plug-in cannot be loaded, so usage waits in the right
quantity; a paused provider is sent nothing, and its usage goes on being sealed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities
from drawdown.schema.errors import Refused
from drawdown.worker.actions import record
from drawdown.worker.orgs import Said

log = structlog.get_logger()


def keep_terms(connection: sa.Connection, declared: Mapping[str, Capabilities]) -> None:
    """Store what providers declare of quantities, where it changed."""
    stored: dict[str, str] = dict(
        connection.execute(sa.text("SELECT provider, terms FROM provider_states WHERE terms IS NOT NULL"))
        .tuples()
        .all()
    )
    for name, can in declared.items():
        terms = json.dumps(_terms(can), sort_keys=True)
        if stored.get(name) == terms:
            continue
        if name in stored:
            log.warning("provider_terms_changed", provider=name, before=stored[name], now=terms)
        connection.execute(
            sa.text(
                "INSERT INTO provider_states (provider, terms) VALUES (:provider, :terms) "
                "ON CONFLICT (provider) DO UPDATE SET terms = excluded.terms"
            ),
            {"provider": name, "terms": terms},
        )


def _terms(can: Capabilities) -> dict[str, object]:
    return {
        "unit": can.unit,
        "units": dict(can.units),
        "negatives": can.negatives,
        "live_from_ms": can.live_from_ms,
        "balance_in_ledger": can.balance_in_ledger,
    }


def stored_terms(connection: sa.Connection) -> dict[str, Capabilities]:
    """The terms of every provider ever loaded."""
    rows = connection.execute(sa.text("SELECT provider, terms FROM provider_states WHERE terms IS NOT NULL")).tuples()
    return {name: Capabilities(None, True, **json.loads(terms)) for name, terms in rows}


def paused(connection: sa.Connection) -> dict[str, tuple[int, str]]:
    """The providers that are paused: since when, and why."""
    rows = connection.execute(
        sa.text("SELECT provider, paused_ms, paused_reason FROM provider_states WHERE paused_ms IS NOT NULL")
    )
    return {name: (int(since), str(reason)) for name, since, reason in rows.tuples()}


def pause(connection: sa.Connection, provider: str, said: Said) -> None:
    """Send nothing to a provider until it is resumed; what was sent before may still be looked up."""
    connection.execute(
        sa.text(
            "INSERT INTO provider_states (provider, paused_ms, paused_reason) VALUES (:provider, :now, :reason) "
            "ON CONFLICT (provider) DO UPDATE SET paused_ms = COALESCE(provider_states.paused_ms, excluded.paused_ms), "
            "paused_reason = excluded.paused_reason"
        ),
        {"provider": provider, "now": said.now_ms, "reason": said.reason},
    )
    record(connection, "provider_pause", provider, {}, now_ms=said.now_ms, actor=said.actor, reason=said.reason)


def resume(connection: sa.Connection, provider: str, said: Said) -> int:
    """Send again; returns since when it had been paused (milliseconds).

    Errors: Refused where it is not paused.
    """
    since = paused(connection).get(provider)
    if since is None:
        raise Refused(f"{provider} is not paused; `drawdown provider list` shows how each stands")
    connection.execute(
        sa.text("UPDATE provider_states SET paused_ms = NULL, paused_reason = NULL WHERE provider = :provider"),
        {"provider": provider},
    )
    details = {"paused_ms": since[0]}
    record(connection, "provider_resume", provider, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    return since[0]
