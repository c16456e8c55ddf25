"""Overrides over HTTP: a program asks, a person decides, and the product is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS
from drawdown.server.api.codes import CALLS
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused

PATH = "/v1/guard/overrides"
TOLD = ("override.requested", "override.approved", "override.refused", "override.ended")


class Desk:
    """A program with a key, and a person with the admin secret."""

    def __init__(self, house: House, caller: Caller, key: str = "app") -> None:
        self.house, self.caller = house, caller
        self.program = Program(caller, key_of(key))

    async def ask(self, amount: int | None = 9, **order: Any) -> httpx.Response:
        given = {
            "org_id": "acme",
            "metric": "idea",
            "amount": amount,
            "ends_ms": self.house.clock.at_ms + DAY_MS,
            **order,
        }
        return await self.caller.send("POST", PATH, json.dumps(given).encode(), self.program.headers())

    async def list(self, query: str = "org_id=acme") -> Any:
        return await self.caller.send("GET", f"{PATH}?{query}", headers=self.program.headers())

    async def check(self) -> Any:
        body = json.dumps({"org_id": "acme", "metric": "idea", "quantity": 5}).encode()
        return (await self.caller.send("POST", "/v1/guard/check", body, self.program.headers())).json()

    async def decide(self, number: object, word: str, reason: str = "a test") -> httpx.Response:
        path, body = f"/admin/overrides/{number}/{word}", json.dumps({"actor": "ann", "reason": reason}).encode()
        return await self.caller.send("POST", path, body, self.house.signed(path, body))


def with_desk(house: House, work: Callable[[Desk], Awaitable[None]], **more: Any) -> None:
    """`idea` is allowed once a month to who has no override."""
    for org in ("acme", "wayne"):
        give(house, org)
    by, engine = house.fleet.by, house.fleet.engine
    write(engine, lambda c: guard_terms.set_metric(c, "idea", Change(phase=3), by))
    write(engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea", "*", "month", 1), by))
    write(engine, lambda c: hooks.set_endpoint(c, "app", "https://app.example/in", TOLD, by, new=True))
    make_key(house, "app", "guard", **more)
    served(house, lambda caller: work(Desk(house, caller)))
    assert read(engine, verify).breaches == []


def told(house: House) -> list[dict[str, Any]]:
    return [
        json.loads(str(body)) for (body,) in house.fleet.rows("SELECT body FROM hook_messages ORDER BY at_ms, fact")
    ]


def test_override_request_is_approved_ended_and_refused_with_webhooks(house: House) -> None:
    async def work(desk: Desk) -> None:
        blocked = await desk.check()
        assert (blocked["options"], blocked["links"]) == (
            ["request_override", "run_locally"],
            {"request_override": PATH},
        )
        asked = (await desk.ask(reason="a workshop")).json()
        assert (asked["number"], asked["state"], asked["target"], asked["period"]) == (1, "asked", "acme", "month")
        assert (asked["actor"], asked["reason"], asked["decided_by"]) == ("key:app", "a workshop", None)
        assert (await desk.check())["decision"] == "block", "nothing counts before it is approved"
        house.clock.at_ms += 1
        done = (await desk.decide(1, "approve", "as agreed")).json()
        assert (done["state"], done["decided_by"], done["decided_reason"]) == ("in_force", "ann", "as agreed")
        allowed = await desk.check()
        assert (allowed["decision"], allowed["rule"], allowed["links"]) == ("allow", "override:1", {})
        assert (await desk.decide(1, "approve")).json()["state"] == "in_force", "the same again changes nothing"
        assert refused(await desk.decide(1, "refuse")) == (409, "refused")
        house.clock.at_ms += 1
        assert (await desk.decide(1, "end")).json()["state"] == "ended"
        assert (await desk.check())["decision"] == "block"
        second = (await desk.ask(amount=None, period="day")).json()
        house.clock.at_ms += 1
        assert (await desk.decide(second["number"], "refuse")).json()["state"] == "refused"

    with_desk(house, work)
    said = told(house)
    assert [one["type"] for one in said] == [
        "override.requested", "override.approved", "override.ended", "override.requested", "override.refused",
    ]  # fmt: skip
    first = said[0]["data"]
    assert (first["org_id"], first["override"], first["amount"], first["actor"]) == ("acme", 1, 9, "key:app")
    assert (said[1]["data"]["actor"], said[1]["data"]["reason"]) == ("ann", "as agreed")


@pytest.mark.both_databases
def test_override_request_repeated_returns_first(house: House) -> None:
    async def work(desk: Desk) -> None:
        answers = await asyncio.gather(*(desk.ask() for _ in range(6)))
        assert {one.json()["number"] for one in answers} == {1}
        assert (await desk.ask(8)).json()["number"] == 2
        await desk.decide(1, "refuse")
        assert (await desk.ask()).json()["number"] == 3, "who was refused may ask again"
        await desk.decide(3, "approve")
        again = (await desk.ask()).json()
        assert (again["number"], again["state"]) == (3, "in_force"), "it was approved before its answer came"

    with_desk(house, work)
    assert len(told(house)) == 5


def test_override_requests_beyond_limit_are_refused(house: House) -> None:
    async def work(desk: Desk) -> None:
        for amount in range(guard_overrides.MOST_ASKED):
            assert (await desk.ask(amount)).status_code == 200
        assert refused(await desk.ask(999)) == (409, "too_many_asked")
        assert (await desk.ask(0)).json()["number"] == 1
        assert (await desk.ask(999, org_id="wayne")).status_code == 200

    with_desk(house, work)


def test_override_list_is_filtered_by_org(house: House) -> None:
    async def work(desk: Desk) -> None:
        await desk.ask(5)
        await desk.ask(6, org_id="wayne")
        await desk.ask(7, ends_ms=house.clock.at_ms + 5)
        await desk.decide(3, "approve")
        house.clock.at_ms += 5
        assert [one["number"] for one in (await desk.list()).json()["overrides"]] == [1]
        everything = (await desk.list("org_id=acme&all=true&metric=idea&most=9")).json()["overrides"]
        assert [(one["number"], one["state"]) for one in everything] == [(1, "asked"), (3, "over")]
        bad = (("", 422), ("org_id=acme&most=0", 422), ("org_id=nobody", 404), ("org_id=acme&metric=ida", 404))
        for query, wrong in bad:
            assert (await desk.list(query)).status_code == wrong, query

    with_desk(house, work)


def test_override_by_bound_key_for_another_org_is_refused(house: House) -> None:
    async def work(desk: Desk) -> None:
        assert (await desk.ask()).status_code == 200
        assert refused(await desk.ask(org_id="wayne")) == (403, "foreign_org")
        assert refused(await desk.list("org_id=wayne")) == (403, "foreign_org")

    with_desk(house, work, org="acme")


def test_override_invalid_request_or_decision_is_refused_with_code(house: House) -> None:
    async def work(desk: Desk) -> None:
        now = house.clock.at_ms
        for order, wrong in (
            ({"metric": "ida"}, (404, "unknown_metric")),
            ({"org_id": "acmee"}, (404, "unknown_org")),
            ({"ends_ms": now}, (422, "bad_value")),
            ({"ends_ms": now + guard_overrides.MOST_LIFE_MS + 1}, (422, "bad_value")),
            ({"amount": -1}, (422, "bad_value")),
            ({"period": "at_once"}, (422, "bad_value")),
            ({"reach": "plan"}, (422, "bad_value")),
        ):
            answer = await desk.ask(**order)
            assert refused(answer) == wrong, order
            if wrong[1] == "bad_value":
                assert answer.json()["error"]["details"]["wrong"][0]["at"] == next(iter(order)), order
                assert "--" not in answer.text, "what it says is not about a command's options"
        make_key(house, "other", "ledger:read")
        stranger = Desk(house, desk.caller, "other")
        assert refused(await stranger.ask()) == (403, "no_scope")
        assert refused(await stranger.list()) == (403, "no_scope")
        await desk.ask()
        for number, word in (
            (1, "make"),
            ("x", "approve"),
            ("1" * 30, "approve"),
            ("%D9%A3", "approve"),
            (7, "approve"),
        ):
            assert refused(await desk.decide(number, word)) == (404, "unknown_override"), (number, word)
        assert 404 in CALLS["unknown_override"].statuses
        body = json.dumps({"actor": "ann", "reason": "r"}).encode()
        unsigned = await desk.caller.send("POST", "/admin/overrides/1/approve", body, desk.program.headers())
        assert unsigned.status_code == 401, "a program's key is no person's word"
        assert house.fleet.rows("SELECT state FROM guard_overrides") == [("asked",)]

    with_desk(house, work)
