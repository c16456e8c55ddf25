"""The guard while its database is away: what fails open is let through, bounded, and counted once it is back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from drawdown.ledger.reservations import NotTogether
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy, LockHeld
from drawdown.schema.units import MICRO, MINUTE_MS
from drawdown.server.api import fail_open, programs
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import grouped
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import LimitReached
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Answer
from drawdown.worker.verify.verify import verify
from tests.server.away import away
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused

Send = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long, and nothing is recorded but when a test asks for it."""
    monkeypatch.setattr(fail_open, "WITHIN_S", 1.0)
    monkeypatch.setattr(fail_open, "RECORD_EVERY_S", 3600.0)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What is told as lost, as an error."""
    told: list[dict[str, object]] = []

    class Log:
        def error(self, event: str, **said: object) -> None:
            if event == "guard_use_lost":
                told.append(said)

    monkeypatch.setattr(fail_open, "log", Log())
    return told


def set_terms(house: House, metric: str, **terms: Any) -> None:
    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, metric, Change(**{"phase": 3, **terms}), by))


def with_fail_open(house: House, work: Callable[[Send], Awaitable[None]]) -> None:
    """`login` fails open and costs a tenth of a credit, five a month; `idea` is the same and fails closed."""
    give(house, "acme")
    for metric, is_open in (("login", True), ("idea", False)):
        set_terms(house, metric, price_micro=MICRO // 10, fails_open=is_open)
        limit = PlanLimit(metric, "*", "month", 5)
        write(house.fleet.engine, lambda c, limit=limit: guard_terms.set_limit(c, limit, house.fleet.by))  # type: ignore[misc]
    make_key(house, "app", "guard")

    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of("app"))

        async def send(act: str, **order: object) -> httpx.Response:
            given = {"org_id": "acme", "metric": "login"} if act in ("check", "consume", "reserve") else {}
            body = json.dumps({**given, **order}).encode()
            return await program.caller.send("POST", f"/v1/guard/{act}", body, program.headers())

        for metric in ("login", "idea"):
            assert (await send("consume", key=f"first-{metric}", metric=metric)).json()["degraded"] is False
        await caller.settled()
        await work(send)
        await caller.settled()

    served(house, whole)
    assert read(house.fleet.engine, verify).breaches == []


def nothing_waits(house: House) -> None:
    """What waits for a lock would be done after all, and may be before what was let through is written down."""
    house.server._fail_open._note_failure("acme", house.clock.at_ms)


def uses(house: House) -> list[tuple[object, ...]]:
    text = "SELECT use_key, amount, state, would, degraded, charged_micro, forgone_micro FROM guard_uses "
    rows = house.fleet.rows(text + "WHERE use_key NOT LIKE 'first-%' ORDER BY use_key")
    return [(*row[:4], bool(row[4]), *row[5:]) for row in rows]


@pytest.mark.both_databases
def test_fail_open_use_is_counted_once_when_database_returns(house: House) -> None:
    outcomes = house.server._fail_open.uses

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            found = (await send("consume", key="d-1", quantity=2)).json()
            assert (found["decision"], found["reason"], found["degraded"]) == ("allow", "database_unreadable", True)
            assert (found["state"], found["price_micro"], found["charged"]) == ("used", 200_000, 0)
            again = (await send("consume", key="d-1", quantity=2)).json()
            assert (again["decision"], again["repeated"]) == ("allow", True)
            assert refused(await send("consume", key="d-1", quantity=3)) == (409, "other_content")
            held = (await send("reserve", key="d-2", quantity=1)).json()
            assert (held["decision"], held["state"], held["degraded"]) == ("allow", "held", True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(programs, "WITHIN_S", 1.5)
                closed = await send("consume", key="d-3", metric="idea")
            assert closed.status_code == 503, "what fails closed is not let through"
            assert (await send("check", quantity=1)).json()["decision"] == "allow"
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        found = (await send("settle", key="d-2", actual=1)).json()
        assert (found["state"], found["charged"]) == ("settled", 0.1), "it is written down before it ends"
        again = (await send("consume", key="d-1", quantity=2)).json()
        assert (again["repeated"], again["price_micro"]) == (True, 200_000)
        metrics = (await Caller(house).get("/metrics")).text
        assert 'drawdown_guard_fail_open_total{outcome="recorded"} 2.0' in metrics, outcomes

    with_fail_open(house, work)
    found = [one for one in uses(house) if one[0] != "d-3"]
    assert [(one[:3], one[5:]) for one in found] == [
        (("d-1", 2, "used"), (200_000, 0)),
        (("d-2", 1, "settled"), (100_000, 0)),
    ]
    assert outcomes == {"let_through": 2, "recorded": 2, "lost": 0}


def test_fail_open_repeat_of_unrecorded_use_is_allowed(house: House) -> None:
    """The record times out, and the database answers the repeat."""
    memory = house.server._fail_open

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            nothing_waits(house)
            assert (await send("consume", key="d-1", quantity=9)).json()["decision"] == "allow"
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "_written", _unwritten)
            again = (await send("consume", key="d-1", quantity=9)).json()
            assert (again["decision"], again["repeated"], again["degraded"]) == ("allow", True, True)
            house.clock.at_ms += fail_open.FAIL_OPEN_MS
            assert refused(await send("consume", key="d-1", quantity=9)) == (503, "database")
        await memory.record()

    with_fail_open(house, work)
    assert [one[:5] for one in uses(house)] == [("d-1", 9, "used", "block", True)]


async def _unwritten(_name: str, *, quick: bool = False) -> bool:
    return False


def test_fail_open_use_settle_elsewhere_requires_repeated_use(house: House) -> None:
    """No server says of it that there is none, as long as the one that let it through has it to write down."""

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            nothing_waits(house)
            await send("reserve", key="d-1", quantity=3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(house.server._fail_open, "_recorder", lambda _use: _busy)
            house.clock.at_ms += fail_open.LOOK_AGAIN_MS
            for act, said in (("settle", {"actual": 2}), ("release", {"incurred": 2}), ("extend", {"to": 4})):
                assert refused(await send(act, key="d-1", **said)) == (503, "database")
            told: dict[str, object] = {"org_id": "acme", "metric": "login", "key": "d-1", "quantity": 3}
            other = Program(Caller(house, house.another()), key_of("app"))
            sent = []
            ends: dict[str, object] = {"key": "d-1", "actual": 2}
            for act, order in (("settle", ends), ("reserve", {**told, "let_through": True}), ("settle", ends)):
                body = json.dumps(order).encode()
                sent.append(await other.caller.send("POST", f"/v1/guard/{act}", body, other.headers()))
        assert refused(sent[0]) == (404, "unknown_use"), "another server cannot know"
        assert [one.json()["state"] for one in sent[1:]] == ["held", "settled"]
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await house.server._fail_open.record()

    with_fail_open(house, work)
    assert [one[:3] for one in uses(house)] == [("d-1", 2, "settled")], "it is counted once"
    assert house.server._fail_open.uses == {"let_through": 1, "recorded": 1, "lost": 0}


def _busy(_connection: object) -> Answer:
    raise DatabaseBusy("another writes")


def test_guard_contention_on_limit_is_not_fail_open(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the database was away a moment ago."""

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            nothing_waits(house)
            await send("check")
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS

        def reached(*_given: object) -> None:
            raise LimitReached("a limit was reached this moment; try again")

        def alone(*_given: object) -> None:
            raise NotTogether("each is decided alone")

        monkeypatch.setattr(grouped, "do_all", alone)
        monkeypatch.setattr(guard, "take_all", reached)
        assert refused(await send("consume", key="d-9")) == (503, "database")
        assert house.server._fail_open.uses["let_through"] == 0

    with_fail_open(house, work)


