"""What /openapi.json shows as a request is taken as it is shown, of every route, by one server after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx

from drawdown.ledger import pools
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.worker.access.keys import SCOPES
from drawdown.worker.batches import sources
from drawdown.worker.features import actions as features
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.topup import actions as topups
from drawdown.worker.usage import backfills
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools as wallet_pools
from drawdown.worker.wallets import tiers
from tests.fake_payments import CAN
from tests.server.house import CRON, Caller, House, served
from tests.server.intake import EVENTS, Sender, event
from tests.server.program import Program, give, key_of, make_key
from tests.world import T0

RULED: Final = {
    "/v1/suppliers/pixel/payout": "below_threshold",
    "/v1/messages/msg_6a0f0c6d3c0f5ce1b2f3a49d0b8e7c11": "unknown_message",
    "/v1/hooks/app/rotate": "bad_value",  # no DRAWDOWN_HOOK_SECRET is set there
    "/v1/hooks/app/test": "bad_value",  # no DRAWDOWN_HOOK_ORIGINS is set there
    "/v1/orgs/acme/resume": "refused",
    "/v1/overrides/1/end": "ended",
    "/v1/batches/5f2c4a0be7f34a7c9b1d3c5e7f901234": "unknown_batch",
    "/v1/batches/5f2c4a0be7f34a7c9b1d3c5e7f901234/accept": "unknown_batch",
    "/v1/batches/5f2c4a0be7f34a7c9b1d3c5e7f901234/withdraw": "unknown_batch",
    "/v1/backfills/june/close": "refused",  # its hash is of what it holds then
    "/v1/samples/withdraw": "unknown_sample",
    "/v1/providers/autumn/accept": "refused",  # its settings have not changed
    "/v1/pushes/retry": "refused",  # none is rejected
    "/v1/pushes/resolve": "refused",
    "/v1/pushes/void": "refused",
    "/v1/cells/cell-1/remove": "unknown_cell",
    "/v1/features/acme/end": "refused",
    "/v1/jobs/1/cancel": "unknown_job",
    "/v1/topups/topup%3Aacme%3A1/resolve": "unknown_topup",
}
"""What a rule refuses as things stand there, by its code: each of them is a dry run."""
BEFORE: Final = ("preview", "executions", "reserve", "overrides", "draws", "extend")
"""What comes first, in this order, by the ends of paths: what others end."""


def test_openapi_request_examples_are_accepted(lone: House) -> None:
    """So that who copies one is not refused: month and moments go not together, a cursor is one of this route, and no
    end lies in the past."""
    shop(lone)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        sent = await Sender(caller).send(EVENTS, event(time="2026-01-01T00:00:01Z"))
        assert sent.json()["results"] == [{"status": "accepted", "id": "e1"}]
        await asyncio.to_thread(lone.fleet.tick, T0 + 3 * WINDOW_MS)
        lone.clock.at_ms = T0 + 50 * DAY_MS
        await program.accept("r-1", supplier="pixel")
        await program.post("/r-1/settle", {"actual": 4})
        await program.accept("e-2", project="site", subject="ann", action="render")
        hold = {"key": "copy-2", "org_id": "acme", "metric": "bandwidth"}
        await caller.send("POST", "/v1/guard/reserve", json.dumps(hold).encode(), program.headers())
        for number, (method, path, query, one, kind, body) in enumerate(requests(caller.server.routes.openapi())):
            answer = await send(caller, method, path, query, one, kind, body, number)
            if path in RULED:
                assert answer.json().get("error", {}).get("code") == RULED[path], (path, answer.text)
                continue
            assert answer.status_code in (200, 204), (method, path, query, body, answer.text)
            for result in answer.json().get("results", ()) if kind and answer.content else ():
                assert result["status"] in ("accepted", "duplicate"), (path, result)

    served(lone, work)


def shop(house: House) -> None:
    """What the examples name: acme, which wayne pays for and Autumn might bill, a supplier, and what is metered."""
    give(house, "acme")
    give(house, "wayne")
    make_key(house, "app", *SCOPES, gives_micro=10**9 * MICRO)
    engine, by = house.fleet.engine, house.fleet.by
    write(engine, lambda c: credit.grant(c, "acme", MICRO, by, key="invoice-7", plan=None))
    write(engine, lambda c: credit.set_plan_limit(c, "team", 20, by))
    write(engine, lambda c: credit.put_on_plan(c, "acme", "team", by))
    tops_up = topups.Terms(MICRO, 20 * MICRO, None, 100, "usd", "fake", "cus_1", 10_000, mode="stopped")
    write(engine, lambda c: topups.set_terms(c, "acme", tops_up, CAN, by))
    write(engine, lambda c: wallet_pools.make(c, "course", by))
    write(engine, lambda c: credit.grant(c, "course", 100 * MICRO, by, key="course", plan=None))
    write(engine, lambda c: tiers.set_tier(c, "pro", tiers.Change(100, MICRO), by))
    write(engine, lambda c: features.map_event(c, "page.render", "render", by, new=True))
    write(engine, lambda c: credit.set_rate(c, "render", 2, 1, by, from_ms=0))
    write(engine, lambda c: hooks.set_endpoint(c, "app", "https://app.example/in", (), by, new=True))
    house.autumn.account.add_customer("hz0", T0)
    write(engine, lambda c: backfills.open_backfill(c, "june", "acme", T0 - 2 * DAY_MS, T0 - DAY_MS, by))
    write(engine, lambda c: sources.add_source(c, "exports", Path(__file__).parent, by))
    terms = settlements.Change(share_ppm=700_000, hold_ms=90 * DAY_MS, threshold_micro=0, takes_clawbacks=True)
    write(engine, lambda c: settlements.set_supplier(c, "pixel", terms, by, new=True))
    write(engine, lambda c: pools.say(c, "wayne", "acme", by, allowed=True, limit_micro=10 * MICRO))
    for metric, change in (("idea.create", Change(phase=3)), ("bandwidth", Change(phase=3))):
        write(engine, lambda c, m=metric, to=change: guard_terms.set_metric(c, m, to, by))  # type: ignore[misc]
        write(engine, lambda c, m=metric: guard_terms.set_limit(c, PlanLimit(m, "*", "month", None), by))  # type: ignore[misc]


Request = tuple[str, str, str, Mapping[str, Any], str, bytes]
"""Method, path, query, the description, the type of the body (empty: none), the body."""


def requests(found: Mapping[str, Any]) -> Iterator[Request]:
    operations = [(method, path, one) for path, ways in found["paths"].items() for method, one in ways.items()]
    for method, route, one in sorted(operations, key=_rank):
        path, query = route, []
        for parameter in one.get("parameters", ()):
            name, example = parameter["name"], parameter["example"]
            if parameter["in"] == "path":
                path = path.replace("{" + name + "}", quote(example, safe=""))
            elif parameter["in"] == "query" and example is not None:
                values = example if isinstance(example, list) else [example]
                query += [(name, json.dumps(value) if isinstance(value, bool) else value) for value in values]
        bodies = one.get("requestBody", {}).get("content", {"": {"example": ""}})
        for kind, content in bodies.items():
            example = content["example"] if "example" in content else content["schema"]["examples"][0]
            body = example if isinstance(example, str) else json.dumps(example)
            yield method.upper(), path, urlencode(query), one, kind, body.encode()


def _rank(operation: tuple[str, str, Any]) -> tuple[bool, int, bool]:
    method, path, _ = operation
    end = path.rpartition("/")[2]
    return method != "post", BEFORE.index(end) if end in BEFORE else len(BEFORE), path.startswith("/admin/")


async def send(
    caller: Caller, method: str, path: str, query: str, one: Mapping[str, Any], kind: str, body: bytes, number: int
) -> httpx.Response:
    """With the proof that the route asks for."""
    needs = {name for ways in one.get("security", ()) for name in ways}
    headers = {"content-type": kind} if kind else {}
    headers |= {p["name"]: p["example"] for p in one.get("parameters", ()) if p["in"] == "header"}
    if "key" in needs:
        headers["authorization"] = f"Bearer {key_of('app')}"
    elif "bearer" in needs:
        headers["authorization"] = f"Bearer {CRON}"
    elif "signature" in needs:
        headers |= caller.house.signed(path, body, at_ms=caller.house.clock.at_ms - number * 1000)
    elif path.startswith("/webhooks/"):
        headers |= caller.house.autumn_hook("acme", body=body)[1]
    return await caller.send(method, path + (f"?{query}" if query else ""), body, headers)
