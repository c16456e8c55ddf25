"""Each fault of a connection and of a server: what is tried again, what is not, and what the caller is told."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx
from tenacity import Future, RetryCallState, Retrying

from drawdown_client import (
    AsyncClient,
    BadItem,
    Client,
    Closed,
    Event,
    Item,
    Refused,
    Result,
    Settings,
    Unreachable,
    Unsent,
    World,
    calls,
    items,
    reads,
)
from drawdown_client.calls import Backoff
from drawdown_client.settings import LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S
from tests.cases import cases
from tests.client.book import KEY, URL, Book, hasty


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL, using="httpx", assert_all_called=False) as made:
        yield made


def client(**settings: Any) -> Client:
    return Client(URL, KEY, Settings(source="/test", **{"batch_ms": 0, **settings}), world=hasty())


def error(status: int, code: str = "database", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "why"}}, headers=headers)


AGAIN = {
    "refused": httpx.ConnectError("refused"),
    "no_name": httpx.ConnectError("name or service not known"),
    "connect_timeout": httpx.ConnectTimeout("late"),
    "read_timeout": httpx.ReadTimeout("late"),
    "write_error": httpx.WriteError("reset"),
    "read_error": httpx.ReadError("reset"),
    "cut": httpx.RemoteProtocolError("peer closed connection"),
    "pool": httpx.PoolTimeout("none is free"),
    "408": error(408, "too_slow"),
    "429": error(429, "too_many_requests", **{"retry-after": "0"}),
    "500": error(500, "internal"),
    "502": httpx.Response(502, text="<html>bad gateway</html>"),
    "503": error(503),
    "504": httpx.Response(504),
    "proxy_redirect": httpx.Response(302, headers={"location": "http://x.test"}),
    "no_json": httpx.Response(200, text="<html>sign in to this network</html>"),
    "no_object": httpx.Response(200, json=[]),
    "too_few_results": httpx.Response(200, json={"results": []}),
    "unknown_status": httpx.Response(200, json={"results": [{"status": "perhaps"}]}),
}
FINAL = {
    "proxy_413": (413, "no_code"),
    "not_json": (400, "not_json"),
    "unauthorized": (401, "unauthorized"),
    "no_scope": (403, "no_scope"),
    "not_found": (404, "not_found"),
    "media_type": (415, "not_json"),
}


@pytest.mark.parametrize("fault", AGAIN.values(), ids=AGAIN)
def test_client_transient_fault_is_retried_and_event_arrives_once(router: respx.MockRouter, fault: Any) -> None:
    book, told = Book(), list[tuple[Item, Result]]()
    sent = [fault, fault]
    route = router.post("/v1/events")
    route.side_effect = lambda request: _strike(sent.pop()) if sent else book.answer(request)
    with client(on_result=lambda item, result: told.append((item, result))) as made:
        made_id = made.record("page.render", 3, org_id="acme")
        made.flush(20)
    assert route.call_count == 3
    assert [item["event_id"] for item in book.kept.values()] == [made_id]
    assert [(item.item_id, result.status) for item, result in told] == [(made_id, "accepted")]


@pytest.mark.parametrize(("status", "code"), FINAL.values(), ids=FINAL)
def test_client_final_refusal_is_not_retried_and_is_reported(
    router: respx.MockRouter, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Result] = []
    answer = error(status, code) if code != "no_code" else httpx.Response(status, text="<html>nginx</html>")
    route = router.post("/v1/events").mock(answer)
    made = client(on_result=lambda _, result: told.append(result))
    made.record("page.render", 3, org_id="acme")
    with pytest.raises(Unsent) as found:
        made.flush(20)
    made.close()
    assert route.call_count == 1
    assert (found.value.count, found.value.kept) == (1, False)
    assert [(one.status, one.code) for one in told] == [("refused", code)]
    assert f"refused items (1): {status} {code}" in caplog.text and KEY not in caplog.text


def test_client_lost_answer_is_resent_as_duplicate(router: respx.MockRouter) -> None:
    book, told = Book(), list[Result]()

    def answer(request: httpx.Request) -> httpx.Response:
        found = book.answer(request)
        if len(book.bodies) == 1:
            raise httpx.RemoteProtocolError("cut after it was read")
        return found

    router.post("/v1/events").side_effect = answer
    with client(on_result=lambda _, result: told.append(result)) as made:
        made.record("page.render", 3, org_id="acme", at=datetime(2026, 2, 3, tzinfo=UTC), properties={"model": "small"})
    assert [one.status for one in told] == ["duplicate"]
    assert book.bodies[0] == book.bodies[1] and len(book.kept) == 1
    (kept,) = book.kept.values()
    assert kept["occurred_at"] == 1_770_076_800_000 and kept["properties"] == {"model": "small"}


def test_client_results_are_reported_for_each_item(router: respx.MockRouter, caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, Result] = {}
    statuses = ("accepted", "invalid", "pending", "conflict", "duplicate")
    said = [{"status": one, "code": None if one in ("accepted", "duplicate") else f"c_{one}"} for one in statuses]
    router.post("/v1/events").mock(httpx.Response(200, json={"results": said}))
    with (
        pytest.raises(Unsent, match=r"items that the server refused: 2 \(only the log has them\)"),
        client(on_result=lambda item, result: told.update({item.item_id: result})) as made,
    ):
        made.events.send(*(Event("page.render", 1, "acme", event_id=one) for one in statuses))
    assert {name: one.status for name, one in told.items()} == dict(zip(statuses, statuses, strict=True))
    assert {name for name, one in told.items() if one.is_kept} == {"accepted", "duplicate", "pending"}
    assert "item rejected: events invalid: invalid c_invalid" in caplog.text and "conflict c_conflict" in caplog.text
    for field in ('"event_id":"invalid"', '"event_type":"page.render"', '"org_id":"acme"', '"quantity":1'):
        assert field in caplog.text
    assert "events of 'an organisation', and does not bill them yet: c_pending" in caplog.text


def test_client_pending_items_are_warned_once_per_name(
    router: respx.MockRouter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By type, size or organisation: a mistyped name is seen in the log, and a thousand items make one line."""
    events = [("a", "acme", "unmapped"), ("a", "globex", "unmapped"), ("b", "acme", "unmapped"),
              ("a", "acme", "unassigned"), ("c", "acme", "unassigned"), ("a", None, "unassigned")]  # fmt: skip
    said = [{"status": "pending", "code": code, "message": "as the server says"} for _, _, code in events]
    router.post("/v1/events").mock(httpx.Response(200, json={"results": said}))
    samples = [{"status": "pending", "code": "unmapped", "message": "no size"}]
    router.post("/v1/samples").mock(httpx.Response(200, json={"results": samples}))

    def warned() -> list[str]:
        found = [
            one.removeprefix("the server stored ").split(", and does")[0] + one.rpartition("yet")[2]
            for one in caplog.messages
        ]
        caplog.clear()
        return found

    with client() as made:
        made.events.send(*(Event(kind, 1, org) for kind, org, _ in events))
        made.samples.send({"org_id": "acme", "sandbox_id": "sb", "cell_id": "c", "memory_mb": 77, "interval_s": 1})
        made.flush(20)
        assert warned() == [
            "events of 'a': unmapped: as the server says", "events of 'b': unmapped: as the server says",
            "events of 'acme': unassigned: as the server says",
            "events of 'an organisation': unassigned: as the server says", "samples of 77: unmapped: no size",
        ]  # fmt: skip
        made.events.send(*(Event(kind, 1, org) for kind, org, _ in events))
        made.flush(20)
        monkeypatch.setattr(items, "MOST_WARNED", 0)
        made.events.send(*(Event("new", 1, org) for _, org, _ in events))
    assert warned() == []


