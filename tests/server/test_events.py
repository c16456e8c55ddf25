"""Usage events over HTTP: each item answered for itself, taken once, and billed with its window."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.events.cloudevents import BATCH, EVENT, JSON, LINES
from drawdown.events.envelope import UsageEvent
from drawdown.events.values import COUNT, SUM, EventValue
from drawdown.schema.clock import utc
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.server.usage import items as way_in
from drawdown.worker.access import keys as api_keys
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.events.store import EventResult, take, times
from drawdown.worker.verify.verify import verify
from tests.integration.telling_events import billed_by_units
from tests.integration.test_batches import unguarded
from tests.server.house import Caller, House, served
from tests.server.intake import (
    EVENTS,
    RENDER,
    TIME,
    Sender,
    clean,
    close,
    event,
    prune_elsewhere,
    pruned_meanwhile,
    said,
    sender,
)
from tests.server.program import key_of, make_key, refused
from tests.world import T0

OWN: Final = {
    "source": "/web",
    "event_id": "e1",
    "event_type": RENDER,
    "org_id": "acme",
    "quantity": 3,
    "occurred_at": TIME,
}


@pytest.fixture
def shop(house: House) -> House:
    """acme is billed for renders; the clock shows ten seconds after its first window began."""
    house.clock.at_ms = T0 + 10_000
    billed_by_units(house.fleet, "acme")
    sender(house)
    return house


def sealed(house: House) -> list[tuple[object, ...]]:
    return house.fleet.rows("SELECT window_ms, feature, sealed_qty FROM pushes ORDER BY 1, 2")


def test_event_sent_twice_is_billed_once_with_its_window(shop: House) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert await send.told(EVENTS, event(), EVENT) == [("accepted",)]
        assert await send.told(EVENTS, event(), EVENT) == [("duplicate",)]
        assert await send.told(EVENTS, event(quantity=4), EVENT) == [("conflict", "other_content")]
        text = (await caller.get("/metrics")).text
        for status, count in (("accepted", 1), ("duplicate", 1), ("conflict", 1), ("invalid", 0), ("pending", 0)):
            assert f'drawdown_intake_items_total{{kind="events",status="{status}"}} {count}.0' in text

    served(shop, work)
    shop.fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(shop) == [(T0, "render", 3)]
    clean(shop)


OLD: Final = T0 - 60 * DAY_MS


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_event_floor_raised_during_intake_is_rejected_as_too_late(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite nobody else writes meanwhile."""
    shop.fleet.tick(T0 + WINDOW_MS)
    taken: list[object] = []

    def interrupted(*given: Any, **named: Any) -> list[EventResult]:
        answers = take(*given, **named)
        if not taken:
            prune_elsewhere(shop, OLD + WINDOW_MS)
        taken.append(answers)
        return answers

    monkeypatch.setattr(way_in, "take", interrupted)
    items = [event("old", time=utc(OLD)), event("new")]

    async def work(caller: Caller) -> None:
        assert await Sender(caller).told(EVENTS, items) == [("invalid", "too_late"), ("accepted",)]

    served(shop, work)
    assert len(taken) == 2
    assert shop.fleet.rows("SELECT event_id FROM usage_events") == [("new",)]
    clean(shop)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_floor_during_event_intake_is_not_raised_past_event(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fleet.tick(T0 + WINDOW_MS)

    async def work(caller: Caller) -> None:
        assert await Sender(caller).told(EVENTS, [event("old", time=utc(OLD))]) == [("pending", "unassigned")]

    with pruned_meanwhile(shop, monkeypatch, OLD, OLD + WINDOW_MS):
        served(shop, work)


def test_event_in_any_supported_format_is_same_event(shop: House) -> None:
    binary = {f"ce-{name}": value for name, value in event().items() if name != "data"}

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert await send.told(EVENTS, event(), EVENT) == [("accepted",)]
        for items, kind, more in (
            (event(), JSON, {}), ([event()], JSON, {}), ([event()], BATCH, {}), ([event(), event()], BATCH, {}),
            ({"quantity": 3}, JSON, binary), (event(), LINES, {}), (OWN, JSON, {}), ([OWN], JSON, {}),
            (json.dumps(OWN).encode() + b"\n" + json.dumps(event()).encode(), LINES, {}),
            (event(), EVENT, {"packed": True}), ([event()], BATCH, {"packed": True}),
        ):  # fmt: skip
            told = await send.told(EVENTS, items, kind, **more)
            assert set(told) == {("duplicate",)}, (items, kind, told)

    served(shop, work)
    assert shop.fleet.one("SELECT COUNT(*) FROM usage_events") == 1


BAD: Final[list[tuple[Any, str, str, str]]] = [
    (3, "invalid", "not_an_object", ""), (b"nonsense", "invalid", "not_json", ""),
    (b'{"a": 1, "a": 2}', "invalid", "duplicate_keys", ""), (b'{"a": NaN}', "invalid", "not_json", ""),
    (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, "invalid", "too_deep", ""),
    (event(data={"quantity": 1, "x": "y" * 20_000}), "invalid", "too_large", ""),
    (event(data={"quantity": 1, "x": "y" * 5_000}), "invalid", "properties_too_large", "data"),
    (event(data={"quantity": 1, "x": "a\x00"}), "invalid", "bad_text", "data.x"),
    (event(data={"quantity": 1, "x": "\ud800"}), "invalid", "bad_text", "data.x"),
    (event(id=7), "invalid", "wrong_type", "id"), (event(id="\x00"), "invalid", "bad_id", "id"),
    (event(quantity=1.5), "invalid", "not_whole", "data.quantity"),
    (event(quantity=10**30), "invalid", "bad_quantity", "data.quantity"),
    (event(quantity=-1), "invalid", "bad_quantity", "data.quantity"),
    (event(quantity=True), "invalid", "wrong_type", "data.quantity"),
    (event(time="2026-01-01T00:06:00Z"), "invalid", "in_the_future", "time"),
    (event(time="1999-12-31T00:00:00Z"), "invalid", "too_old", "time"),
    (event(time="2025-01-01T00:00:00Z"), "invalid", "too_late", ""),
    (event(subject=...), "invalid", "missing", "subject"),
    (event(specversion="0.3"), "invalid", "bad_specversion", "specversion"),
    ({**OWN, "quantitiy": 3}, "invalid", "unknown_field", "quantitiy"),
    (event("first", 4), "conflict", "other_content", ""), (event("first"), "duplicate", "", ""),
    (event("un", type="un.mapped"), "pending", "unmapped", ""),
    (event("no", subject="nobody"), "pending", "unassigned", ""),
]  # fmt: skip


@pytest.mark.both_databases
def test_invalid_event_does_not_reject_other_items_of_batch(shop: House) -> None:
    """Every bad item there is, each between two good ones, in one batch; as lines, too."""
    close(shop, T0 - DAY_MS)

    def body(turn: int, separator: bytes) -> bytes:
        items = [event(f"{turn}-0")]
        for at, (bad, *_) in enumerate(BAD):
            items += [bad, event(f"{turn}-{at + 1}")]
        return separator.join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in items)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert await send.told(EVENTS, event("first")) == [("accepted",)]
        for turn, (begin, separator, end, kind) in enumerate(((b"[", b",", b"]", JSON), (b"", b"\n", b"", LINES))):
            answer = await send.send(EVENTS, begin + body(turn, separator) + end, kind, packed=bool(turn))
            told, results = said(answer), answer.json()["results"]
            assert told[::2] == [("accepted",)] * (len(BAD) + 1)
            for (bad, status, code, at), found in zip(BAD, results[1::2], strict=True):
                again = status == "pending" and turn
                expected = ("duplicate", None) if again else (status, code or None)
                assert (found["status"], found.get("code")) == expected, (bad, found)
                assert found.get("at", "") == ("" if again else at), (bad, found)
                assert len(found.get("message", "")) <= 300 and "\ud800" not in found.get("message", "")

    served(shop, work)
    shop.fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(shop) == [(T0, "render", 3 * (2 * len(BAD) + 3))]
    clean(shop)


