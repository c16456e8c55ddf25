"""Why no lock of Autumn's is taken for a run: what each of its faults would cost, on the emulated account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from drawdown.providers.autumn.wire import VERSION
from drawdown.providers.http import Answer, Call
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Drawn
from drawdown.schema.clock import FixedClock
from tests.contract.autumn_setup import NOW_MS, done, made, push
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator


class World:
    """An account with a customer who has a hundred of `compute`, and three seats."""

    def __init__(self) -> None:
        self.autumn, self.clock = AutumnEmulator(), FixedClock(NOW_MS)
        account = self.autumn.account
        for feature, consumable in (("compute", True), ("seats", False)):
            account.add_feature(feature, consumable=consumable)
        account.add_customer("cus_1", NOW_MS)
        account.grant("cus_1", "compute", 100, NOW_MS)
        account.grant("cus_1", "seats", 3, NOW_MS)
        self.provider = made(Direct(self.autumn, self.clock), at=self.clock)

    def ask(self, route: str, body: Mapping[str, object]) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {SECRET_KEY}", "x-api-version": VERSION}
        call = Call("POST", f"https://api.useautumn.com/v1/{route}", headers, json.dumps(body).encode())
        answer = self.autumn.handle(call, self.clock.at_ms)
        assert isinstance(answer, Answer)
        return answer.status, json.loads(answer.body)

    def lock(self, name: str = "e-1", amount: int = 60, feature: str = "compute") -> tuple[int, Any]:
        lock = {"enabled": True, "lock_id": name}
        body = {"customer_id": "cus_1", "feature_id": feature, "required_balance": amount, "lock": lock}
        return self.ask("check", body)

    def finalize(self, action: str, name: str = "e-1") -> tuple[int, Any]:
        return self.ask("balances.finalize", {"lock_id": name, "action": action})

    @property
    def drawn(self) -> int | Decimal:
        found = done(self.provider.drawn("cus_1"))
        assert isinstance(found, Mapping)
        assert isinstance(found["compute"], Drawn)
        return int(found["compute"].quantity)


def test_lock_refusals_of_emulator_match_recording() -> None:
    world = World()
    for (status, told), said in (
        (world.lock(amount=1, feature="seats"), "Lock is not supported for allocated features"),
        (world.finalize("release", "lk1"), "Lock not found for ID: lk1"),
    ):
        assert (status, told) == (400, {"message": said, "code": "invalid_request", "env": "sandbox"})


def test_lock_at_autumn_looks_like_charge_without_event() -> None:
    """What is drawn without an event is taken for a push in doubt that arrived (rule P5): it would never be sent."""
    world = World()
    assert (world.lock()[0], world.drawn) == (200, 60)
    assert done(world.provider.lookup(push(60, customer_id="cus_1", feature="compute"))).__class__.__name__ == "Absent"


def test_execution_confirmed_at_autumn_and_pushed_is_charged_twice() -> None:
    world = World()
    world.lock()
    world.finalize("confirm")
    done(world.provider.push([push(60, customer_id="cus_1", feature="compute")]))
    assert world.drawn == 120, "it has no key in common with our pushes"


def test_lock_released_with_lost_answer_looks_like_unknown_lock() -> None:
    """An answer that was lost, and a lock that never was, say the same from then on."""
    world = World()
    world.lock()
    assert world.finalize("release")[0] == 200, "and nobody heard it"
    assert world.finalize("release") == world.finalize("confirm")
    assert world.finalize("release", "e-1")[1]["message"] == "Lock not found for ID: e-1"


def test_lock_after_loss_of_lock_store_stays_drawn() -> None:
    """Drawn for good: nothing releases it any more, not even its end."""
    world = World()
    world.lock()
    world.autumn.locks.lose_store()
    assert world.finalize("release")[0] == 400
    assert world.drawn == 60
