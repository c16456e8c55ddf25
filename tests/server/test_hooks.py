"""A test message to an endpoint over HTTP: it is due once, for an endpoint that this server may call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from drawdown.schema.database import write
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks.hook_settings import HookSettings
from tests.server.house import Caller, House, served
from tests.server.program import Program, key_of, make_key, refused

TEST = "/v1/hooks/app/test"


@pytest.fixture
def shop(lone: House) -> House:
    """An endpoint that the server may call, and one of another origin."""
    for name, bound in (("app", None), ("bound", "acme")):
        make_key(lone, name, "hooks:write", "hooks:read", org=bound)
    lone.fleet.assign("acme")
    for name in ("app", "other"):
        listens(lone, name, f"https://{name}.example/in")
    lone.server.services.hooks = HookSettings(frozenset({"https://app.example:443"}), ("root",))
    return lone


def listens(house: House, name: str, url: str) -> None:
    write(house.fleet.engine, lambda c: hooks.set_endpoint(c, name, url, (), house.fleet.by, new=True))


async def send(program: Program, path: str, body: object, **headers: str) -> Any:
    return await program.caller.send("POST", path, json.dumps(body).encode(), program.headers(**headers))


def test_hook_test_message_with_repeated_idempotency_key_is_due_once(shop: House) -> None:
    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        answer = await send(program, TEST, {"dry_run": True})
        assert answer.json().get("dry_run") is True, answer.text
        answers = await asyncio.gather(*(send(program, TEST, {}, **{"idempotency-key": "t-1"}) for _ in range(4)))
        (text,) = {answer.text for answer in answers}
        found = json.loads(text)
        assert {**found, "message_id": ""} == {"name": "app", "url": "https://app.example/in", "message_id": ""}
        shown = (await program.get(f"/messages/{found['message_id']}")).json()
        assert json.loads(shown["body"])["type"] == "endpoint.test"
        assert [(row["endpoint"], row["state"]) for row in shown["deliveries"]] == [("app", "due")]

    served(shop, work)
    assert shop.fleet.rows("SELECT COUNT(*) FROM hook_deliveries") == [(1,)]


def test_hook_test_message_to_ended_or_unknown_endpoint_is_refused(shop: House) -> None:
    listens(shop, "old", "https://app.example/in")
    write(shop.fleet.engine, lambda c: hooks.end(c, "old", shop.fleet.by))
    refusals = {"other": (422, "bad_value"), "old": (409, "refused"), "apq": (422, "unknown_endpoint")}

    async def work(caller: Caller) -> None:
        for name, status in refusals.items():
            answer = await send(Program(caller, key_of("app")), f"/v1/hooks/{name}/test", {})
            assert refused(answer) == status, (name, answer.text)
        answer = await send(Program(caller, key_of("bound")), TEST, {})
        assert refused(answer) == (403, "foreign_org"), "as the other operations on endpoints"

    served(shop, work)
    assert shop.fleet.rows("SELECT COUNT(*) FROM hook_messages") == [(0,)]
