"""Programs of several organisations that use the same ids: none meets, learns of or blocks what another one has."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from drawdown.ledger import own_keys
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Wish
from drawdown.worker.sources.events import types
from drawdown.worker.sources.events.store import sample_id_of
from drawdown.worker.sources.samples import rows as made
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, SAMPLES, Sender, event, sample
from tests.server.program import Program, give, key_of, make_key, refused

OK = ("pending", "unmapped")
AGAIN = ("duplicate",)
OTHER = ("conflict", "other_content")


@pytest.fixture
def street(house: House) -> House:
    """acme and globex, a key bound to each, and one of the operator's."""
    for org in ("acme", "globex"):
        give(house, org)
        make_key(house, org, "events:write", "guard", "executions:write", "executions:read", org=org)
    make_key(house, "operator", "events:write", "guard", "executions:write", "executions:read")
    return house


def of(org: str, event_id: str = "req-1", quantity: int = 3, **more: Any) -> dict[str, Any]:
    return event(event_id, quantity, subject=org, **more)


@pytest.mark.both_databases
def test_event_ids_of_two_orgs_do_not_collide(street: House) -> None:
    async def work(caller: Caller) -> None:
        acme, globex, operator = (Sender(caller, name) for name in ("acme", "globex", "operator"))
        assert await acme.told(EVENTS, [of("acme")]) == [OK]
        assert await globex.told(EVENTS, [of("globex", quantity=4)]) == [OK], "acme has that id, and it is no matter"
        assert await globex.told(EVENTS, [of("globex", quantity=4), of("globex", quantity=3)]) == [AGAIN, OTHER]
        assert await operator.told(EVENTS, [of("acme")]) == [AGAIN], "the same event, whoever sends it"
        assert await operator.told(EVENTS, [of("acme", quantity=4)]) == [OTHER]

    served(street, work)
    rows = street.fleet.rows("SELECT org_id, quantity FROM usage_events ORDER BY 1")
    assert rows == [("acme", 3), ("globex", 4)]
    assert street.fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 2
    assert read(street.fleet.engine, verify).breaches == []


def test_event_id_from_unbound_key_does_not_collide_with_org_keys(street: House) -> None:
    async def work(caller: Caller) -> None:
        acme, globex, operator = (Sender(caller, name) for name in ("acme", "globex", "operator"))
        assert await operator.told(EVENTS, [of("acme"), of("acme"), of("globex")]) == [OK, AGAIN, OTHER]
        assert await operator.told(EVENTS, [of("globex")]) == [OTHER], "the same id for another organisation"
        assert await globex.told(EVENTS, [of("globex")]) == [OK], "its own id was never taken"
        assert await acme.told(EVENTS, [of("acme"), of("acme", quantity=5)]) == [AGAIN, OTHER]
        assert await operator.told(EVENTS, [of("globex"), of("acme")]) == [AGAIN, AGAIN]

    served(street, work)
    assert street.fleet.one("SELECT COUNT(*) FROM usage_events") == 2
    assert read(street.fleet.engine, verify).breaches == []


@pytest.mark.both_databases
@pytest.mark.parametrize("quantity", [3, 5])
def test_unbound_body_with_event_of_own_key_stores_other_orgs_event(street: House, quantity: int) -> None:
    """The first item of the id is stored under the organisation's own key, so no item claims the id for it."""
    body = [of("acme", quantity=quantity), of("globex"), of("initech"), of("acme"), of("globex")]
    mine = AGAIN if quantity == 3 else OTHER

    async def work(caller: Caller) -> None:
        acme, operator = (Sender(caller, name) for name in ("acme", "operator"))
        assert await acme.told(EVENTS, [of("acme")]) == [OK]
        assert await operator.told(EVENTS, body) == [mine, OK, OTHER, AGAIN, AGAIN]
        assert await operator.told(EVENTS, body) == [mine, AGAIN, OTHER, AGAIN, AGAIN]

    served(street, work)
    assert street.fleet.rows("SELECT org_id, quantity FROM usage_events ORDER BY 1") == [("acme", 3), ("globex", 3)]
    assert read(street.fleet.engine, verify).breaches == []


