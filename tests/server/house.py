"""A server over a small world: a database, the embedded ledger, emulated Autumn and Stripe, a clock that stands.

Guarantee: requests go through the whole application, frame included, without a socket; every answer is held to what
/openapi.json says its route may answer, field by field, to the one shape of errors, and to the headers that go with
each.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx
import sqlalchemy as sa

from drawdown.providers.autumn import build as build_autumn
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.http import Call, Http, HttpResult
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Provider, Setup
from drawdown.providers.stripe import build as build_stripe
from drawdown.providers.validated_provider import ValidatedProvider
from drawdown.schema.database import read
from drawdown.server.app import Server
from drawdown.server.http.signing import Signed, signature
from drawdown.server.services import NobodyThere, Services, ThreadKit
from drawdown.server.settings import ServerSettings
from drawdown.worker.catalog import terms
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.runner import NoWitness, World
from drawdown.worker.engine.witness import WitnessStore
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.stripe import StripeEmulator
from tests.official import Webhook
from tests.server.exact import require_exact
from tests.world import T0, Fleet

T = TypeVar("T")

ADMIN: Final = ("admin-secret-of-today", "admin-secret-of-yesterday")
CRON: Final = "cron-secret-0123456789"
HOST: Final = "drawdown.test"
PROGRAMS: Final = ("/v1/", "/api/", "/admin/", "/cron/", "/webhooks/")
RUN_ACTS: Final = ("draws", "extend", "settle", "release")
SVIX: Final = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_plJ3nmyCDGBKInavdOK15jsl7p0C1Zg5")
FOREIGN: Final = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass
class Line:
    """An `Http` to an emulator that counts, and may be cut or held up."""

    direct: Direct
    calls: list[str] = field(default_factory=list)
    cut: HttpResult | None = None
    wait_s: float = 0.0
    hangs: bool = False

    async def send(self, call: Call) -> HttpResult:
        self.calls.append(call.url)
        while self.hangs:  # each of the steps' threads has a loop of its own
            await asyncio.sleep(0.01)
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        return self.cut or await self.direct.send(call)

    async def close(self) -> None:
        """There is nothing to close."""


class House:
    """One database, its providers, and any number of servers on it."""

    def __init__(self, engine: sa.Engine, witness: WitnessStore | None = None, **settings: Any) -> None:
        self.witness = witness or NoWitness()
        self.fleet = Fleet(engine)
        self.clock = self.fleet.clock
        self.autumn, self.stripe = AutumnEmulator(), StripeEmulator()
        self.autumn.account.add_feature("compute_1gb")
        self.autumn_line = Line(Direct(self.autumn, self.clock))
        self.stripe_line = Line(Direct(self.stripe, self.clock))
        self.fleet.extra = self._remote(self.autumn_line, self.stripe_line)
        base = ServerSettings(admin_secrets=ADMIN, cron_secret=CRON, requests_per_s=1_000_000)
        self.settings = replace(base, **settings)
        self.server = self.another()

    def _remote(self, autumn: Http, stripe: Http) -> dict[str, Provider]:
        engine = self.fleet.engine
        of_autumn = {"secret_key": SECRET_KEY, "webhook_secrets": ",".join(SVIX)}
        of_stripe = {"secret_key": self.stripe.secret_key, "webhook_secrets": self.stripe.webhook_secret}
        return {
            "autumn": build_autumn(Setup("autumn", of_autumn, self.clock, autumn, engine)),
            "stripe": build_stripe(Setup("stripe", of_stripe, self.clock, stripe, engine)),
        }

    def another(self, engine: sa.Engine | None = None) -> Server:
        """One more server process, as far as a process matters."""
        used = engine or self.fleet.engine
        nobody: dict[str, Provider] = self._remote(NobodyThere(), NobodyThere())
        nobody["embedded"] = EmbeddedProvider(used, self.clock)

        def context() -> Context:
            made = self.fleet.context()
            made.changed = read(used, lambda c: terms.changed(c, made.declared()))
            return made

        def thread_kit() -> ThreadKit:
            cells: Any = self.fleet.cells
            return ThreadKit(World(used, self.fleet.providers, cells, self.clock), context)

        return Server(
            Services(
                engine=used,
                clock=self.clock,
                settings=self.settings,
                providers=self.fleet.providers,
                unasked={name: ValidatedProvider(one) for name, one in nobody.items()},
                broken={"broken": "its reason"},
                http=NobodyThere(),
                thread_kit=thread_kit,
                witness=self.witness,
            )
        )

    def customer(self, org: str, credit: int = 0) -> None:
        """An organisation that Autumn bills, with this much left of compute_1gb."""
        self.autumn.account.add_customer(org, self.clock.now_ms())
        if credit:
            self.grant(org, credit)
        else:
            self.autumn.account.grant(org, "compute_1gb", 0, self.clock.now_ms())
        self.fleet.assign(org, provider="autumn", from_ms=T0)

    def grant(self, org: str, credit: int) -> None:
        self.autumn.account.grant(org, "compute_1gb", credit, self.clock.now_ms())

    def halted(self, org: str) -> bool:
        return bool(self.fleet.one("SELECT is_halted FROM orgs WHERE org_id = :org", org=org))

    def counts(self) -> dict[str, object]:
        """How much of everything there is: what a refused request must not change."""
        tables = ("webhooks", "operator_actions", "projections", "assignments", "used_signatures", "gate_asks", "ticks")
        found: dict[str, object] = {name: self.fleet.one(f"SELECT COUNT(*) FROM {name}") for name in tables}
        found["asks"] = self.fleet.one("SELECT COALESCE(SUM(refresh_requests), 0) FROM orgs")
        return found

    # What is sent.

    def autumn_hook(self, org: str, event_id: str = "msg_1", **changes: Any) -> tuple[bytes, dict[str, str]]:
        """A webhook of Autumn's: body and headers."""
        kind = changes.get("kind", "billing.updated")
        body = changes.get("body", json.dumps({"type": kind, "data": {"customer_id": org}}).encode())
        at_s = changes.get("at_ms", self.clock.now_ms()) // 1000
        signed = Webhook(changes.get("secret", SVIX[0])).sign(
            event_id, datetime.fromtimestamp(at_s, UTC), body.decode()
        )
        return body, {"svix-id": event_id, "svix-timestamp": str(at_s), "svix-signature": signed}

    def signed(self, path: str, body: bytes, **changes: Any) -> dict[str, str]:
        """Headers of an admin request."""
        stamp = str(changes.get("at_ms", self.clock.now_ms()) // 1000)
        query = changes.get("query", b"")
        of = Signed(changes.get("method", "POST"), changes.get("host", HOST), path.encode(), query, body)
        proof = signature(changes.get("secret", ADMIN[0]), stamp, of)
        return {"x-timestamp": stamp, "x-signature": proof, "content-type": "application/json"}


class Caller:
    """A client of one server, inside an event loop."""

    def __init__(self, house: House, server: Server | None = None, address: str = "127.0.0.1") -> None:
        self.house = house
        self.server = server or house.server
        transport = httpx.ASGITransport(self.server.app, client=(address, 4711))
        self.client = httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}")

    async def send(
        self, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        answer = await self.client.request(method, path, content=body, headers=dict(headers or {}))
        found = described(self.server)
        route = _route(path, found["paths"])
        operations = found["paths"].get(route, {})
        if method.lower() in operations:
            assert str(answer.status_code) in operations[method.lower()]["responses"], f"{path}: {answer.status_code}"
            require_exact(found, method.lower(), route, answer)
        else:
            is_known = operations or "%" in route or not route.startswith(PROGRAMS)
            assert answer.status_code >= 400 or is_known, f"{path} is not described"
        if answer.status_code >= 400:
            named = {"error", "results"} if answer.status_code == 422 and "results" in answer.json() else {"error"}
            assert set(answer.json()) == named, answer.text
            assert {"code", "message"} <= set(answer.json()["error"]) <= {"code", "message", "details"}
        for name in ("x-content-type-options", "cache-control", "content-security-policy", "x-frame-options"):
            assert answer.headers.get_list(name) and len(answer.headers.get_list(name)) == 1, name
        return answer

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.send("GET", path, headers=headers)

    async def hook(self, provider: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        return await self.send("POST", f"/webhooks/{provider}", body, headers)

    async def admin(self, org: str, what: str, order: Mapping[str, object] | bytes, **changes: Any) -> httpx.Response:
        path = f"/admin/orgs/{org}/{what}"
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        return await self.send("POST", path, body, self.house.signed(path, body, **changes))

    async def tick(self, secret: str = CRON) -> httpx.Response:
        return await self.send("POST", "/cron/tick", headers={"authorization": f"Bearer {secret}"})

    async def settled(self) -> None:
        """All that was asked for in the background is done; a gate's answer waits for its ask only so long."""
        await asyncio.gather(*self.server._gate._asking.values(), return_exceptions=True)
        await asyncio.to_thread(self.server.step_threads.wait_for_reads)
        if (noting := self.server._programs.noting) is not None:
            await noting


def described(server: Server) -> Mapping[str, Any]:
    """What /openapi.json says. It is the program's, whatever a server's settings are
    (`test_openapi_description_is_independent_of_settings`). It is made once, because that takes as long as ten
    tests."""
    if not _described:
        _described.update(server.routes.openapi())
    return _described


_described: Final[dict[str, Any]] = {}


def _route(path: str, routes: Iterable[str]) -> str:
    """The described path that this one is of, or itself: the one with the most characters of its own."""
    bare = path.partition("?")[0]
    fitting = [route for route in routes if re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(route)), bare)]
    return max(fitting, key=lambda route: len(re.sub(r"\{\w+\}", "", route)), default=bare)


def served(house: House, work: Callable[[Caller], Awaitable[T]]) -> T:
    """Do `work` with a client; whatever runs in the background has ended afterwards."""

    async def whole() -> T:
        caller = Caller(house)
        try:
            return await work(caller)
        finally:
            await asyncio.to_thread(house.server.close)

    return asyncio.run(whole())
