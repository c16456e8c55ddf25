"""A use that emits its event: one call counts against a limit and bills, both or neither, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.features.actions import map_event
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.sources.events.store import NOT_YET_MS
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused

Send = Callable[..., Awaitable[httpx.Response]]
EVENTS = "SELECT source, event_id, event_type, org_id, quantity, subject, project FROM usage_events ORDER BY 1, 2"
USES = "SELECT use_key, amount FROM guard_uses ORDER BY 1"
ORDER = {"key": "x-1", "org_id": "acme", "metric": "export", "event": {"event_type": "page.export"}}


def with_exports(house: House, work: Callable[[Send], Awaitable[None]], *scopes: str, **more: Any) -> None:
    """`export`, of which acme may have five a month; its events are billed as a feature."""
    give(house, "acme")
    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, "export", Change(phase=3), by))
    write(house.fleet.engine, lambda c: guard_terms.set_limit(c, PlanLimit("export", "*", "month", 5), by))
    write(house.fleet.engine, lambda c: map_event(c, "page.export", "export", by, new=True))
    make_key(house, "app", *(scopes or ("guard", "events:write")), **more)

    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of("app"))

        async def send(path: str, **order: object) -> httpx.Response:
            return await caller.send("POST", f"/v1/{path}", json.dumps(order).encode(), program.headers())

        await work(send)

    served(house, whole)
    assert read(house.fleet.engine, verify).breaches == []


@pytest.mark.both_databases
def test_guard_use_with_event_repeated_emits_event_once(house: House) -> None:
    async def work(send: Send) -> None:
        found = (await send("guard/consume", **ORDER, quantity=2, subject="ann", project="site")).json()
        assert (found["decision"], found["event"]) == (
            "allow",
            {"status": "accepted", "source": "/guard", "event_id": "x-1", "code": None, "message": None},
        )
        house.clock.at_ms += 60_000  # the event says no time: the same call is the same one all the same
        again = (await send("guard/consume", **ORDER, quantity=2, subject="ann", project="site")).json()
        assert (again["repeated"], again["event"]["status"]) == (True, "duplicate")
        other = {**ORDER, "quantity": 2, "subject": "ann", "project": "site", "event": {"event_type": "page.other"}}
        assert refused(await send("guard/consume", **other)) == (409, "other_content")
        more = {"event_id": "mine", "source": "/web", "quantity": 70, "subject": "bob", "properties": {"model": 1.5}}
        found = (await send("guard/consume", **{**ORDER, "key": "x-2", "event": {**ORDER["event"], **more}})).json()  # type: ignore[dict-item]
        assert found["event"] == {
            "status": "accepted", "source": "/web", "event_id": "mine", "code": None, "message": None,
        }  # fmt: skip

    with_exports(house, work)
    assert house.fleet.rows(EVENTS) == [
        ("/guard", "x-1", "page.export", "acme", 2, "ann", "site"),
        ("/web", "mine", "page.export", "acme", 70, "bob", None),
    ]
    assert house.fleet.rows(USES) == [("x-1", 2), ("x-2", 1)]


@pytest.mark.both_databases
def test_guard_blocked_use_does_not_emit_event(house: House) -> None:
    async def work(send: Send) -> None:
        found = (await send("guard/consume", **ORDER, quantity=6)).json()
        assert (found["decision"], found["event"]) == ("block", None)
        dear = {**ORDER, "metric": "dear"}
        found = (await send("guard/consume", **dear)).json()
        assert (found["decision"], found["reason"], found["event"]) == ("block", "no_credit", None)

    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, "dear", Change(price_micro=900 * MICRO, phase=3), by))
    write(house.fleet.engine, lambda c: guard_terms.set_limit(c, PlanLimit("dear", "*", "month", 5), by))
    with_exports(house, work)
    assert house.fleet.rows(EVENTS) == house.fleet.rows(USES) == []


@pytest.mark.both_databases
def test_guard_use_with_refused_event_is_not_counted(house: House) -> None:
    async def work(send: Send) -> None:
        taken = {"source": "/guard", "event_id": "x-1", "event_type": "page.export", "org_id": "acme", "quantity": 9}
        assert (await send("events", **taken)).status_code == 200
        answer = await send("guard/consume", **ORDER)
        assert refused(answer) == (409, "bad_event") and "other_content" in answer.text
        old = {"event_type": "page.export", "occurred_at": house.clock.at_ms - NOT_YET_MS - DAY_MS}
        assert refused(await send("guard/consume", **{**ORDER, "key": "x-3", "event": old})) == (409, "bad_event")
        at_once = {**ORDER, "key": "x-4", "event": {"event_type": "sold"}}
        answer = await send("guard/consume", **at_once)
        assert refused(answer) == (409, "bad_event") and "charged_at_once" in answer.text
        same = {"event_type": "page.export", "event_id": "x-1", "quantity": 9, "occurred_at": house.clock.at_ms}
        found = (await send("guard/consume", **{**ORDER, "key": "x-5", "event": same})).json()
        assert (found["decision"], found["event"]["status"]) == ("allow", "duplicate")
        for event, at in (
            ({}, "event.event_type"), ({"event_type": "page.export", "quantity": 1.5}, "event.quantity"),
            ({"event_type": "page.export", "quantity": -1}, "event.quantity"),
            ({"event_type": "page.export", "more": 1}, "event.more"),
            ({"event_type": "page.export", "org_id": "wayne"}, "event.org_id"),
            ({"event_type": "page.export", "occurred_at": "yesterday"}, "event.occurred_at"),
        ):  # fmt: skip
            answer = await send("guard/consume", **{**ORDER, "key": "x-6", "event": event})
            assert refused(answer) == (422, "bad_value"), event
            assert answer.json()["error"]["details"]["wrong"][0]["at"] == at

    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, "sold", Change(price_micro=MICRO, phase=3), by))
    with_exports(house, work)
    assert house.fleet.rows(USES) == [("x-5", 1)]
    assert [row[1:5] for row in house.fleet.rows(EVENTS)] == [("x-1", "page.export", "acme", 9)]


@pytest.mark.both_databases
def test_guard_use_with_mistyped_event_type_is_refused_with_suggestion(house: House) -> None:
    async def work(send: Send) -> None:
        answer = await send("guard/consume", **{**ORDER, "event": {"event_type": "page.exprt"}})
        assert refused(answer) == (409, "bad_event")
        assert "unknown event type page.exprt; did you mean page.export?" in answer.text
        assert "`POST /v1/event-types/{event_type}/map`" in answer.text, "a new one can be mapped first"
        several = [{**ORDER, "key": f"x-{at}", "event": {"event_type": "page.exprt"}} for at in range(8)]
        answers = await asyncio.gather(*(send("guard/consume", **order) for order in several))
        assert {refused(answer) for answer in answers} == {(409, "bad_event")}
        found = (await send("guard/consume", **{**ORDER, "event": {"event_type": "video.cut"}})).json()
        assert (found["decision"], found["event"]["status"]) == ("allow", "pending"), "it is unlike any, so it is new"

    with_exports(house, work)
    assert house.fleet.rows(USES) == [("x-1", 1)]
    assert [row[2] for row in house.fleet.rows(EVENTS)] == ["video.cut"]
    assert house.fleet.rows("SELECT 1 FROM event_types WHERE event_type = 'page.exprt'") == []


def test_guard_use_with_event_needs_events_scope(house: House) -> None:
    async def work(send: Send) -> None:
        assert refused(await send("guard/consume", **ORDER)) == (403, "no_scope")
        assert (await send("guard/consume", key="x-1", org_id="acme", metric="export")).status_code == 200

    with_exports(house, work, "guard")


def test_guard_use_with_event_by_bound_key_takes_source_of_key(house: House) -> None:
    async def work(send: Send) -> None:
        found = (await send("guard/consume", key="x-1", metric="export", event={"event_type": "page.export"})).json()
        assert found["event"]["source"] == "/acme"
        foreign = {"event_type": "page.export", "source": "/other"}
        answer = await send("guard/consume", key="x-2", metric="export", event=foreign)
        assert refused(answer) == (422, "bad_value") and "bound to the source" in answer.text

    with_exports(house, work, org="acme", source="/acme")
    assert [row[0:2] for row in house.fleet.rows(EVENTS)] == [("/acme", "x-1")]


@pytest.mark.both_databases
def test_guard_concurrent_uses_emit_same_number_of_events_up_to_limit(house: House) -> None:
    """32 calls at once, each key twice, of five that the limit allows: as many events as uses, of the same keys."""

    async def work(send: Send) -> None:
        orders = [{**ORDER, "key": f"x-{at % 16}"} for at in range(32)]
        answers = await asyncio.gather(*(send("guard/consume", **order) for order in orders))
        assert {answer.status_code for answer in answers} == {200}

    with_exports(house, work)
    uses = {row[0] for row in house.fleet.rows(USES)}
    assert len(uses) == 5 and {row[1] for row in house.fleet.rows(EVENTS)} == uses