def test_host_sample_with_reserved_event_or_execution_id_is_rejected(street: House) -> None:
    """It can work them out: keys are no secret, and an id that is taken is not billed under it again."""
    make_key(street, "host", "samples:write", org="globex")
    ours = (sample_id_of("/web", "req-1", "acme"), sample_id_of("/web", "req-1"), made.id_of("r-1", "final", "cpu", 0))

    async def work(caller: Caller) -> None:
        host, acme, operator = (Sender(caller, name) for name in ("host", "acme", "operator"))
        told = await host.told(SAMPLES, [sample(one, org_id="globex") for one in (*ours, "runner", "eventful")])
        assert await acme.told(EVENTS, [of("acme")]) == [OK]
        assert await operator.told(EVENTS, [of("acme")]) == [AGAIN]
        assert told[:3] == [("invalid", "reserved_id")] * 3
        assert {one[0] for one in told[3:]} <= {"accepted", "pending"}

    served(street, work)
    assert read(street.fleet.engine, verify).breaches == []


def test_event_without_time_from_another_key_of_same_org_is_duplicate(street: House) -> None:
    async def work(caller: Caller) -> None:
        acme, globex, operator = (Sender(caller, name) for name in ("acme", "globex", "operator"))
        for sender, org, wanted in ((acme, "acme", OK), (operator, "acme", AGAIN), (globex, "globex", OK)):
            street.clock.at_ms += 1_000
            assert await sender.told(EVENTS, [of(org, time=...)]) == [wanted]
        street.clock.at_ms += 1_000
        assert await acme.told(EVENTS, [of("acme", time=...)]) == [AGAIN]

    served(street, work)
    times = street.fleet.rows("SELECT org_id, ts FROM usage_events ORDER BY 1")
    assert [org for org, _ in times] == ["acme", "globex"] and int(str(times[1][1])) == int(str(times[0][1])) + 2_000