def test_event_by_bound_key_naming_another_org_is_rejected(shop: House) -> None:
    sender(shop, "bound", org="acme")

    async def work(caller: Caller) -> None:
        send = Sender(caller, "bound")
        items = [event("a", subject="globex"), {**OWN, "event_id": "b", "org_id": "globex"},
                 {name: value for name, value in OWN.items() if name != "org_id"}]  # fmt: skip
        answer = await send.send(EVENTS, items)
        assert said(answer) == [("accepted", "subject_is_label"), ("invalid", "foreign_org"), ("accepted",)]
        refused = answer.json()["results"][1]
        assert refused["at"] == "org_id" and "globex" not in str(refused)

    served(shop, work)
    rows = shop.fleet.rows("SELECT org_id, subject FROM usage_events ORDER BY event_id")
    assert rows == [("acme", "globex"), ("acme", None)], "the subject is a label"


def test_event_of_other_source_than_key_is_rejected_also_after_rotation(shop: House) -> None:
    sender(shop, "product", source="app")
    engine, by = shop.fleet.engine, shop.fleet.by
    write(engine, lambda c: api_keys.rotate(c, key_of("product 2"), "product", by))

    async def work(caller: Caller) -> None:
        for key in ("product", "product 2"):
            items = [event(f"{key} a", source="app"), event(f"{key} b", source="App"), {**OWN, "source": "other"}]
            answer = await Sender(caller, key).send(EVENTS, items)
            assert said(answer) == [("accepted",), ("invalid", "foreign_source"), ("invalid", "foreign_source")]
            assert [one.get("at") for one in answer.json()["results"]] == [None, "source", "source"]
            assert "the source app" in answer.json()["results"][1]["message"]

    served(shop, work)
    rows = shop.fleet.rows("SELECT source, event_id FROM usage_events ORDER BY event_id")
    assert rows == [("app", "product 2 a"), ("app", "product a")]
    with pytest.raises(UsageError, match=r"invalid source .*: expected 1 to 200 characters"):
        write(engine, lambda c: api_keys.create(c, key_of("x"), "x", ["events:write"], by, source="\n"))


