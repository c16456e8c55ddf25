"""A program with an API key, and an organisation with credit."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

import httpx
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import MICRO
from drawdown.worker.access import keys as api_keys
from drawdown.worker.wallets.actions import grant
from tests.server.house import Caller, House

RUNS: Final = ("executions:read", "executions:write", "ledger:read")


def key_of(name: str) -> str:
    """A key as `drawdown key create` makes them, the same for the same name."""
    digest = hashlib.sha256(name.encode()).digest()
    return api_keys.PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def make_key(
    house: House,
    name: str,
    *scopes: str,
    org: str | None = None,
    cell_id: str | None = None,
    source: str | None = None,
    for_ms: int | None = None,
    gives_micro: int = 0,
) -> str:
    key, by = key_of(name), house.fleet.by
    wanted = scopes or RUNS

    def make(connection: sa.Connection) -> None:
        api_keys.create(
            connection, key, name, wanted, by, org_id=org, cell_id=cell_id, source=source, gives_micro=gives_micro,
            for_ms=for_ms, new=True, any_source=True,
        )  # fmt: skip

    write(house.fleet.engine, make)
    return key


def give(house: House, org: str, credits: int = 100) -> None:
    """An organisation that the embedded ledger bills, with credit."""
    house.fleet.assign(org)
    by = house.fleet.by
    write(house.fleet.engine, lambda c: grant(c, org, credits * MICRO, by, key=f"first of {org}", plan=None))


class Program:
    """Sends with one key; each answer is held to the description (`Caller.send`)."""

    def __init__(self, caller: Caller, key: str) -> None:
        self.caller, self.key = caller, key

    def headers(self, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json", **more}

    async def post(self, path: str, order: Any = None, **headers: str) -> httpx.Response:
        body = order if isinstance(order, bytes) else json.dumps({} if order is None else order).encode()
        return await self.caller.send("POST", f"/v1/executions{path}", body, self.headers(**headers))

    async def get(self, path: str) -> httpx.Response:
        return await self.caller.send("GET", f"/v1{path}", headers=self.headers())

    async def accept(self, key: str, estimate: object = 6, **more: object) -> httpx.Response:
        return await self.post("", {"key": key, "org_id": "acme", "estimate": estimate, **more})


def wrong_at(answer: httpx.Response) -> str:
    """Of a value that is refused: which it is."""
    assert refused(answer) == (422, "bad_value"), answer.text
    (wrong,) = answer.json()["error"]["details"]["wrong"]
    return str(wrong["at"])


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json()["error"]["code"]