def test_client_batch_too_large_for_proxy_is_halved(router: respx.MockRouter) -> None:
    book = Book()

    def answer(request: httpx.Request) -> httpx.Response:
        many = len(json.loads(gzip.decompress(request.content))) > 2
        return httpx.Response(413, text="nginx") if many else book.answer(request)

    router.post("/v1/events").side_effect = answer
    with client() as made:
        made.events.send(*(Event("page.render", number, "acme") for number in range(7)))
    assert book.numbers == list(range(7)) and max(map(len, book.bodies)) == 2


def test_client_call_that_proxy_refuses_is_not_retried(router: respx.MockRouter) -> None:
    route = router.get("/v1/balance/acme").mock(httpx.Response(403, text="<html>forbidden</html>"))
    with client() as made, pytest.raises(Refused, match="403 no_code: <html>") as found:
        made.balance("acme")
    assert route.call_count == 1 and found.value.may_pass_later


def test_client_bodies_are_bounded_by_items_and_bytes(router: respx.MockRouter) -> None:
    book = Book()
    router.post("/v1/events").side_effect = book.answer
    large = {"note": "x" * 12_000}
    with client(batch_ms=200) as made:
        made.events.send(*(Event("page.render", number + 14, "acme") for number in range(2_500)))
        made.flush(60)
        made.events.send(*(Event("page.render", number + 14, "acme", properties=large) for number in range(500)))
    sizes = [len(body) for body in book.bodies]
    assert sizes[:3] == [1000, 1000, 500] and sum(sizes) == len(book.kept) == 3_000
    assert max(len(json.dumps(body, separators=(",", ":"))) for body in book.bodies) <= 4 * 1024 * 1024
    assert len(sizes) >= 5, "500 items of 12 KB go in two bodies"