def test_locked_wallet_of_one_org_does_not_open_guard_for_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(send: Send) -> None:
        give(house, "globex")
        monkeypatch.setattr(guard, "take", _locked_for_acme)
        monkeypatch.setattr(grouped, "do_all", _not_together)
        assert (await send("consume", key="a-1", quantity=1)).json()["reason"] == "database_unreadable"
        other = (await send("consume", key="g-1", quantity=1, org_id="globex")).json()
        assert (other["decision"], other["degraded"]) == ("allow", False), "its own wallet is not locked"
        monkeypatch.setattr(guard, "take", _TAKE)
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await house.server._fail_open.record()

    with_fail_open(house, work)
    assert [(one[0], one[4]) for one in uses(house)] == [("a-1", True), ("g-1", False)]


_TAKE = guard.take


def _locked_for_acme(connection: sa.Connection, asked: guard.Ask) -> Answer:
    if asked.wish.org_id == "acme":
        raise LockHeld("another program locks the wallet")
    return _TAKE(connection, asked)


def _not_together(*_given: object) -> None:
    raise NotTogether("each is decided alone")


def test_fail_open_use_beyond_limit_is_counted_and_marked(house: House) -> None:
    async def work(send: Send) -> None:
        memory = house.server._fail_open
        with away(house.fleet.engine):
            nothing_waits(house)
            await asyncio.gather(*(send("consume", key=f"d-{n}", quantity=9) for n in range(3)))
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await memory.record()
        assert memory.uses["recorded"] == 3
        found = (await send("check")).json()
        assert (found["decision"], found["used"]) == ("block", 28)

    with_fail_open(house, work)
    assert [one[:5] for one in uses(house)] == [(f"d-{n}", 9, "used", "block", True) for n in range(3)]
    denied = "SELECT SUM(count), SUM(amount) FROM guard_denials WHERE metric = 'login' AND NOT enforced"
    assert house.fleet.rows(denied) == [(3, 27)], "what would have been blocked is counted as that"