def _without_source(event_id: str, *, own: bool) -> dict[str, Any]:
    given = {**OWN, "event_id": event_id} if own else event(event_id)
    return {name: value for name, value in given.items() if name != "source"}


def test_single_event_without_source_takes_source_of_key(shop: House) -> None:
    sender(shop, "product", source="app")

    async def work(caller: Caller) -> None:
        send = Sender(caller, "product")
        assert await send.told(EVENTS, _without_source("own", own=True)) == [("accepted",)]
        assert await send.told(EVENTS, {**OWN, "event_id": "own", "source": "app"}) == [("duplicate",)]
        assert await send.told(EVENTS, {**OWN, "event_id": "null", "source": None}) == [("accepted",)]
        assert await send.told(EVENTS, _without_source("cloud", own=False), EVENT) == [("accepted",)]
        assert await send.told(EVENTS, {**OWN, "source": "other"}) == [("invalid", "foreign_source")]

    served(shop, work)
    rows = shop.fleet.rows("SELECT source, event_id FROM usage_events ORDER BY event_id")
    assert rows == [("app", "cloud"), ("app", "null"), ("app", "own")]


def test_batch_event_without_source_takes_source_of_key(shop: House) -> None:
    sender(shop, "product", source="app")

    async def work(caller: Caller) -> None:
        for kind, ids in ((JSON, "ab"), (LINES, "cd")):
            items = [_without_source(ids[0], own=True), _without_source(ids[1], own=False), {**OWN, "source": "other"}]
            given = items if kind == JSON else "\n".join(map(json.dumps, items)).encode()
            found = await Sender(caller, "product").told(EVENTS, given, kind)
            assert found == [("accepted",), ("accepted",), ("invalid", "foreign_source")]

    served(shop, work)
    assert shop.fleet.rows("SELECT source, COUNT(*) FROM usage_events GROUP BY 1") == [("app", 4)]