def test_client_events_and_samples_use_own_endpoints(router: respx.MockRouter) -> None:
    events, samples = Book(), Book()
    router.post("/v1/events").side_effect = events.answer
    router.post("/v1/samples").side_effect = samples.answer
    sample = {"org_id": "acme", "sandbox_id": "sb-1", "cell_id": "c", "memory_mb": 512, "interval_s": 60}
    with client() as made:
        for number in range(3):
            made.record("page.render", number, org_id="acme")
            assert made.samples.send({**sample, "id": f"s-{number}"}) == [f"s-{number}"]
        made.samples.send({**sample, "ts": datetime(2026, 2, 3, tzinfo=UTC)})
    assert events.numbers == [0, 1, 2] and len(samples.kept) == 4
    assert [one["ts"] for one in samples.kept.values()][-1] == 1_770_076_800_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": -1}, {"quantity": 1.5}, {"quantity": True}, {"quantity": 10**13}, {"org_id": ""},
        {"event_type": ""}, {"event_id": "x" * 201}, {"at": datetime(2026, 2, 3)}, {"properties": {"a": object()}},  # noqa: DTZ001
        {"properties": {"a": float("nan")}}, {"properties": {"a": "x" * 17_000}},
    ],
)  # fmt: skip
def test_client_record_with_invalid_field_is_refused_without_call(
    router: respx.MockRouter, wrong: dict[str, Any]
) -> None:
    with client() as made, pytest.raises(BadItem):
        made.record(**{"event_type": "page.render", "quantity": 1, "org_id": "acme", **wrong})
    assert not router.calls


def test_client_read_with_server_error_is_tried_four_times(router: respx.MockRouter) -> None:
    route = router.get("/v1/balance/acme").mock(error(503, **{"retry-after": "0"}))
    with client() as made, pytest.raises(Unreachable, match="503 database: why"):
        made.balance("acme")
    assert route.call_count == 4


def test_client_read_with_long_retry_after_is_not_retried(router: respx.MockRouter) -> None:
    route = router.get("/v1/balance/acme").mock(error(429, "too_many_requests", **{"retry-after": "16"}))
    with client() as made, pytest.raises(Unreachable) as found:
        made.balance("acme")
    assert route.call_count == 1 and found.value.retry_after_s == 16


def test_client_usage_pages_are_joined_and_ids_encoded(router: respx.MockRouter) -> None:
    page = {"org_id": "a/b c", "by": "day", "rows": [{"group": "1"}], "carried": [], "next": "f:1"}
    route = router.get(path="/v1/usage/a/b c")
    route.side_effect = [
        httpx.Response(200, json=page),
        httpx.Response(200, json={**page, "rows": [{"group": "2"}], "next": None}),
    ]
    with client() as made:
        found = made.usage("a/b c", date(2026, 2, 1), datetime(2026, 2, 3, tzinfo=UTC), by="day")
    assert [row["group"] for row in found["rows"]] == ["1", "2"] and "next" not in found
    assert route.calls[0].request.url.raw_path.startswith(b"/v1/usage/a%2Fb%20c?")
    queries = [dict(call.request.url.params) for call in route.calls]
    assert queries[0] == {"from_ms": "1769904000000", "to_ms": "1770076800000", "by": "day"}
    assert queries[1]["after"] == "f:1"


