"""The embedded prepaid ledger as a billing provider: a thin adapter to `ledger/`.

Guarantee: keys are stored permanently, so any push can be sent again at any time, and a duplicate proves delivery. A
voided push is not charged, even if its call arrives later (P5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa

from drawdown.ledger import entries, wallet
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    Capabilities,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    PushRequest,
    Rejected,
    Setup,
    Totals,
    WebhookRefused,
)
from drawdown.schema.clock import Clock
from drawdown.schema.database import read, write
from drawdown.schema.locks import lock_charges
from drawdown.schema.sql import queries
from drawdown.schema.units import EMBEDDED, parse_push_key, window_of

T = TypeVar("T")
SQL = queries(__file__)

NAME: Final = EMBEDDED
CAPABILITIES: Final = Capabilities(
    batch_size=2000,
    key_retention_ms=None,
    duplicate_proves_delivery=True,
    lookup_lag_ms=0,
    applied_within_ms=0,
    totals_lag_ms=0,
    reads_a_call=5000,
    same_database=True,
)


class EmbeddedProvider:
    """A provider that bills from wallets in this database, within the process."""

    name = NAME
    capabilities = CAPABILITIES
    dormant: str | None = None

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return self._charged(batch)

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        now_ms = self._clock.now_ms()
        wallets = self._read(lambda connection: wallet.read_ahead(connection, customer_ids, now_ms))
        return {
            customer_id: CustomerState(found.payable_micro, found.plan, found.max_concurrent)
            for customer_id, found in wallets.items()
        }

    async def lookup(self, request: PushRequest) -> LookupResult:
        found = self._read(partial(wallet.read_charge, key=request.key))
        return Absent() if found is None else FoundPush(found)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals:
        return self._read(lambda connection: wallet.read_totals(connection, customer_id, from_ms, to_ms))

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        raise WebhookRefused("the embedded ledger does not send webhooks. Check the path of the webhook")

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        return self._read(partial(_features_without_rate, features=features))

    def _charged(self, batch: Sequence[PushRequest]) -> list[Outcome]:
        """Charge a batch in one step.

        If one push cannot be charged, charge each half, until that push is alone.
        """
        try:
            return write(self._engine, partial(_charge, batch=batch, now_ms=self._clock.now_ms()))
        except entries.BeyondBalance as error:
            if len(batch) == 1:
                return [Rejected(f"{error}. Then run `drawdown push retry KEY`")]
            middle = len(batch) // 2
            return [*self._charged(batch[:middle]), *self._charged(batch[middle:])]

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self._engine, work)


def _charge(connection: sa.Connection, *, batch: Sequence[PushRequest], now_ms: int) -> list[Outcome]:
    """Charge the pushes that are not voided.

    The process may have been suspended after it claimed the pushes. The usage of a voided push is owed under another
    key (P5).
    """
    lock_charges(connection, shared=True)
    voided = _voided(connection, [push.key for push in batch])
    uses = [
        # All revisions count at the window's start.
        entries.Usage(push.key, push.customer_id, push.feature, push.quantity, window_of(push.ts))
        for push in batch
        if push.key not in voided
    ]
    charges = iter(wallet.charge(connection, uses, now_ms) if uses else ())
    gone = Rejected("the push was voided meanwhile. Its usage is owed under a later revision")
    return [gone if push.key in voided else _outcome(next(charges), push) for push in batch]


def _voided(connection: sa.Connection, keys: Sequence[str]) -> set[str]:
    push_ids = {key: push_id for key in keys if (push_id := parse_push_key(key)) is not None}
    pushes = [{**push_id, "key": key} for key, push_id in push_ids.items()]
    return set(SQL.run(connection, "voided", {"pushes": pushes}).scalars())


def _outcome(charge: wallet.Charge, push: PushRequest) -> Outcome:
    if charge is wallet.Charge.CHARGED:
        return Accepted()
    if charge is wallet.Charge.ALREADY:
        return Duplicate()
    if charge is wallet.Charge.NO_RATE:
        return Rejected(
            f"feature {push.feature} does not have a rate. Run `drawdown ledger rate {push.feature} --micro-credits "
            "N`, then `drawdown push retry KEY`"
        )
    if charge is wallet.Charge.TOO_LARGE:
        return Rejected(f"the charge exceeds 1,000,000,000 credits. Check the rate of {push.feature}")
    return Rejected(f"the key {push.key} was charged before with another customer, feature or quantity")


def _features_without_rate(connection: sa.Connection, *, features: Sequence[str]) -> list[str]:
    rated = set(SQL.run(connection, "features_with_rate").scalars())
    return [
        f"feature {feature} does not have a rate. Run `drawdown ledger rate {feature} --micro-credits N`"
        for feature in sorted(set(features) - rated)
    ]


def build(setup: Setup) -> EmbeddedProvider:
    """Build the provider. The package's entry point names this function."""
    return EmbeddedProvider(setup.engine, setup.clock)