def test_fail_open_is_bounded_by_time_count_and_known_terms(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fail_open, "KEPT_AT_MOST", 1)

    async def work(send: Send) -> None:
        make_key(house, "stranger", "guard")
        stranger = Program(Caller(house), key_of("stranger"))
        order = json.dumps({"key": "s", "org_id": "acme", "metric": "unmet"}).encode()
        set_terms(house, "unmet", fails_open=True)
        with away(house.fleet.engine):
            assert (await send("consume", key="d-1", quantity=1)).status_code == 200
            assert (await send("consume", key="d-2", quantity=1)).status_code == 503, "no more can be remembered"
            assert (await send("consume", key="d-3", metric="unmet")).status_code == 503, "its terms were never read"
            if house.fleet.engine.dialect.name == "postgresql":
                sent = await stranger.caller.send("POST", "/v1/guard/consume", order, stranger.headers())
                assert sent.status_code == 503, "its key was never met"
            house.clock.at_ms += fail_open.FAIL_OPEN_MS + 1
            assert (await send("consume", key="d-1", quantity=1)).status_code == 503, "the outage is too long"
        await house.server._fail_open.record()

    monkeypatch.setattr("drawdown.server.api.programs.WITHIN_S", 1.5)
    with_fail_open(house, work)
    assert ("d-1", 1) in [one[:2] for one in uses(house)]


def test_fail_open_bound_of_org_is_not_extended_by_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(send: Send) -> None:
        give(house, "globex")
        monkeypatch.setattr(guard, "take", _locked_for_acme)
        monkeypatch.setattr(grouped, "do_all", _not_together)
        for number, minutes in enumerate((0, 10)):
            house.clock.at_ms += minutes * MINUTE_MS
            assert (await send("consume", key=f"a-{number}", quantity=1)).json()["degraded"] is True
            other = (await send("consume", key=f"g-{number}", quantity=1, org_id="globex")).json()
            assert other["degraded"] is False
            assert (await send("consume", key=f"b-{number}", quantity=1)).json()["degraded"] is True, "still locked"
        house.clock.at_ms += 6 * MINUTE_MS
        assert (await send("consume", key="a-9", quantity=1)).status_code == 503, "acme fails for 16 minutes"
        monkeypatch.undo()
        await house.server._fail_open.record()

    with_fail_open(house, work)
    assert "a-9" not in [one[0] for one in uses(house)]


