"""Small requests of one key that come at once share a transaction: each is answered as if it had come alone."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema import database
from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy
from drawdown.server.api import programs
from drawdown.server.usage import intake, singles
from drawdown.worker.access import keys as api_keys
from drawdown.worker.features.actions import map_event
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, SAMPLES, Sender, event, said, sample, sender
from tests.server.program import refused

KEPT = "SELECT event_id FROM usage_events"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many transactions there were. The first waits until the others are there."""
    found: list[int] = []
    real: Any = database.write

    def counted(engine: sa.Engine, work: Any) -> Any:
        found.append(1)
        return real(engine, work)

    monkeypatch.setattr(intake, "write", counted)
    return found


@pytest.mark.both_databases
def test_thousand_concurrent_single_events_share_transactions(
    house: House, writes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In far fewer transactions, each once; however slow the machine is."""
    monkeypatch.setattr(programs, "WITHIN_S", 300.0)
    sender(house)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        answers = await asyncio.gather(*(send.send(EVENTS, event(f"e{at}")) for at in range(1_000)))
        assert {answer.status_code for answer in answers} == {200}
        again = await asyncio.gather(*(send.send(EVENTS, event(f"e{at}")) for at in range(20)))
        assert {said(answer)[0][0] for answer in again} == {"duplicate"}

    served(house, work)
    assert len(house.fleet.rows(KEPT)) == 1_000
    assert len(writes) < 300


@pytest.mark.both_databases
def test_concurrent_single_requests_are_answered_as_if_separate(house: House) -> None:
    """Repeated, contradicted, invalid, mistyped and unreadable, among those that are right: 20 times over."""
    sender(house)
    bodies: list[Any] = []
    for at in range(20):
        bodies += [
            event(f"right-{at}"), event(f"twice-{at}"), event(f"twice-{at}"), event(f"other-{at}", 1),
            event(f"other-{at}", 2), event(f"wrong-{at}", -1), event(f"wrong-{at}", 3), b"{", b"[]", event(""),
            [event(f"a-{at}"), event(f"b-{at}", "x")],
        ]  # fmt: skip

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        answers = await asyncio.gather(*(send.send(EVENTS, one) for one in bodies))
        for at in range(0, len(answers), 11):
            right, one, two, first, second, wrong, late, cut, _, nameless, some = answers[at : at + 11]
            assert said(right)[0][0] == "pending"
            assert {said(one)[0][0], said(two)[0][0]} == {"pending", "duplicate"}
            assert {said(first)[0][0], said(second)[0][0]} == {"pending", "conflict"}
            assert wrong.status_code == 422 and said(late)[0][0] == "pending"
            assert refused(cut) == (400, "not_json") and nameless.status_code == 422
            assert some.status_code == 207 and [one[0] for one in said(some)] == ["pending", "invalid"]

    served(house, work)
    kept = {str(row[0]).rpartition("-")[0] for row in house.fleet.rows(KEPT)}
    assert kept == {"right", "twice", "other", "wrong", "a"} and len(house.fleet.rows(KEPT)) == 5 * 20


def test_concurrent_single_events_with_failed_commit_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all of them: nobody waits for a dead database once for each."""
    sender(house)
    tries: list[int] = []

    def fails(engine: sa.Engine, work: Any) -> Any:
        tries.append(1)
        raise DatabaseBusy("the database is away")

    monkeypatch.setattr(intake, "write", fails)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        answers = await asyncio.gather(*(send.send(EVENTS, event(f"e{at}")) for at in range(100)))
        assert {answer.status_code for answer in answers} == {503}

    served(house, work)
    assert len(tries) < 50 and house.fleet.rows(KEPT) == []


def test_single_requests_beyond_queue_are_refused_as_busy(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one key, so that another is served; and of all."""
    monkeypatch.setattr(singles, "MOST_SINGLES_OF_A_KEY", 3)
    monkeypatch.setattr(singles, "MOST_SINGLES", 6)
    free, real = threading.Event(), database.write
    monkeypatch.setattr(intake, "write", lambda engine, work: free.wait(30) and real(engine, work))
    for name in ("app", "other", "third"):
        sender(house, name)

    async def work(caller: Caller) -> None:
        async def several(name: str, count: int) -> list[asyncio.Task[Any]]:
            send = Sender(caller, name)
            there = caller.server._intake._singles._count
            made = [asyncio.create_task(send.send(EVENTS, event(f"{name}-{there}-{at}"))) for at in range(count)]
            while caller.server._intake._singles._count < there + count:
                await asyncio.sleep(0.01)
            return made

        first = await several("app", 1)
        while any(lane.waiting for lane in caller.server._intake._singles._lanes.values()):
            await asyncio.sleep(0.01)
        first += await several("app", 3)
        assert refused(await Sender(caller, "app").send(EVENTS, event("more"))) == (429, "busy")
        first += await several("other", 2)
        assert refused(await Sender(caller, "third").send(EVENTS, event("more"))) == (429, "busy")
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*first)} == {"pending"}
        assert caller.server._intake._singles._count == 0 and not caller.server._intake._singles._lanes
        assert said(await Sender(caller, "third").send(SAMPLES, sample()))[0][0] == "pending"

    served(house, work)


def test_single_event_of_longest_id_fits_single_request_size(house: House) -> None:
    assert len(json.dumps(event("e" * 200))) < singles.SINGLE_BYTES


def test_event_subject_by_bound_key_is_label_and_reported(house: House) -> None:
    """The same body by a key that is bound: its organisation pays, and the answer says so. A label of the envelope is
    meant as one."""
    sender(house, "bound", org="acme")

    async def work(caller: Caller) -> None:
        send = Sender(caller, "bound")
        (found,) = (await send.send(EVENTS, event("e1", subject="globex"))).json()["results"]
        assert (found["status"], found["code"]) == ("pending", "unassigned"), "what is wrong comes first"
        house.fleet.assign("acme")
        write(house.fleet.engine, lambda c: map_event(c, "page.view", "view", house.fleet.by, new=True))
        (found,) = (await send.send(EVENTS, event("e3", subject="globex", type="page.view"))).json()["results"]
        assert (found["status"], found["code"]) == ("accepted", "subject_is_label")
        assert "acme pays" in found["message"] and "globex" in found["message"]
        for number, subject in enumerate(("acme", ...)):
            body = event(f"e4-{number}", subject=subject, type="page.view")
            (found,) = (await send.send(EVENTS, body)).json()["results"]
            assert found == {"status": "accepted", "id": f"e4-{number}"}
        own = {"source": "/web", "event_id": "e5", "event_type": "page.view", "quantity": 1, "subject": "globex"}
        (found,) = (await send.send(EVENTS, own)).json()["results"]
        assert found == {"status": "accepted", "id": "e5"}

    served(house, work)
    assert {row[0] for row in house.fleet.rows("SELECT org_id FROM usage_events")} == {"acme"}


def test_intake_with_ended_key_is_unauthorized_for_any_body(house: House) -> None:
    """Also one that was found a moment ago."""
    sender(house)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert said(await send.send(EVENTS, event("e1")))[0][0] == "pending"
        by = house.fleet.by
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", by))
        large = json.dumps([event("e2")]).encode() + b" " * singles.SINGLE_BYTES
        for body, headers in (
            (event("e3"), {}), (b"{", {}), (large, {}), (event("e4"), {"content-type": "text/plain"}),
            (b"x", {"content-encoding": "gzip"}),
        ):  # fmt: skip
            assert refused(await send.send(EVENTS, body, **headers)) == (401, "unauthorized"), str(body)[:10]

    served(house, work)
    assert house.fleet.rows(KEPT) == [("e1",)]
