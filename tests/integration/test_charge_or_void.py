"""Of a push in the embedded ledger either the charge counts or the void, whoever lay still for how long (P5)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers import embedded
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import Accepted, Outcome, PushRequest, Rejected
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.features import actions as features
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.rows import find_push, request_of
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.world import T0, Fleet

KEY = f"usage:acme:{T0}:unpriced"
LATER_MS = 2 * 3_600_000
"""By then, no request to any provider may still arrive."""


def refused(engine: sa.Engine) -> Fleet:
    """A push that the ledger refused, since its feature has no rate yet."""
    fleet = Fleet(engine)
    fleet.assign("acme")
    write(
        engine,
        lambda c: features.map_size(c, "unpriced", fleet.by, kind="exact", memory_mb=77, unit="s", from_ms=T0),
    )
    fleet.sample("acme", T0 + 1, 60, 77)
    fleet.tick_windows(2)
    assert fleet.one("SELECT state FROM pushes") == "rejected"
    return fleet


def request(fleet: Fleet) -> PushRequest:
    """As the worker that lay still would send it."""
    return request_of(read(fleet.engine, lambda c: find_push(c, KEY)), embedded.CAPABILITIES)


def rate(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: credit.set_rate(c, "unpriced", 100, 1, fleet.by, from_ms=None))


def sent(fleet: Fleet, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
    return asyncio.run(EmbeddedProvider(fleet.engine, fleet.clock).push(batch))


def void(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: pushes.void(c, [KEY], fleet.by, "the ledger has no entry of it"))


def charged(fleet: Fleet) -> int:
    return int(str(fleet.one("SELECT COALESCE(SUM(quantity), 0) FROM ledger_entries WHERE kind = 'usage'")))


def test_embedded_charge_after_void_is_rejected(engine: sa.Engine) -> None:
    fleet = refused(engine)
    late = request(fleet)
    fleet.clock.at_ms += LATER_MS
    void(fleet)
    rate(fleet)
    assert fleet.tick_windows(1).accepted == 1, "what it held is owed under the next revision"
    assert charged(fleet) == 60
    (answer,) = sent(fleet, [late])
    assert isinstance(answer, Rejected) and "voided" in answer.reason
    assert charged(fleet) == 60
    assert read(fleet.engine, verify).breaches == []


def test_embedded_void_after_charge_is_refused(engine: sa.Engine) -> None:
    fleet = refused(engine)
    rate(fleet)
    assert list(sent(fleet, [request(fleet)])) == [Accepted()], "by a worker whose answer is lost"
    fleet.clock.at_ms += LATER_MS
    with pytest.raises(Refused, match="the embedded ledger has charged"):
        void(fleet)
    assert charged(fleet) == 60


def test_embedded_void_during_charge_waits_and_is_refused(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement after the other, on two connections."""
    fleet = refused(postgres)
    rate(fleet)
    late, begun, go_on = request(fleet), threading.Event(), threading.Event()
    fleet.clock.at_ms += LATER_MS
    charge = wallet.charge

    def slow(connection: sa.Connection, *given: object) -> object:
        found = charge(connection, *given)  # type: ignore[arg-type]
        begun.set()
        assert go_on.wait(30)
        return found

    monkeypatch.setattr(wallet, "charge", slow)
    answers: list[Outcome] = []
    errors: list[Exception] = []
    sender = threading.Thread(target=lambda: answers.extend(sent(fleet, [late])))
    sender.start()
    assert begun.wait(30)

    def voiding() -> None:
        try:
            void(fleet)
        except Refused as error:
            errors.append(error)

    voider = threading.Thread(target=voiding)
    voider.start()
    voider.join(0.5)
    assert voider.is_alive(), "it waits"
    go_on.set()
    sender.join(30)
    voider.join(30)
    assert answers == [Accepted()] and "has charged" in str(errors[0])
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0


@pytest.mark.both_databases
def test_embedded_lookup_without_result_rereads_ledger_before_void(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its answer and its transaction a worker that lay still has charged."""
    fleet = refused(engine)
    rate(fleet)
    late = request(fleet)
    fleet.write("UPDATE pushes SET state = 'queued', due_at_ms = 0, first_attempt_ms = 1")
    fleet.write("UPDATE attempts SET outcome = 'unknown'")
    lookup = EmbeddedProvider.lookup
    done: list[Outcome] = []

    async def then_charged(self: EmbeddedProvider, asked: PushRequest) -> object:
        found = await lookup(self, asked)
        if not done:
            done.extend(await self.push([late]))
        return found

    monkeypatch.setattr(EmbeddedProvider, "lookup", then_charged)
    fleet.tick(T0 + 4 * WINDOW_MS + LATER_MS)
    monkeypatch.undo()
    fleet.tick_windows(2)
    assert done == [Accepted()]
    assert (charged(fleet), fleet.one("SELECT COUNT(*) FROM voids")) == (60, 0)
    assert fleet.rows("SELECT state, revision FROM pushes") == [("accepted", 0)]
