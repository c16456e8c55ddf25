"""The embedded ledger keeps the protocol. It is a database of our own: no wire, no webhooks, no key."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from drawdown.ledger.wallet import grant, read_charge
from drawdown.providers.conformance import Bench, ProviderConformance, Unsupported
from drawdown.providers.conformance.bench import Secret
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import Provider, PushRequest
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from tests.sqlite_databases import fresh
from tests.world import T0


class EmbeddedBench(Bench):
    wire = None
    customer = "c-1"
    feature = "compute"
    unknown_customer = "c-2"
    unknown_feature = "nosuch"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._engine = fresh(Path(self._folder.name) / "drawdown.db")
        self.clock = FixedClock(T0)
        self.provider = EmbeddedProvider(self._engine, self.clock)
        rate = (
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "VALUES (:feature, 0, 1, 3600, 0, 'a', 'r')"
        )
        write(self._engine, lambda connection: connection.execute(sa.text(rate), {"feature": self.feature}))
        credit = partial(grant, key="g", now_ms=T0, actor="a", reason="r")
        write(self._engine, lambda connection: credit(connection, self.customer, 10**12))

    def charged(self, request: PushRequest) -> int | None:
        return read(self._engine, lambda connection: read_charge(connection, request.key))

    def charged_total(self, customer_id: str, feature: str) -> int:
        asked = "SELECT quantity FROM ledger_entries WHERE from_account = :wallet AND feature = :feature"
        values = {"wallet": f"wallet:{customer_id}", "feature": feature}
        return sum(read(self._engine, lambda connection: connection.execute(sa.text(asked), values).scalars().all()))

    def charging_nothing(self) -> str:
        raise Unsupported("a charge is a row of our own database: there is no success without it")

    def change_of(self, customer_id: str) -> bytes:
        raise Unsupported("it sends no webhooks")

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        raise Unsupported("it sends no webhooks")

    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        raise Unsupported("it sends no webhooks")

    def with_bad_key(self) -> Provider:
        raise Unsupported("it has no key")

    def without_key(self) -> Provider:
        raise Unsupported("it has no key")

    def close(self) -> None:
        self._engine.dispose()
        self._folder.cleanup()


class TestEmbedded(ProviderConformance):
    seeds = 2

    def make_bench(self) -> Bench:
        return EmbeddedBench()