def test_fail_open_call_after_slow_failure_does_not_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def slow(*_given: object) -> Answer:
        waits.append(house.clock.at_ms)
        house.clock.at_ms += 2_000
        raise LockHeld("another program locks the wallet")

    async def work(send: Send) -> None:
        monkeypatch.setattr(guard, "take", slow)
        monkeypatch.setattr(grouped, "do_all", _not_together)
        for number in range(2):
            assert (await send("consume", key=f"d-{number}", quantity=1)).json()["degraded"] is True
        assert len(waits) == 1, "the first call just failed"
        monkeypatch.undo()
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await house.server._fail_open.record()

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ["d-0", "d-1"]


@pytest.mark.parametrize("is_closing", [False, True])
def test_locked_wallet_does_not_delay_records_of_other_orgs(
    house: House, monkeypatch: pytest.MonkeyPatch, is_closing: bool
) -> None:
    memory = house.server._fail_open
    outcomes = memory.uses

    async def work(send: Send) -> None:
        give(house, "globex")
        with away(house.fleet.engine):
            for number, org in enumerate(("acme", "acme", "globex", "globex")):
                memory._note_failure(org, house.clock.at_ms)
                assert (await send("consume", key=f"d-{number}", quantity=1, org_id=org)).json()["degraded"]
        tried: list[str] = []

        def take(connection: sa.Connection, asked: guard.Ask) -> Answer:
            tried.append(asked.key)
            return _locked_for_acme(connection, asked)

        monkeypatch.setattr(guard, "take", take)
        for _ in range(2):
            if is_closing:
                await asyncio.to_thread(memory._record_now)
            else:
                await memory.record()
        assert tried == ["d-0", "d-2", "d-3", "d-0"], "one failure of acme is enough for an attempt"
        assert outcomes == {"let_through": 4, "recorded": 2, "lost": 0}
        monkeypatch.undo()
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await memory.record()

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ["d-0", "d-1", "d-2", "d-3"]