def test_client_usage_without_start_repeats_server_start_on_each_page(router: respx.MockRouter) -> None:
    """The month may change between two pages."""
    page = {"org_id": "acme", "by": "feature", "from_ms": 300_000, "rows": [], "carried": [], "next": "f:1"}
    route = router.get("/v1/usage/acme")
    route.side_effect = [httpx.Response(200, json=page), httpx.Response(200, json={**page, "next": None})]
    with client() as made:
        assert made.usage("acme")["from_ms"] == 300_000
    queries = [dict(call.request.url.params) for call in route.calls]
    assert queries == [{"by": "feature"}, {"by": "feature", "from_ms": "300000", "after": "f:1"}]


@pytest.mark.parametrize(("bound", "most"), [("MOST_PAGES", 3), ("MAX_CHARS", 400)])
def test_client_usage_endless_pages_are_bounded(
    router: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Of a server that always has another one: each is no larger than one may be."""
    numbers = itertools.count(1)
    page = {"rows": [{"group": "x" * 50}], "carried": []}
    route = router.get("/v1/usage/acme")
    route.side_effect = lambda request: httpx.Response(200, json={**page, "next": f"f:{next(numbers)}"})
    monkeypatch.setattr(reads, bound, most)
    with client(call_tries=1) as made, pytest.raises(Unreachable, match="Request a shorter range"):
        made.usage("acme", 0)
    assert 3 <= route.call_count <= 4


def test_client_refusal_has_status_code_and_details_of_server(router: respx.MockRouter) -> None:
    said = {"error": {"code": "bad_value", "message": "fix it", "details": {"wrong": ["from_ms"]}}}
    router.get("/v1/usage/acme").mock(httpx.Response(422, json=said))
    with client() as made, pytest.raises(Refused) as found:
        made.usage("acme", 0)
    assert (found.value.status, found.value.code, found.value.details) == (422, "bad_value", {"wrong": ["from_ms"]})


def test_client_retry_after_is_respected_before_next_try(router: respx.MockRouter) -> None:
    book, times = Book(), list[float]()

    def answer(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        return error(429, **{"retry-after": "1"}) if len(times) == 1 else book.answer(request)

    router.post("/v1/events").side_effect = answer
    with client() as made:
        made.record("page.render", 1, org_id="acme")
        while not times:
            time.sleep(0.01)
        time.sleep(0.2)
        made.flush(20)  # also where somebody waits
    assert times[1] - times[0] >= 1 and book.numbers == [1]


@cases(
    ("said", "waits"),
    [("7", 7.0), ("0", 0.0), ("99999", LONGEST_RETRY_AFTER_S), ("soon", None), ("-1", None), ("", None), ("٣", None)],
)
def test_client_retry_after_header_is_parsed_and_bounded(said: str, waits: float | None) -> None:
    headers = [(b"retry-after", said.encode())]
    with pytest.raises(Unreachable) as found:
        calls.read(httpx.Response(503, headers=headers), b"", World())
    assert found.value.retry_after_s == waits


def test_client_retry_after_date_is_parsed() -> None:
    now = datetime(2026, 2, 3, tzinfo=UTC)
    headers = {"retry-after": format_datetime(now + timedelta(seconds=9), usegmt=True)}
    with pytest.raises(Unreachable) as found:
        calls.read(httpx.Response(503, headers=headers), b"", World(now_ms=lambda: int(now.timestamp() * 1000)))
    assert found.value.retry_after_s == 9


def test_client_backoff_grows_to_limit_with_jitter() -> None:
    backoff = Backoff(World(jitter=random.Random(7)))

    def pause(attempt: int) -> float:
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number, state.outcome = attempt, Future(attempt)
        state.outcome.set_exception(Unreachable("away"))
        return backoff(state)

    found = {attempt: [pause(attempt) for _ in range(200)] for attempt in (1, 2, 5, 9, 20, 10_000)}
    for attempt, pauses in found.items():
        most = min(0.2 * 2 ** (min(attempt, 30) - 1), LONGEST_PAUSE_S)
        assert max(pauses) <= most and max(pauses) > 0.9 * most and min(pauses) < 0.1 * most


def test_client_flush_and_close_end_backoff_pause(router: respx.MockRouter) -> None:
    """A minute's pause of a server that was away long: it is back, and the program does not wait for the minute."""
    slow: Any = type("Slow", (), {"uniform": lambda self, low, high: 60.0})()
    book, is_away = Book(), threading.Event()
    is_away.set()
    route = router.post("/v1/events")
    route.side_effect = lambda request: error(503) if is_away.is_set() else book.answer(request)
    made = Client(URL, KEY, Settings(batch_ms=0), world=World(jitter=slow))
    made.record("page.render", 1, org_id="acme")
    while not route.call_count:
        time.sleep(0.01)
    is_away.clear()
    began = time.monotonic()
    made.flush(30)
    assert time.monotonic() - began < 20 and book.numbers == [1]
    is_away.set()
    made.record("page.render", 2, org_id="acme")
    while route.call_count < 3:
        time.sleep(0.01)
    is_away.clear()
    made.close(30)
    assert time.monotonic() - began < 20 and book.numbers == [1, 2]


def test_client_flush_during_call_ends_following_pause(router: respx.MockRouter) -> None:
    """The pause was as long as if no program waited: the wish came before the pause, and was forgotten by it."""
    slow: Any = type("Slow", (), {"uniform": lambda self, low, high: 60.0})()
    book, is_asked = Book(), threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if is_asked.is_set():
            return book.answer(request)
        is_asked.set()
        time.sleep(0.3)  # the program begins to wait meanwhile
        return error(503)

    router.post("/v1/events").side_effect = answer
    made = Client(URL, KEY, Settings(batch_ms=0), world=World(jitter=slow))
    made.record("page.render", 1, org_id="acme")
    assert is_asked.wait(20)
    made.flush(5)
    assert book.numbers == [1]
    made.close()


@pytest.mark.parametrize("within_s", [0.0, 0.3])
def test_client_close_with_unreachable_server_reports_unsent_count(
    router: respx.MockRouter, caplog: pytest.LogCaptureFixture, within_s: float
) -> None:
    """Once, whether or not the thread that sends has ended by then."""
    caplog.set_level(logging.WARNING)
    router.post("/v1/events").mock(error(503, **{"retry-after": "5"}))
    made = client()
    made.events.send(*(Event("page.render", 1, "acme") for _ in range(3)))
    with pytest.raises(Unsent, match=r"items not sent: 3 \(they were stored only in memory\)"):
        made.close(within_s)
    made.close()  # and again: nothing


@cases("is_used", [True, False])
def test_closed_client_call_raises_client_error(router: respx.MockRouter, is_used: bool) -> None:
    router.get("/v1/orgs").mock(httpx.Response(200, json={}))

    async def loop() -> None:
        async with AsyncClient(URL, KEY) as made:
            if is_used:
                await made.get("/v1/orgs")
        with pytest.raises(Closed, match="the client is closed"):
            await made.get("/v1/orgs")

    asyncio.run(loop())
    with client() as made:
        if is_used:
            made.get("/v1/orgs")
    with pytest.raises(Closed, match="the client is closed"):
        made.get("/v1/orgs")


def test_client_closed_while_call_begins_raises_client_error(
    router: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.get("/v1/orgs").mock(httpx.Response(200, json={}))
    made, real = client(), calls.timeouts

    def timeouts(*given: Any) -> httpx.Timeout:
        if len(given) > 1:  # of a call: another thread closes the client now
            made.close()
        return real(*given)

    made.get("/v1/orgs")
    monkeypatch.setattr(calls, "timeouts", timeouts)
    with pytest.raises(Closed, match="the client is closed"):
        made.get("/v1/orgs")


def test_client_url_is_validated_and_key_is_not_shown() -> None:
    for wrong in ("drawdown.example", "ftp://drawdown.example", "http://", "http://[::1"):
        with pytest.raises(ValueError, match="http"):
            Client(wrong, KEY)
    made = client()
    assert KEY not in repr(made)
    made.close()


def _strike(fault: Any) -> httpx.Response:
    if isinstance(fault, Exception):
        raise fault
    assert isinstance(fault, httpx.Response)
    return fault


def test_client_refusal_traceback_omits_retry_library(router: respx.MockRouter) -> None:
    """Whoever reads the error sees their own line and the refusal, not how often it may be tried."""
    router.get("/v1/balance/acme").mock(error(403, "no_scope"))
    with client() as made, pytest.raises(Refused) as found:
        made.balance("acme")
    files = [one.path for one in found.traceback]
    assert not [file for file in files if "tenacity" in str(file)] and len(files) < 5
