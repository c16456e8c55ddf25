"""The gate: one read, a word asked again where it is shut, and closed when in doubt."""

from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy as sa

from drawdown.providers.http import NotSent
from drawdown.schema.database import connect
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import WINDOW_MS
from drawdown.server.api import gate, health
from drawdown.server.settings import ServerSettings, UnknownOrg
from drawdown.worker.orgs.actions import halt, override
from drawdown.worker.verdict.refresh_requests import Gated, read_gated
from tests.patience import PATIENT_S
from tests.server.house import Caller, House, served
from tests.world import T0

ASKED = "customers.get"


def calls(house: House) -> int:
    """How often Autumn was asked about a customer."""
    return sum(ASKED in url for url in house.autumn_line.calls)


def test_gate_of_allowed_org_does_not_call_provider_or_write(house: House) -> None:
    house.customer("acme", 100)
    house.fleet.tick(T0 + WINDOW_MS)
    before, asked = house.counts(), calls(house)

    async def work(caller: Caller) -> None:
        answer = await caller.get("/v1/gate/acme")
        assert answer.json() == {
            "org_id": "acme",
            "allowed": True,
            "reason": None,
            "max_concurrent_sandboxes": None,
            "as_of": "2026-01-01T00:05:00.000Z",
            "decision": "allow",
            "rule": "unlimited",
            "options": [],
            "degraded": False,
        }

    served(house, work)
    assert (house.counts(), calls(house)) == (before, asked)


@pytest.mark.both_databases
def test_gate_of_halted_org_calls_provider_once_in_ten_seconds(house: House) -> None:
    house.customer("acme")
    house.fleet.tick(T0 + WINDOW_MS)
    other = house.another()
    asked = calls(house)
    house.autumn_line.wait_s = 0.05

    async def work(caller: Caller) -> None:
        callers = [caller, Caller(house, other)]  # two processes
        for later_ms, more in ((0, 1), (9_000, 1), (10_000, 2), (19_999, 2)):
            house.clock.at_ms = T0 + WINDOW_MS + later_ms
            answers = await asyncio.gather(*(callers[n % 2].get("/v1/gate/acme") for n in range(50)))
            assert {one.json()["reason"] for one in answers} == {"credits_exhausted"}
            for one in callers:
                await one.settled()
            assert calls(house) == asked + more, later_ms
        house.grant("acme", 100)
        house.clock.at_ms += 10_001
        answers = await asyncio.gather(*(caller.get("/v1/gate/acme") for _ in range(50)))
        assert {one.json()["allowed"] for one in answers} == {True}, "the fresh verdict is answered"
        assert calls(house) == asked + 3

    served(house, work)
    other.close()


def test_gate_with_slow_provider_answers_with_single_call_in_flight(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "FRESH_WITHIN_S", 0.05)
    house.customer("acme")
    house.fleet.tick(T0 + WINDOW_MS)
    asked, house.autumn_line.hangs = calls(house), True

    async def work(caller: Caller) -> None:
        for turn in range(3):
            house.clock.at_ms = T0 + WINDOW_MS + turn * 11_000
            answer = await caller.get("/v1/gate/acme")
            assert (answer.json()["allowed"], answer.json()["reason"]) == (False, "credits_exhausted")
            async with asyncio.timeout(PATIENT_S):  # on a slow machine the first answer comes before the call
                while calls(house) == asked:
                    await asyncio.sleep(0.01)
            assert calls(house) == asked + 1, "one call is in flight, however long it takes"
            again = await Caller(house, other).get("/v1/gate/acme")  # of another process
            assert again.json()["allowed"] is False
            assert calls(house) == asked + 1
        house.autumn_line.hangs = False
        await caller.settled()
        assert calls(house) == asked + 1

    other = house.another()
    served(house, work)
    other.close()


def test_gate_with_unreachable_provider_answers_stored_verdict(house: House) -> None:
    house.customer("acme")
    house.fleet.tick(T0 + WINDOW_MS)
    house.autumn_line.cut = NotSent("no connection")

    async def work(caller: Caller) -> None:
        answer = await caller.get("/v1/gate/acme")
        assert (answer.status_code, answer.json()["allowed"]) == (200, False)
        assert (answer.json()["rule"], answer.json()["degraded"]) == ("credits", False)

    served(house, work)
    assert house.halted("acme")


