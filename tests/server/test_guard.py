"""The guard over HTTP: what the command line does, each use once, each refusal with its code."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard_holds
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Wish
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused

Send = Callable[..., Awaitable[httpx.Response]]


def with_guard(house: House, work: Callable[[Send], Awaitable[None]], **more: Any) -> None:
    """An organisation with 100 credits, and `idea`, which costs one and of which it may have five a month."""
    for org in ("acme", "wayne"):
        give(house, org)
    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, "idea", Change(price_micro=MICRO, phase=3), by))
    write(house.fleet.engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea", "*", "month", 5), by))
    make_key(house, "app", "guard", **more)

    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of("app"))

        async def send(act: str, **order: object) -> httpx.Response:
            return await _post(program, act, order)

        await work(send)

    served(house, whole)
    assert read(house.fleet.engine, verify).breaches == []


async def _post(program: Program, act: str, order: dict[str, object]) -> httpx.Response:
    return await program.caller.send("POST", f"/v1/guard/{act}", json.dumps(order).encode(), program.headers())


@pytest.mark.both_databases
def test_guard_check_consume_reserve_and_settle_follow_limit_and_wallet(house: House) -> None:
    async def work(send: Send) -> None:
        found = (await send("check", org_id="acme", metric="idea")).json()
        assert (found["decision"], found["limit"], found["used"], found["remaining"]) == ("allow", 5, 0, 4)
        assert (found["price"], found["charged_micro"], found["state"], found["balance"]) == (1, 0, None, 100)
        assert found["resets_at"] == "2026-02-01T00:00:00.000Z"
        order = {"key": "i-1", "org_id": "acme", "metric": "idea", "quantity": 2, "subject": "ann"}
        found = (await send("consume", **order)).json()
        assert (found["decision"], found["charged"], found["balance_micro"]) == ("allow", 2, 98 * MICRO)
        assert (found["state"], found["repeated"], found["payer"]) == ("used", False, "acme")
        again = (await send("consume", **order)).json()
        assert (again["repeated"], again["charged"], again["price"]) == (True, 0, 2)
        other = await send("consume", **{**order, "quantity": 3})
        assert refused(other) == (409, "other_content") and "To repeat that call, send its first body" in other.text
        found = (await send("reserve", key="r-1", org_id="acme", metric="idea", quantity=3, for_ms=60_000)).json()
        assert (found["decision"], found["state"]) == ("warn", "held")
        blocked = await send("consume", key="i-2", org_id="acme", metric="idea")
        assert blocked.status_code == 200, "what is blocked is an answer"
        found = blocked.json()
        assert (found["decision"], found["rule"], found["state"]) == ("block", "limit:*:month", None)
        assert found["options"] == ["request_override", "run_locally"]
        found = (await send("extend", key="r-1", to=4)).json()
        assert (found["decision"], found["state"]) == ("block", "held")
        found = (await send("extend", key="r-1", for_ms=DAY_MS)).json()
        assert (found["decision"], found["expires_ms"]) == ("warn", house.clock.at_ms + DAY_MS)
        found = (await send("settle", key="r-1", actual=1)).json()
        assert (found["state"], found["charged"]) == ("settled", 1)
        await send("reserve", key="r-2", org_id="acme", metric="idea")
        found = (await send("release", key="r-2", reason="cancelled")).json()
        assert (found["state"], found["charged"]) == ("released", 0)
        assert refused(await send("settle", key="r-2", actual=1)) == (409, "ended")

    with_guard(house, work)


def test_guard_invalid_request_is_refused_with_code(house: House) -> None:
    async def work(send: Send) -> None:
        assert refused(await send("check", org_id="acme", metric="ideas")) == (404, "unknown_metric")
        assert refused(await send("check", org_id="acmee", metric="idea")) == (404, "unknown_org")
        assert refused(await send("settle", key="none", actual=1)) == (404, "unknown_use")
        for act in ("check", "consume", "reserve"):
            unsaid = {"metric": "idea"} if act == "check" else {"metric": "idea", "key": "nobodys"}
            answer = await send(act, **unsaid)
            assert refused(answer) == (422, "bad_value") and "missing org_id" in answer.text
            assert answer.json()["error"]["details"]["wrong"][0]["at"] == "org_id"
        for order in (
            {"quantity": 0}, {"quantity": 10**12 + 1}, {"quantity": 1.5}, {"quantity": "1"}, {"metric": ""},
            {"more": 1}, {"key": "x\x00"},
        ):  # fmt: skip
            wrong = {"key": "i", "org_id": "acme", "metric": "idea", **order}
            assert refused(await send("consume", **wrong))[0] == 422, order
        for act in ("check", "consume", "reserve"):
            named = {} if act == "check" else {"key": "i"}
            answer = await send(act, **named, org_id="acme", metric="idea", amount=1)
            assert refused(answer) == (422, "bad_value"), "credits are an amount, base units a quantity"
            assert "amount: unknown field; did you mean quantity?" in answer.text

    with_guard(house, work)


def test_guard_bound_key_sees_only_uses_of_its_org(house: House) -> None:
    async def work(send: Send) -> None:
        by = house.fleet.by
        write(house.fleet.engine, lambda c: guard_holds.reserve(c, "theirs", Wish("wayne", "idea", 1), by))
        assert refused(await send("check", org_id="wayne", metric="idea")) == (403, "foreign_org")
        for act, more in (("settle", {"actual": 1}), ("release", {}), ("extend", {})):
            assert refused(await send(act, key="theirs", **more)) == (404, "unknown_use")
        assert (await send("consume", key="own", org_id="acme", metric="idea")).json()["decision"] == "allow"
        found = (await send("consume", key="theirs", org_id="acme", metric="idea")).json()
        assert (found["decision"], found["repeated"]) == ("allow", False), "nor is it told that the key is another's"
        for act in ("check", "consume", "reserve"):
            order = {"metric": "idea"} if act == "check" else {"metric": "idea", "key": f"unsaid {act}"}
            assert (await send(act, **order)).json()["decision"] != "block", "whose it is need not be said"
        assert house.fleet.rows("SELECT DISTINCT org_id FROM guard_uses WHERE use_key LIKE '%unsaid%'") == [("acme",)]

    with_guard(house, work, org="acme")


def test_guard_check_without_scope_is_refused(house: House) -> None:
    give(house, "acme")
    make_key(house, "app", "usage:read")

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        assert refused(await _post(program, "check", {"org_id": "acme", "metric": "idea"})) == (403, "no_scope")

    served(house, work)