def test_org_keys_create_bounded_event_types_separately_for_each_org(
    street: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(types, "MAX_ORG_TYPES", 2)

    async def work(caller: Caller) -> None:
        acme, globex, operator = (Sender(caller, name) for name in ("acme", "globex", "operator"))
        assert await operator.told(EVENTS, [of("acme", "o", type="theirs")]) == [OK]
        named = [of("acme", f"a{number}", type=f"a{number}") for number in range(4)]
        full = ("invalid", "too_many_org_types")
        assert await acme.told(EVENTS, named) == [OK, OK, full, full]
        known = [of("acme", "b0", type="a0"), of("acme", "b1", type="theirs"), of("acme", "b2", type="a9")]
        assert await acme.told(EVENTS, known) == [OK, OK, full]
        assert await globex.told(EVENTS, [of("globex", "g", type="a2")]) == [OK]
        assert await acme.told(EVENTS, named[2:3]) == [OK], "another one brought it"
        assert (
            await operator.told(EVENTS, [of("acme", f"c{number}", type=f"c{number}") for number in range(3)])
            == [OK] * 3
        )

    served(street, work)
    brought = street.fleet.rows("SELECT org_id, COUNT(*) FROM event_types GROUP BY 1 ORDER BY 1 NULLS FIRST")
    assert brought == [(None, 4), ("acme", 2), ("globex", 1)]


def test_unbound_key_and_source_create_bounded_event_types(street: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key used up all event types for good, by quantity 0 of an organisation that does not exist."""
    monkeypatch.setattr(types, "MAX_KEY_TYPES", 4)
    monkeypatch.setattr(types, "MAX_SOURCE_TYPES", 3)
    for name in ("site-1", "site-2"):
        make_key(street, name, "events:write", source="/site")
    full = ("invalid", "too_many_key_types")

    def flood(source: str, name: str) -> list[dict[str, Any]]:
        return [of("nowhere", f"{name}{at}", 0, type=f"{name}{at}", source=source) for at in range(6)]

    async def work(caller: Caller) -> None:
        operator, first, second = (Sender(caller, name) for name in ("operator", "site-1", "site-2"))
        assert [one[0] for one in await operator.told(EVENTS, flood("/any", "o"))] == ["pending"] * 4 + ["invalid"] * 2
        assert (await operator.told(EVENTS, flood("/other", "p")))[0] == full, "whichever source it names"
        assert [one[0] for one in await first.told(EVENTS, flood("/site", "s"))] == ["pending"] * 3 + ["invalid"] * 3
        assert await second.told(EVENTS, flood("/site", "t")) == [full] * 6, "a further key of the source has no more"
        assert await Sender(caller, "acme").told(EVENTS, [of("acme", "a", type="theirs")]) == [OK]
        assert (await operator.told(EVENTS, [of("acme", "k", type="o0")])) == [OK], "one that is known goes in"

    served(street, work)
    assert street.fleet.one("SELECT COUNT(*) FROM event_types") == 8
    assert read(street.fleet.engine, verify).breaches == []


class Guarded:
    """Programs that ask the guard for `idea`, which costs a credit."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.program, self.org = Program(caller, key_of(name)), name

    async def ask(self, act: str, key: str, **more: Any) -> httpx.Response:
        body = json.dumps({"key": key, **more}).encode()
        return await self.program.caller.send("POST", f"/v1/guard/{act}", body, self.program.headers())

    async def use(self, key: str, amount: int = 1, org: str | None = None, act: str = "consume") -> tuple[Any, ...]:
        found = await self.ask(act, key, org_id=org or self.org, metric="idea", quantity=amount)
        return refused(found) if found.status_code != 200 else (found.json()["decision"], found.json()["repeated"])


def metered(house: House) -> None:
    by = house.fleet.by

    def work(connection: Any) -> None:
        guard_terms.set_metric(connection, "idea", Change(price_micro=MICRO, phase=3), by)
        guard_terms.set_limit(connection, PlanLimit("idea", "*", "month", 9), by)
        guard.consume(connection, "before", Wish("acme", "idea", 1), by)  # by a key of acme's, of earlier days

    write(house.fleet.engine, work)


def test_guard_use_keys_of_two_orgs_do_not_collide(street: House) -> None:
    metered(street)
    conflict = (409, "other_content")

    async def work(caller: Caller) -> None:
        acme, globex, operator = (Guarded(caller, name) for name in ("acme", "globex", "operator"))
        assert [await one.use("req-1", amount) for one, amount in ((acme, 1), (globex, 2))] == [("allow", False)] * 2
        assert [await one.use("req-1", amount) for one, amount in ((acme, 1), (globex, 2))] == [("allow", True)] * 2
        assert [await one.use("req-1", 3) for one in (acme, globex)] == [conflict] * 2
        assert await operator.use("req-1", 1, "acme") == ("allow", False), "no tenant's key takes the operator's"
        assert await acme.use("before") == ("allow", True) and await globex.use("before") == ("allow", False)
        assert await operator.use("op-1", 1, "globex") == ("allow", False)
        assert await operator.use("op-1", 1, "acme") == conflict, "one key of the operator's is one use"
        assert await acme.use("op-1") == ("allow", False) and await globex.use("op-1") == ("allow", True)
        assert await operator.use("own:mine", 1, "acme") == (422, "bad_value")

    served(street, work)
    used = street.fleet.rows("SELECT org_id, SUM(amount), SUM(charged_micro) FROM guard_uses GROUP BY 1 ORDER BY 1")
    assert used == [("acme", 4, 4 * MICRO), ("globex", 4, 4 * MICRO)]
    assert read(street.fleet.engine, verify).breaches == []


def test_guard_use_of_bound_key_is_ended_by_own_key_or_full_name(street: House) -> None:
    metered(street)

    async def work(caller: Caller) -> None:
        acme, globex, operator = (Guarded(caller, name) for name in ("acme", "globex", "operator"))
        for one in (acme, globex):
            assert await one.use("r", act="reserve") == ("allow", False)
        assert (await acme.ask("extend", "r", to=2)).json()["quantity"] == 2
        assert (await acme.ask("settle", "r", actual=2)).json()["state"] == "settled"
        answer = await acme.ask("settle", "r", actual=1)
        assert refused(answer) == (409, "other_content") and "own:" not in answer.text
        assert refused(await operator.ask("release", "r")) == (404, "unknown_use"), "whose it is, is not said"
        name = guard.own_name("globex", "r")
        assert refused(await acme.ask("release", name)) == (404, "unknown_use")
        assert (await operator.ask("release", name)).json()["state"] == "released"
        assert await acme.use("k" * 194) == ("allow", False) and await acme.use("k" * 194) == ("allow", True)
        assert await acme.use("k" * 193 + "j") == ("allow", False)

    served(street, work)
    assert read(street.fleet.engine, verify).breaches == []


def test_execution_keys_of_two_orgs_do_not_collide(street: House) -> None:
    async def work(caller: Caller) -> None:
        acme, globex = (Program(caller, key_of(name)) for name in ("acme", "globex"))
        operator = Program(caller, key_of("operator"))
        mine = {"key": "1", "org_id": "acme", "estimate": 4, "project": "secret-acme"}
        first = await acme.post("", mine)
        assert (first.status_code, first.json()["key"]) == (200, "1")
        other = await globex.post("", {"key": "1", "org_id": "globex", "estimate": 3})
        assert (other.status_code, other.json()["repeated"]) == (200, False) and "acme" not in other.text
        assert (await acme.post("", mine)).json()["repeated"] is True
        changed = await acme.post("", {**mine, "estimate": 5})
        assert refused(changed) == (409, "other_content") and "key 1 was used for an execution" in changed.text
        assert "Call `GET /v1/executions/{execution}`. If this is another execution, use a new key" in changed.text, (
            changed.text
        )
        assert (await acme.post("/1/draws", {"number": 1, "credits": 1})).status_code == 200
        drawn = await acme.post("/1/draws", {"number": 1, "credits": 2})
        assert refused(drawn) == (409, "other_content") and "draw 1 of 1 exists" in drawn.text, drawn.text
        for one in (changed, drawn):
            assert "own:" not in one.text and "drawdown " not in one.text, "it is over HTTP, by the key that it sent"
        ended = await globex.post("/1/settle", {"actual": 1})
        assert ended.status_code == 200, ended.text
        assert ended.json()["state"] == "settled"
        assert (await acme.get("/executions/1")).json()["state"] == "held"
        assert [run["key"] for run in (await acme.get("/executions")).json()["executions"]] == ["1"]
        # Who is bound to none takes no run of a bound key for its own, and names it by all of its name.
        assert refused(await operator.get("/executions/1")) == (404, "unknown_execution")
        assert (await operator.post("", mine)).json()["repeated"] is False
        names = [run["key"] for run in (await operator.get("/executions")).json()["executions"]]
        name = own_keys.own_name("acme", "1")
        assert set(names) == {"1", name, own_keys.own_name("globex", "1")}
        assert (await operator.post(f"/{name}/release", {})).json()["state"] == "released"
        taken = await operator.post("", {"key": "own:x", "org_id": "acme", "estimate": 1})
        assert refused(taken) == (422, "bad_value")
        # What is among all keys is found by its organisation's own key, too, and by no other's.
        assert (await operator.post("", {"key": "2", "org_id": "acme", "estimate": 1})).json()["key"] == "2"
        assert (await acme.post("", {"key": "2", "org_id": "acme", "estimate": 1})).json()["repeated"] is True
        assert (await globex.post("", {"key": "2", "org_id": "globex", "estimate": 1})).json()["repeated"] is False
        long = "k" * 200
        assert (await acme.post("", {"key": long, "org_id": "acme", "estimate": 1})).json()["key"] == long
        assert (await acme.post(f"/{long}/settle", {"actual": 1})).json()["key"] == long

    served(street, work)
    assert read(street.fleet.engine, verify).breaches == []


def test_execution_key_with_guard_prefix_is_refused(street: House) -> None:
    metered(street)

    async def work(caller: Caller) -> None:
        globex, acme = Program(caller, key_of("globex")), Guarded(caller, "acme")
        for key in ("guard:mine", f"guard:{guard.own_name('acme', 'mine')}"):
            taken = await globex.post("", {"key": key, "org_id": "globex", "estimate": 1})
            assert refused(taken) == (422, "bad_value")
        assert await acme.use("mine") == ("allow", False)

    served(street, work)