def test_gate_with_failed_second_read_answers_stored_verdict(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.settings = ServerSettings(gate_open_when_in_doubt=True)
    house.server = house.another()
    house.customer("acme")
    house.fleet.tick(T0 + WINDOW_MS)
    reads = 0

    def read_once(connection: sa.Connection, org_id: str) -> Gated | None:
        nonlocal reads
        reads += 1
        if reads > 1:
            raise DatabaseBusy("another writes")
        return read_gated(connection, org_id)

    async def work(caller: Caller) -> None:
        monkeypatch.setattr(gate, "read_gated", read_once)
        answer = (await caller.get("/v1/gate/acme")).json()
        assert (answer["allowed"], answer["rule"], answer["degraded"], reads) == (False, "credits", False, 2)

    served(house, work)


def test_gate_of_org_halted_by_operator_does_not_call_provider(house: House) -> None:
    house.customer("acme", 100)
    house.fleet.tick(T0 + WINDOW_MS)
    with house.fleet.engine.begin() as connection:
        halt(connection, ["acme"], house.fleet.by)
    asked = calls(house)

    async def work(caller: Caller) -> None:
        answer = (await caller.get("/v1/gate/acme")).json()
        assert (answer["reason"], answer["rule"], answer["options"]) == ("operator", "operator", [])

    served(house, work)
    assert calls(house) == asked


def test_gate_of_org_never_projected_calls_provider_or_is_closed(house: House) -> None:
    house.customer("acme", 100)
    house.customer("globex", 100)
    house.fleet.assign("free", provider="none", from_ms=T0)

    async def work(caller: Caller) -> None:
        assert (await caller.get("/v1/gate/acme")).json()["allowed"] is True
        house.autumn_line.cut = NotSent("no connection")
        shut = (await caller.get("/v1/gate/globex")).json()
        assert (shut["allowed"], shut["reason"], shut["as_of"]) == (False, "never_projected", None)
        assert (await caller.get("/v1/gate/free")).json()["allowed"] is True, "nobody has a word about it"

    served(house, work)


def test_gate_of_org_with_zero_sandbox_limit_is_closed(house: House) -> None:
    house.customer("acme", 100)
    with house.fleet.engine.begin() as connection:
        override(connection, "acme", house.fleet.by, max_concurrent=0, halted=None, until_ms=None)
    house.fleet.tick(T0 + WINDOW_MS)

    async def work(caller: Caller) -> None:
        answer = (await caller.get("/v1/gate/acme")).json()
        assert (answer["allowed"], answer["reason"], answer["max_concurrent_sandboxes"]) == (False, "limit_zero", 0)
        assert (answer["rule"], answer["options"]) == ("override", ["run_locally"])

    served(house, work)


def test_gate_of_unknown_org_answers_as_configured(house: House) -> None:
    house.fleet.assign("a/b c%", provider="none", from_ms=T0)

    async def unknown(caller: Caller) -> None:
        for name in ("nobody", "%00", "%FF", "x" * 3000, "..%2f..", "acme'--", "%F0%9F%92%A9", ""):
            answer = await caller.get(f"/v1/gate/{name}")
            assert answer.status_code == 404, name
        assert (await caller.get("/v1/gate/a%2Fb%20c%25")).json()["allowed"] is True

    served(house, unknown)
    settings: tuple[tuple[UnknownOrg, bool], ...] = (("deny", False), ("allow", True))
    for wanted, allowed in settings:
        house.settings = ServerSettings(gate_unknown_org=wanted)
        house.server = house.another()

        async def configured(caller: Caller, allowed: bool = allowed) -> None:
            answer = (await caller.get("/v1/gate/nobody")).json()
            assert (answer["allowed"], answer["reason"]) == (allowed, "unknown_org")

        served(house, configured)


def test_gate_with_unreadable_database_is_closed_unless_configured(lone: House) -> None:
    for open_in_doubt in (False, True):
        lone.settings = ServerSettings(gate_open_when_in_doubt=open_in_doubt)
        lone.server = lone.another(connect("sqlite:////nowhere/at/all.db"))

        async def work(caller: Caller, allowed: bool = open_in_doubt) -> None:
            answer = await caller.get("/v1/gate/acme")
            assert (answer.status_code, answer.json()["allowed"]) == (200, allowed)
            assert (answer.json()["reason"], answer.json()["degraded"]) == ("database_unreadable", True)
            assert (await caller.get("/readyz")).status_code == 503
            assert (await caller.get("/healthz")).status_code == 200
            assert (await caller.get("/metrics")).text.splitlines()[-1] == "drawdown_database_up 0.0"

        served(lone, work)


def test_gate_with_hanging_database_answers_within_timeout(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def hangs(*_given: object) -> None:
        assert goes_on.wait(60)

    async def work(caller: Caller) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(gate, "READ_WITHIN_S", 0.1)
            patch.setattr(health, "WITHIN_S", 0.1)
            patch.setattr(gate, "read_gated", hangs)
            patch.setattr(health, "require_ready", hangs)
            answer = await caller.get("/v1/gate/acme")
            assert (answer.status_code, answer.json()["reason"]) == (200, "database_unreadable")
            assert "does not answer" in (await caller.get("/readyz")).text
            goes_on.set()
            await caller.settled()
        assert (await caller.get("/readyz")).status_code == 200

    served(lone, work)
