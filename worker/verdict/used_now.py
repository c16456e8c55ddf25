"""What organisations of several providers used beyond their balances, as of now, for people who look.

Guarantee: the same figures as the watch's (`effective_balance`), in as many statements for a thousand organisations of
ten providers as for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from drawdown.ledger.rates import rate_card
from drawdown.ledger.rates import rates_part as ledger_rates_part
from drawdown.schema.sql import Part, together
from drawdown.worker.catalog.mapping import mapping_of, mapping_part, segments
from drawdown.worker.catalog.wallets import mirrors, terms_part, with_wallets
from drawdown.worker.verdict.effective_balance import Asked, Seen, Used, parts_of, used_by
from drawdown.worker.verdict.holds import (
    held_of,
    held_part,
    lapsed_of,
    lapsed_part,
    metering_in,
    wallets_of,
    wallets_part,
)
from drawdown.worker.verdict.metered import used_up
from drawdown.worker.verdict.rates import card_of, rates_part


def read_used_now(connection: sa.Connection, orgs: Mapping[str, Sequence[Asked]], now_ms: int) -> dict[str, Used]:
    """By organisation, of those that used or hold something, or have a wallet here; `orgs` are rows by provider. The
    connection reads at one moment (`schema.database.read`)."""
    providers = sorted(name for name, rows in orgs.items() if rows)
    if not providers:
        return {}
    rates = {f"rates{number}": rates_part(provider) for number, provider in enumerate(providers)}
    terms = together(connection, terms=terms_part(), mapping=mapping_part(), ledger=ledger_rates_part(), **rates)
    here, rules = with_wallets(terms["terms"]), segments(mapping_of(terms["mapping"]))
    parts: dict[str, Part] = {}
    for number, provider in enumerate(providers):
        rows, ids = orgs[provider], [org.org_id for org in orgs[provider]]
        unsealed, pushes = parts_of(provider, rows, rules, now_ms=now_ms, read_ms=now_ms, lag_ms=0)
        held = held_part(provider, ids, now_ms, in_wallets=provider in here)
        parts |= {f"unsealed{number}": unsealed, f"pushes{number}": pushes, f"held{number}": held}
        if provider in here:
            parts[f"lapsed{number}"] = lapsed_part(provider, ids, now_ms)
            parts[f"wallets{number}"] = wallets_part(provider, ids, now_ms)
    read = together(connection, **parts)
    metering = [one for number in range(len(providers)) for one in metering_in(read[f"held{number}"])]
    gone = used_up(connection, sorted(set(metering)), now_ms) if metering else {}
    found: dict[str, Used] = {}
    for number, provider in enumerate(providers):
        card = rate_card(terms["ledger"]) if provider in here else card_of(terms[f"rates{number}"])
        held_rows, over = held_of(read[f"held{number}"], gone), lapsed_of(read.get(f"lapsed{number}", []))
        wallets = wallets_of(read.get(f"wallets{number}", []))
        seen = Seen(
            read[f"unsealed{number}"], read[f"pushes{number}"], held_rows, over, card, wallets, mirrors(provider)
        )
        found |= used_by(seen, orgs[provider], read_ms=now_ms, lag_ms=0)
    return found