@pytest.mark.both_databases
def test_record_on_locked_counter_frees_its_thread(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has one writer, so only PostgreSQL has a locked counter."""
    memory, engine = house.server._fail_open, house.fleet.engine

    async def work(send: Send) -> None:
        with away(engine):
            nothing_waits(house)
            assert (await send("consume", key="d-1", quantity=1)).json()["degraded"]
        if engine.dialect.name == "postgresql":
            monkeypatch.setattr(fail_open, "WITHIN_S", 0.2)
            monkeypatch.setattr(programs, "WITHIN_S", 0.9)
            with engine.connect() as other, other.begin():
                other.exec_driver_sql("SELECT 1 FROM guard_counters FOR UPDATE")
                await memory.record()
                waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                assert other.exec_driver_sql(f"{waiting} AND datname = current_database()").scalar_one() == 0
            assert memory.uses["recorded"] == 0
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await memory.record()

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ["d-1"]


def test_record_of_failing_orgs_stops_and_next_begins_with_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fail_open, "MOST_FAILED", 2)
    memory = house.server._fail_open
    orgs = ("acme", "globex", "initech")

    async def work(send: Send) -> None:
        for org in orgs[1:]:
            give(house, org)
        with away(house.fleet.engine):
            for number, org in enumerate(orgs):
                memory._note_failure(org, house.clock.at_ms)
                assert (await send("consume", key=f"d-{number}", quantity=1, org_id=org)).json()["degraded"]
        tried: list[str] = []

        def busy(_connection: object, asked: guard.Ask) -> Answer:
            tried.append(asked.key)
            raise DatabaseBusy("the database does not answer")

        monkeypatch.setattr(guard, "take", busy)
        for expected in (["d-0", "d-1"], ["d-2", "d-0"]):
            tried.clear()
            await memory.record()
            assert tried == expected
        monkeypatch.undo()
        await memory.record()

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ["d-0", "d-1", "d-2"]


def test_fail_open_outage_after_gap_begins_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(send: Send) -> None:
        monkeypatch.setattr(guard, "take", _locked_for_acme)
        monkeypatch.setattr(grouped, "do_all", _not_together)
        assert (await send("consume", key="d-1", metric="idea")).status_code == 503, "no use waits to be recorded"
        house.clock.at_ms += 30 * MINUTE_MS
        assert (await send("consume", key="d-2", quantity=1)).json()["degraded"] is True
        monkeypatch.undo()
        await house.server._fail_open.record()

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ["d-2"]


def test_fail_open_key_is_not_read_again_just_after_failed_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, reads = house.server._fail_open, 0

    async def unread(_proof: str, _now_ms: int) -> None:
        nonlocal reads
        reads += 1
        raise DatabaseBusy("the database does not answer")

    async def work(send: Send) -> None:
        monkeypatch.setattr(memory, "_look_up", unread)
        for expected in (1, 2):
            house.clock.at_ms += programs.RECALLED_MS + 1
            for _ in range(3):
                nothing_waits(house)
                assert (await send("check", quantity=1)).json()["degraded"] is True
                memory._outages.forget("acme")  # a use of acme succeeded
            assert reads == expected, "a failed read of a key is enough for LOOK_AGAIN_MS"
        monkeypatch.undo()
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        nothing_waits(house)
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", house.fleet.by))
        assert (await send("check", quantity=1)).status_code == 401, "a failed use does not stop reads of keys"

    with_fail_open(house, work)


def test_fail_open_one_call_alone_tries_to_read_a_key_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an outage, each use with a remembered key waited WITHIN_S for its own read."""
    memory, reads = house.server._fail_open, 0

    async def work(send: Send) -> None:
        begun, done = asyncio.Event(), asyncio.Event()

        async def unread(_proof: str, _now_ms: int) -> None:
            nonlocal reads
            reads += 1
            begun.set()
            await done.wait()
            raise DatabaseBusy("the database does not answer")

        monkeypatch.setattr(memory, "_look_up", unread)
        memory._unread_ms = house.clock.at_ms
        house.clock.at_ms += programs.RECALLED_MS + 1
        nothing_waits(house)
        first = asyncio.ensure_future(send("check", quantity=1))
        await begun.wait()
        assert (await send("check", quantity=1)).json()["degraded"] is True
        assert reads == 1
        done.set()
        assert (await first).json()["degraded"] is True
        monkeypatch.undo()

    with_fail_open(house, work)


def test_fail_open_use_that_cannot_be_recorded_is_logged_as_lost(house: House, lost: list[dict[str, object]]) -> None:
    """The metric fails closed by now, or the process ends before the database is back."""
    outcomes = house.server._fail_open.uses

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            nothing_waits(house)
            assert (await send("consume", key="d-1", quantity=4)).json()["degraded"]
        set_terms(house, "login", fails_open=False)
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS
        await house.server._fail_open.record()
        assert [(one["key"], one["quantity"]) for one in lost] == [("d-1", 4)]
        assert outcomes == {"let_through": 1, "recorded": 0, "lost": 1}

    with_fail_open(house, work)
    assert uses(house) == []


def test_fail_open_unrecorded_use_at_shutdown_is_logged_as_lost(
    house: House, lost: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fail_open, "CLOSING_S", 0.3)
    outcomes = house.server._fail_open.uses

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            assert (await send("consume", key="d-1", quantity=1)).json()["degraded"]
            await asyncio.to_thread(house.server._fail_open.close)
            assert [one["key"] for one in lost] == ["d-1"]
        house.clock.at_ms += fail_open.LOOK_AGAIN_MS

    with_fail_open(house, work)
    assert outcomes["lost"] == 1


@pytest.mark.parametrize("is_locked", [False, True])
def test_record_under_way_at_shutdown_is_logged_as_lost_if_it_fails(
    house: House, lost: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    monkeypatch.setattr(fail_open, "CLOSING_S", 0.1)
    memory, begun, free = house.server._fail_open, threading.Event(), threading.Event()
    outcomes = memory.uses

    def slow(connection: sa.Connection, asked: guard.Ask) -> Answer:
        begun.set()
        free.wait(60)
        return _locked_for_acme(connection, asked) if is_locked else _TAKE(connection, asked)

    async def work(send: Send) -> None:
        with away(house.fleet.engine):
            nothing_waits(house)
            for key in ("d-1", "d-2"):
                assert (await send("consume", key=key, quantity=1)).json()["degraded"]
        monkeypatch.setattr(guard, "take", slow)
        monkeypatch.setattr(fail_open, "wait", lambda some, most_s: begun.wait(60) and wait(some, most_s))
        await asyncio.to_thread(memory.close)
        assert [one["key"] for one in lost] == ["d-2"], "the record of d-1 is under way"
        free.set()
        async with asyncio.timeout(60):
            while sum(outcomes[name] for name in ("recorded", "lost")) < 2:
                await asyncio.sleep(0.01)
        assert [one["key"] for one in lost] == (["d-2", "d-1"] if is_locked else ["d-2"])

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] == ([] if is_locked else ["d-1"])


def test_client_reported_fail_open_use_is_recorded(house: House) -> None:
    async def work(send: Send) -> None:
        told: dict[str, Any] = {"key": "c-1", "quantity": 9, "let_through": True}
        found = (await send("consume", **told)).json()
        assert (found["decision"], found["would"], found["degraded"]) == ("allow", "block", True)
        assert (await send("consume", **told)).json()["repeated"] is True
        assert refused(await send("consume", **{**told, "key": "c-2", "metric": "idea"})) == (409, "fails_closed")

    with_fail_open(house, work)
    assert [one[:5] for one in uses(house)] == [("c-1", 9, "used", "block", True)]


def test_guard_ended_key_with_slow_lookup_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database answers uses, and readings of keys take too long: what is remembered of a key is not enough."""

    async def work(send: Send) -> None:
        held = (await send("reserve", key="h-1", quantity=1)).json()
        assert held["state"] == "held"
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", house.fleet.by))

        async def slow(_work: object) -> None:
            await asyncio.sleep(3600)

        monkeypatch.setattr(house.server._fail_open._reading, "read", slow)
        for act, order in (
            ("consume", {"key": "late-1", "quantity": 1}),
            ("reserve", {"key": "late-2", "quantity": 1}),
            ("settle", {"key": "h-1", "actual": 1}),
        ):
            house.clock.at_ms += fail_open.LOOK_AGAIN_MS
            answer = await send(act, **order)
            assert answer.status_code == 401, (act, answer.text)

    with_fail_open(house, work)
    assert [one[:3] for one in uses(house)] == [("h-1", 1, "held")]


def test_guard_ended_key_after_lock_held_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database failed just before, so the key is not looked up: each call decided alone reads it again."""

    async def work(send: Send) -> None:
        assert (await send("reserve", key="h-1", quantity=1)).json()["state"] == "held"
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", house.fleet.by))

        def held(*_given: object) -> None:
            raise LockHeld("another transaction holds the lock")

        monkeypatch.setattr(grouped, "do_all", held)
        for act, order in (
            ("consume", {"key": "late-1", "metric": "idea"}),
            ("reserve", {"key": "late-2", "metric": "idea"}),
            ("settle", {"key": "h-1", "actual": 1}),
            ("release", {"key": "h-1"}),
        ):
            nothing_waits(house)
            answer = await send(act, **order)
            assert answer.status_code == 401, (act, answer.text)

    with_fail_open(house, work)
    assert [one[:3] for one in uses(house)] == [("h-1", 1, "held")]


def test_guard_expired_key_during_database_outage_is_refused(house: House) -> None:
    async def work(send: Send) -> None:
        house.fleet.write("UPDATE api_keys SET expires_ms = :at", {"at": house.clock.at_ms + 5_000})
        assert (await send("consume", key="in-time", quantity=1)).json()["decision"] == "allow"
        with away(house.fleet.engine):
            assert (await send("consume", key="open", quantity=1)).json()["reason"] == "database_unreadable"
            assert (await send("check", quantity=1)).json()["decision"] == "allow"
            house.clock.at_ms += 5_000
            assert (await send("consume", key="late", quantity=1)).status_code == 401
            assert (await send("check", quantity=1)).status_code == 401
        nothing_waits(house)

    with_fail_open(house, work)
    assert [one[0] for one in uses(house)] in (["in-time"], ["in-time", "open"])