def test_event_without_source_by_key_without_source_is_rejected(shop: House) -> None:
    async def work(caller: Caller) -> None:
        answer = await Sender(caller).send(EVENTS, _without_source("own", own=True))
        assert said(answer) == [("invalid", "missing")] and answer.json()["results"][0]["at"] == "source"

    served(shop, work)


def test_event_without_time_repeated_later_is_duplicate(shop: House) -> None:
    timeless = event(time=...)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert await send.told(EVENTS, [timeless, timeless, event("e2")]) == [
            ("accepted",),
            ("duplicate",),
            ("accepted",),
        ]
        shop.clock.at_ms += 7 * WINDOW_MS
        assert await send.told(EVENTS, [event("e3", time=...), timeless]) == [("accepted",), ("duplicate",)]
        assert await send.told(EVENTS, {**timeless, "data": {"quantity": 4}}) == [("conflict", "other_content")]

    served(shop, work)
    times = shop.fleet.rows("SELECT event_id, ts FROM usage_events ORDER BY 1")
    assert times == [("e1", T0 + 10_000), ("e2", T0 + 1_000), ("e3", T0 + 10_000 + 7 * WINDOW_MS)]
    assert shop.fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 1
    clean(shop)


def test_event_conflict_does_not_reject_events_without_time(shop: House) -> None:
    """One of the batch is in conflict with what was there, one with another item: all others are in, and stay in."""

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert await send.told(EVENTS, [event(time=...)]) == [("accepted",)]
        batch = [event(quantity=4, time=...), event("e2", time=...), event("e3", time=...), event("e3", 4, time=...)]
        other = ("conflict", "other_content")
        assert await send.told(EVENTS, batch) == [other, ("accepted",), ("accepted",), other]
        assert await send.told(EVENTS, batch) == [other, ("duplicate",), ("duplicate",), other]

    served(shop, work)
    assert shop.fleet.one("SELECT COUNT(*) FROM usage_events") == 3
    assert shop.fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 2
    shop.fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(shop) == [(T0, "render", 9)]
    clean(shop)


