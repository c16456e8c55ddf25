"""Tenants hold keys that are bound to their organisation: such a key changes what it began, and takes nothing of the
product's.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from drawdown.ledger.own_keys import own_name
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import MICRO
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, Sender, event
from tests.server.program import Program, give, key_of, make_key, refused

FOREIGN = (403, "foreign_key")
SCOPES = ("executions:read", "executions:write", "guard")


@pytest.fixture
def shop(house: House) -> House:
    """acme with credit, the product's key, and two keys of acme's own."""
    give(house, "acme")
    make_key(house, "product", *SCOPES, "events:write")
    for name in ("tenant", "other"):
        make_key(house, name, *SCOPES, org="acme")

    def terms(connection: sa.Connection) -> None:
        guard_terms.set_metric(connection, "idea", Change(price_micro=MICRO, phase=3, fails_open=True), house.fleet.by)
        guard_terms.set_limit(connection, PlanLimit("idea", "*", "month", 9), house.fleet.by)

    write(house.fleet.engine, terms)
    return house


def ends(key: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"/{key}/draws", {"number": 0, "credits": 1}), (f"/{key}/extend", {"to": 7}),
        (f"/{key}/settle", {"actual": 0}), (f"/{key}/release", {}),
    ]  # fmt: skip


@pytest.mark.both_databases
def test_bound_key_cannot_end_execution_of_another_key(shop: House) -> None:
    async def work(caller: Caller) -> None:
        product, tenant, other = (Program(caller, key_of(name)) for name in ("product", "tenant", "other"))
        assert (await product.accept("job")).status_code == 200
        assert (await tenant.accept("mine")).status_code == 200
        for path, order in ends("job"):
            answer = await tenant.post(path, order)
            assert refused(answer) == FOREIGN and "product" not in answer.text, path
        for path, order in ends("mine"):
            assert refused(await other.post(path, order)) == FOREIGN, path
        assert (await tenant.get("/executions/job")).json()["state"] == "held", "it may look"
        assert (await product.post("/job/settle", {"actual": 5})).json()["charged"] == 5
        assert (await tenant.post("/mine/extend", {"to": 7})).status_code == 200
        whole = own_name("acme", "mine")
        assert (await product.post(f"/{whole}/settle", {"actual": 2})).json()["charged"] == 2

    served(shop, work)
    assert read(shop.fleet.engine, verify).breaches == []


@pytest.mark.both_databases
def test_execution_of_bound_key_does_not_collide_with_product_key(shop: House) -> None:
    """The tenant guesses the product's key, and would end the run at nothing while the product works on it."""

    async def work(caller: Caller) -> None:
        product, tenant = Program(caller, key_of("product")), Program(caller, key_of("tenant"))
        assert (await tenant.accept("job-8")).json()["repeated"] is False
        assert (await product.accept("job-8")).json()["repeated"] is False, "a run of its own"
        assert (await tenant.post("/job-8/settle", {"actual": 0})).json()["state"] == "settled"
        assert (await product.post("/job-8/settle", {"actual": 5})).json()["charged"] == 5

    served(shop, work)
    assert read(shop.fleet.engine, verify).breaches == []


class Asker:
    """A program that asks the guard for `idea`."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.program = Program(caller, key_of(name))

    async def ask(self, act: str, key: str, **more: Any) -> httpx.Response:
        body = json.dumps({"key": key, **more}).encode()
        return await self.program.caller.send("POST", f"/v1/guard/{act}", body, self.program.headers())

    async def hold(self, key: str, amount: int = 1) -> httpx.Response:
        return await self.ask("reserve", key, org_id="acme", metric="idea", quantity=amount)


def test_bound_key_cannot_end_guard_use_of_another_key(shop: House) -> None:
    acts: list[tuple[str, dict[str, int]]] = [("settle", {"actual": 0}), ("release", {}), ("extend", {"to": 2})]

    async def work(caller: Caller) -> None:
        product, tenant, other = (Asker(caller, name) for name in ("product", "tenant", "other"))
        assert (await product.hold("job")).json()["state"] == "held"
        assert (await tenant.hold("mine")).json()["state"] == "held"
        for act, more in acts:
            assert refused(await tenant.ask(act, "job", **more)) == FOREIGN, act
            assert refused(await other.ask(act, "mine", **more)) == FOREIGN, act
        assert (await product.ask("settle", "job", actual=1)).json()["state"] == "settled"
        assert (await tenant.ask("settle", "mine", actual=1)).json()["state"] == "settled"

    served(shop, work)
    assert read(shop.fleet.engine, verify).breaches == []


def test_guard_use_of_bound_key_does_not_collide_with_product_key(shop: House) -> None:
    async def work(caller: Caller) -> None:
        product, tenant = Asker(caller, "product"), Asker(caller, "tenant")
        assert (await tenant.hold("job")).json()["repeated"] is False
        assert (await product.hold("job")).json()["repeated"] is False, "a use of its own, which it can settle"
        assert (await tenant.ask("settle", "job", actual=0)).json()["state"] == "settled"
        assert (await product.ask("settle", "job", actual=1)).json()["state"] == "settled"

    served(shop, work)
    assert shop.fleet.rows("SELECT SUM(amount) FROM guard_uses") == [(1,)]
    assert read(shop.fleet.engine, verify).breaches == []


def test_bound_key_with_let_through_cannot_exceed_limit(shop: House) -> None:
    async def work(caller: Caller) -> None:
        product, tenant = Asker(caller, "product"), Asker(caller, "tenant")
        wish = {"org_id": "acme", "metric": "idea", "let_through": True}
        assert (await tenant.ask("consume", "a", **wish, quantity=7)).json()["decision"] == "allow"
        assert (await tenant.ask("consume", "b", **wish, quantity=8)).json()["decision"] == "block"
        assert (await product.ask("consume", "c", **wish, quantity=7)).json()["decision"] == "allow"

    served(shop, work)
    assert shop.fleet.rows("SELECT SUM(amount) FROM guard_uses WHERE degraded") == [(7,)]
    assert read(shop.fleet.engine, verify).breaches == []


def test_bound_key_cannot_send_events_of_product_source(house: House) -> None:
    def make(**more: Any) -> int | None:
        scopes, by = ["events:write"], house.fleet.by
        return write(
            house.fleet.engine,
            lambda c: api_keys.create(c, key_of("tenant"), "tenant", scopes, by, org_id="acme", new=True, **more),
        )

    with pytest.raises(UsageError, match="--source"):
        make()
    make(source="/theirs")
    make_key(house, "product", "events:write")

    async def work(caller: Caller) -> None:
        ours = [event("req-1", 5, source="/ours", subject="acme")]
        tenant = await Sender(caller, "tenant").told(EVENTS, [event("req-1", 0, source="/ours", subject="acme")])
        assert tenant[0][0] == "invalid"
        assert (await Sender(caller, "product").told(EVENTS, ours))[0][0] == "pending"

    served(house, work)
    assert house.fleet.rows("SELECT quantity FROM usage_events") == [(5,)]
