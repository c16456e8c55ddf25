"""Mirror pushes to a provider without a hard stop in the customer's wallet.

The wallet is the customer's account in the embedded ledger.

Guarantee: a push is drawn once, by its key, in the transaction that accepts it. If the provider refuses the push later,
the draw is given back once. If a customer's wallet changed, Drawdown refreshes the customer's verdict. A customer
without a grant here is not charged here, and not halted for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

import sqlalchemy as sa
import structlog

from drawdown.ledger import entries, wallet
from drawdown.schema.locks import lock_rates
from drawdown.schema.sql import queries
from drawdown.worker.catalog.wallets import mirrored_at
from drawdown.worker.verdict.refresh_requests import mark_for_projection

log = structlog.get_logger()
SQL = queries(__file__)

PREFIX: Final = "mirror:"
AGAIN: Final = ":redrawn"
_NOT_DRAWN: Final = {
    wallet.Charge.NO_RATE: "the embedded ledger lacks a rate",
    wallet.Charge.TOO_LARGE: "the charge exceeds 1,000,000,000 credits. Check the rate",
    wallet.Charge.OTHER_CONTENT: "the key was charged before with another customer, feature or quantity",
}


class Billed(Protocol):
    """The columns of `pushes` that a wallet needs for a draw."""

    @property
    def key(self) -> str: ...
    @property
    def org_id(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def customer_id(self) -> str: ...
    @property
    def feature(self) -> str: ...
    @property
    def sent_qty(self) -> int: ...
    @property
    def window_ms(self) -> int: ...


def usage_of(push: Billed) -> entries.Usage:
    """Return the draw that a push makes on its customer's wallet."""
    return entries.Usage(f"{PREFIX}{push.key}", push.customer_id, push.feature, push.sent_qty, push.window_ms)


def draw(connection: sa.Connection, accepted: Sequence[entries.Usage], now_ms: int) -> None:
    """Draw accepted pushes from the wallets of customers that have a wallet.

    Call this only for providers without a hard stop, which `draw_if_ours` checks.
    """
    have = _with_wallet(connection, sorted({use.customer_id for use in accepted}))
    uses = [use for use in accepted if use.customer_id in have]
    names = _drawn_keys(connection, [use.key for use in uses])
    uses = [replace(use, key=names[use.key]) for use in uses]
    if uses:
        lock_rates(connection, shared=True)
        _charge(connection, uses, now_ms)


def _charge(connection: sa.Connection, uses: Sequence[entries.Usage], now_ms: int) -> None:
    """Charge all uses together; if a wallet cannot owe so much, charge them in halves.

    If a single use is too large, Drawdown does not draw it, although the provider charged it. The other uses do not
    wait. `verify` reports the undrawn use as `missing_wallet_charge`.
    """
    try:
        with connection.begin_nested():
            charges = wallet.charge(connection, uses, now_ms)
    except entries.BeyondBalance as error:
        if len(uses) == 1:
            log.warning("wallet_not_drawn", feature=uses[0].feature, key=uses[0].key, detail=str(error))
            return
        middle = len(uses) // 2
        _charge(connection, uses[:middle], now_ms)
        _charge(connection, uses[middle:], now_ms)
        return
    for use, charge in zip(uses, charges, strict=True):
        if charge in _NOT_DRAWN:
            log.warning("wallet_not_drawn", feature=use.feature, key=use.key, detail=_NOT_DRAWN[charge])


def draw_if_ours(connection: sa.Connection, pushes: Sequence[Billed], now_ms: int) -> None:
    """Draw the pushes to providers without a hard stop, and request new verdicts.

    Pushes to other providers are ignored.
    """
    theirs = mirrored_at(connection)
    some = [push for push in pushes if push.provider in theirs]
    if some:
        draw(connection, [usage_of(push) for push in some], now_ms)
        mark_for_projection(connection, [push.org_id for push in some], now_ms)


def give_back(connection: sa.Connection, pushes: Sequence[Billed], now_ms: int) -> None:
    """Give back the draws of pushes that the provider does not have."""
    names = _drawn_keys(connection, [usage_of(push).key for push in pushes])
    drawn = wallet.reverse(connection, list(names.values()), now_ms)
    some = [push.org_id for push in pushes if names[usage_of(push).key] in drawn]
    if some:
        mark_for_projection(connection, some, now_ms)


def _drawn_keys(connection: sa.Connection, keys: Sequence[str]) -> dict[str, str]:
    """Return the key for the draw of each push, by the push's first key.

    If a push was given back, and a person bills it by hand later, Drawdown accepts the push and draws it under another
    key.
    """
    names = {key: key for key in keys}
    ended = set(wallet.read_charges(connection, [f"{key}:back" for key in names]))
    while ended:
        names = {key: f"{name}{AGAIN}" if f"{name}:back" in ended else name for key, name in names.items()}
        ended = set(wallet.read_charges(connection, [f"{n}:back" for n in names.values() if n.endswith(AGAIN)]))
    return names


def _with_wallet(connection: sa.Connection, customer_ids: Sequence[str]) -> set[str]:
    customers = [{"id": customer_id} for customer_id in customer_ids]
    return set(SQL.run(connection, "with_wallet", {"customers": customers}).scalars())