def test_event_conflict_in_batch_without_times_retries_intake_once(
    shop: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: else one small batch would keep a thread, and the database, for a minute."""
    turns = 0

    def counted(*given: Any, **more: Any) -> list[EventResult]:
        nonlocal turns
        turns += 1
        return take(*given, **more)

    monkeypatch.setattr("drawdown.server.usage.items.take", counted)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        await send.told(EVENTS, [event(time=...)])
        await send.told(EVENTS, [event(quantity=4, time=...), *(event(f"n{one}", time=...) for one in range(20))])

    served(shop, work)
    assert turns == 2


def test_events_repeatedly_dated_by_concurrent_sender_are_refused_as_busy(
    shop: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many turns the sender is told so, and nothing is half taken."""
    names = [f"e{number}" for number in range(way_in.MOST_TURNS)]
    left = list(names)

    def outrun(connection: sa.Connection, events: Any, now_ms: int, **more: Any) -> list[EventResult]:
        take(connection, [UsageEvent("/web", left.pop(), RENDER, "acme", 3, T0 + 5_000)], now_ms)
        return take(connection, events, now_ms, **more)

    monkeypatch.setattr("drawdown.server.usage.items.take", outrun)

    async def work(caller: Caller) -> None:
        batch = [event(name, time=...) for name in (*names, "mine")]
        answer = await Sender(caller).send(EVENTS, batch)
        assert refused(answer) == (503, "busy") and answer.headers["retry-after"] == "1"

    served(shop, work)
    assert shop.fleet.one("SELECT COUNT(*) FROM usage_events") == 0


@pytest.mark.both_databases
def test_event_without_time_sent_concurrently_is_duplicate(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one dates and commits it between our look for its time and our insert."""
    looks = 0

    def looked(connection: sa.Connection, events: Any, *, own: bool) -> dict[tuple[str, str], int]:
        nonlocal looks
        found = times(connection, events, own=own)
        looks += 1
        if looks == 1:
            other = UsageEvent("/web", "e1", RENDER, "acme", 3, T0 + 5_000)
            if shop.fleet.engine.dialect.name == "postgresql":
                with shop.fleet.engine.begin() as another:
                    assert take(another, [other], T0 + 10_000) == [EventResult("accepted")]
            else:  # where nobody else writes meanwhile, the transaction itself
                take(connection, [other], T0 + 10_000)
        return found

    monkeypatch.setattr("drawdown.server.usage.items.times", looked)

    async def work(caller: Caller) -> None:
        items = [event(time=...), event("e2", time=...), event("e3")]
        assert await Sender(caller).told(EVENTS, items) == [("duplicate",), ("accepted",), ("accepted",)]

    served(shop, work)
    assert looks == 2
    assert shop.fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 0, "and nobody is told of a conflict"
    assert shop.fleet.one("SELECT COUNT(*) FROM usage_events") == 3
    clean(shop)


@pytest.mark.both_databases
def test_events_sent_concurrently_by_eight_clients_are_billed_once(shop: House) -> None:
    """Eight send the same events at once, in different orders, each with one that is its own."""
    names = [f"e{number}" for number in range(60)]

    async def client(caller: Caller, number: int) -> list[tuple[str, ...]]:
        turned = names[number:] + names[:number]
        answer = await Sender(caller).send(EVENTS, [event(one) for one in (*turned, f"own-{number}")])
        assert answer.status_code == 200, answer.text
        return said(answer)

    async def work(caller: Caller) -> None:
        found = await asyncio.gather(*(client(caller, number) for number in range(8)))
        accepted = sum(one == ("accepted",) for told in found for one in told)
        assert accepted == len(names) + 8 and {one for told in found for one in told} == {("accepted",), ("duplicate",)}

    served(shop, work)
    shop.fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(shop) == [(T0, "render", 3 * (len(names) + 8))]
    clean(shop)


def test_openmeter_event_is_billed_by_its_mapped_value(shop: House) -> None:
    """OpenMeter's own quick start: its data have the value, and no quantity."""
    request = {"method": "GET", "route": "/hello"}
    quick = event("o1", type="request", data={**request, "duration_ms": "40"})

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert refused(await send.send("/api/v1/events", quick, EVENT)) == (422, "bad_items")
        assert await send.told(EVENTS, quick, EVENT) == [("invalid", "missing")]
        value = EventValue(SUM, "$.duration_ms")
        write(shop.fleet.engine, lambda c: map_event(c, "request", "requests_ms", shop.fleet.by, value=value))
        write(shop.fleet.engine, lambda c: map_event(c, "ping", "pings", shop.fleet.by, value=EventValue(COUNT)))
        assert (await send.send("/api/v1/events", quick, EVENT)).status_code == 204
        pings = [event("p1", type="ping", data={"quantity": 9}), event("p2", type="ping", data=...)]
        wrong = event("o2", type="request", data=request)
        told = await send.told(EVENTS, [quick, *pings, wrong, event()], BATCH)
        assert told == [("duplicate",), ("accepted",), ("accepted",), ("invalid", "missing"), ("accepted",)]

    served(shop, work)
    kept = shop.fleet.rows("SELECT event_id, quantity, properties FROM usage_events WHERE event_type = 'request'")
    assert kept == [("o1", 40, '{"duration_ms":"40","method":"GET","route":"/hello"}')]
    shop.fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(shop) == [(T0, "pings", 2), (T0, "render", 3), (T0, "requests_ms", 40)]
    clean(shop)
    actions = "DELETE FROM operator_actions WHERE action = 'event_value' AND target = 'ping'"
    unguarded(shop.fleet, "operator_actions_no_delete", "operator_actions", actions)
    assert [one.text for one in read(shop.fleet.engine, verify).breaches if "value of events of ping" in one.text]


def test_event_value_after_first_event_or_changed_is_refused(shop: House) -> None:
    async def work(caller: Caller) -> None:
        assert await Sender(caller).told(EVENTS, event("a", type="x"), EVENT) == [("pending", "unmapped")]

    served(shop, work)

    def declare(event_type: str, value: EventValue) -> None:
        write(shop.fleet.engine, lambda c: map_event(c, event_type, "xs", shop.fleet.by, value=value))

    with pytest.raises(Refused, match="x already has events"):
        declare("x", EventValue(COUNT))
    declare("y", EventValue(COUNT))
    declare("y", EventValue(COUNT))
    with pytest.raises(Refused, match="y already has a value, the count of events"):
        declare("y", EventValue(SUM, "$.a"))
    assert shop.fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'event_value'") == 1
    clean(shop)


def test_openmeter_endpoint_answers_empty_or_with_item_errors(shop: House) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for items, kind in ((event(), EVENT), ([event(), event("e2")], BATCH), ([event("e3", type="x")], JSON)):
            answer = await send.send("/api/v1/events", items, kind)
            assert (answer.status_code, answer.content) == (204, b"")
        answer = await send.send("/api/v1/events", [event("e4"), event("e2", 9), event("e5", 1.5)], BATCH)
        assert refused(answer) == (422, "bad_items")
        results = answer.json()["error"]["details"]["results"]
        assert [(one["item"], one["code"]) for one in results] == [(1, "other_content"), (2, "not_whole")]
        many = [event(f"m{number}", 1.5) for number in range(100)]
        answer = await send.send("/api/v1/events", many, BATCH)
        assert len(answer.json()["error"]["details"]["results"]) == way_in.MOST_SAID
        assert refused(await send.send("/api/v1/events", b"[", BATCH)) == (400, "not_json")

    served(shop, work)
    ids = [row[0] for row in shop.fleet.rows("SELECT event_id FROM usage_events ORDER BY 1")]
    assert ids == ["e1", "e2", "e3", "e4"], "what was right of a refused batch is in"


@pytest.mark.parametrize("path", [EVENTS, "/v1/samples"])
def test_intake_request_with_query_parameter_is_refused(shop: House, path: str) -> None:
    async def work(caller: Caller) -> None:
        answer = await Sender(caller).send(f"{path}?backfill=june", event(), EVENT)
        assert refused(answer) == (400, "bad_request") and "unknown parameter 'backfill'" in answer.text

    served(shop, work)
    assert shop.fleet.rows("SELECT id FROM usage_samples") == []


def test_intake_without_events_scope_is_refused(lone: House) -> None:
    make_key(lone, "reader", "usage:read", "executions:write")

    async def work(caller: Caller) -> None:
        for path in (EVENTS, "/api/v1/events", "/v1/samples"):
            assert refused(await Sender(caller, "reader").send(path, event())) == (403, "no_scope")
            assert refused(await Sender(caller, "nobody").send(path, event())) == (401, "unauthorized")
            plain = await caller.send("POST", path, gzip.compress(b"{}"))
            assert refused(plain) == (401, "unauthorized")

    served(lone, work)
    assert lone.fleet.one("SELECT COUNT(*) FROM usage_samples") == 0
