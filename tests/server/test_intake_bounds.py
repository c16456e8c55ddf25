"""What the way in takes at most, and what it answers to more: nothing is taken, and the sender keeps it."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa

from drawdown.events.body_items import MOST_ITEMS
from drawdown.events.cloudevents import JSON, LINES
from drawdown.schema import database
from drawdown.schema.errors import AnswerLost, DatabaseBusy
from drawdown.server.http import bodies
from drawdown.server.http.errors import ApiError
from drawdown.server.usage import intake
from drawdown.server.usage.intake import Quotas
from drawdown.server.usage.singles import SINGLE_BYTES
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, SAMPLES, Sender, event, said, sample, sender
from tests.server.program import key_of, refused
from tests.server.test_overload import Raw

LIMIT_S: Final = 60
PATHS: Final = (EVENTS, SAMPLES)


@pytest.fixture
def shop(lone: House) -> House:
    sender(lone)
    return lone


def kept(house: House) -> object:
    return house.fleet.one("SELECT COUNT(*) FROM usage_samples")


def test_intake_body_beyond_packed_or_unpacked_size_is_refused(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    blank, bomb = b" " * (intake.MAX_BYTES - 2), gzip.compress(b"[" * 100_000_000, 9)
    assert len(bomb) < intake.MAX_BYTES < intake.MAX_UNPACKED_BYTES < 100_000_000

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for path in PATHS:
            assert said(await send.send(path, b"[]" + blank)) == []
            assert refused(await send.send(path, b"[] " + blank)) == (413, "too_large")
            full = b"[]" + b" " * (intake.MAX_UNPACKED_BYTES - 2)
            assert said(await send.send(path, full, packed=True)) == []
            assert refused(await send.send(path, full + b" ", packed=True)) == (413, "too_large")
            assert refused(await send.send(path, bomb, **{"content-encoding": "gzip"})) == (413, "too_large")
        assert caller.server._budget.bytes == 0

    served(shop, work)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes as they are unpacked: `given` and `got`."""
    counts: Counter[str] = Counter()
    make: Callable[[int], Any] = zlib.decompressobj

    class Counted:
        def __init__(self, bits: int) -> None:
            self._real = make(bits)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            found: bytes = self._real.decompress(data, most)
            counts.update(given=len(data), got=len(found))
            return found

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    return counts


def test_gzip_body_beyond_size_is_not_unpacked_further(unpacked: Counter[str]) -> None:
    """Counted where it is unpacked: of bombs of one member and of many, one behind the other."""
    for bomb in (gzip.compress(b"0" * 50_000_000), gzip.compress(b"0" * 9_000) * 10_000):
        unpacked.clear()
        with pytest.raises(ApiError, match="unpacked bytes"):
            bodies.unpack(bomb, 1_000_000)
        assert unpacked["got"] == 1_000_001
    many = gzip.compress(b"[{}") + gzip.compress(b"]")
    assert bodies.unpack(many, 4) == b"[{}]" and bodies.unpack(b"", 4) == b""


def test_gzip_body_of_many_members_is_unpacked_in_linear_time(unpacked: Counter[str]) -> None:
    """Of 4 MB of them, each was once unpacked out of all that followed it: for minutes."""
    small = gzip.compress(b" ", mtime=0)
    assert bodies.unpack(small * bodies.MOST_MEMBERS, 4_000) == b" " * bodies.MOST_MEMBERS
    assert unpacked["given"] <= bodies.MOST_MEMBERS * bodies.PIECE_BYTES
    with pytest.raises(ApiError, match="at most 1,000") as refused_:
        bodies.unpack(small * (intake.MAX_BYTES // len(small)), 4_000)
    assert refused_.value.status == 413
    large = gzip.compress(random.Random(1).randbytes(300_000), mtime=0)
    assert len(bodies.unpack(large + small + large, 700_000)) == 600_001, "in several pieces"


def test_intake_body_with_unsupported_encoding_is_refused(shop: House) -> None:
    packed = gzip.compress(b"[]", mtime=0)
    wrong = (
        (b"[]", "gzip", 400), (packed[:-3], "gzip", 400), (packed + b"x", "gzip", 400),
        (zlib.compress(b"[]"), "gzip", 400), (b"[]", "br", 415), (packed, "gzip, gzip", 415), (b"[]", "deflate", 415),
    )  # fmt: skip

    async def work(caller: Caller) -> None:
        for body, encoding, status in wrong:
            for path in PATHS:
                answer = await Sender(caller).send(path, body, **{"content-encoding": encoding})
                assert refused(answer) == (status, "bad_encoding"), (body, encoding)

    served(shop, work)


def test_intake_request_with_duplicate_header_is_refused(shop: House) -> None:
    binary = {f"ce-{name}": value for name, value in event().items() if name != "data"}
    head = {"authorization": f"Bearer {key_of('app')}", "content-type": JSON, "content-encoding": "identity", **binary}

    async def sent_with(double: bytes) -> tuple[int, Any]:
        request = Raw(shop, EVENTS, head)
        request.scope["headers"] = [*request.scope["headers"], (double, b"other")]
        request.more.put_nowait({"type": "http.request", "body": b'{"quantity": 1}', "more_body": False})
        return await request.run()

    async def work(caller: Caller) -> None:
        status, said = await sent_with(b"ce-id")
        assert (status, said["results"][0]["code"]) == (422, "duplicate_keys")
        for double in (b"content-type", b"content-encoding"):
            status, said = await sent_with(double)
            assert (status, said["error"]["code"]) == (400, "bad_request"), double

    served(shop, work)
    assert kept(shop) == 0


def test_intake_unreadable_body_is_refused_whole(shop: House) -> None:
    async def work(caller: Caller) -> None:
        for body in (b"", b"  ", b"nonsense", b"[{}", b"[{}]x", b"\xff", b"[" * 100_000):
            for path, good in ((EVENTS, event()), (SAMPLES, sample())):
                sent = body.replace(b"{}", json.dumps(good).encode())
                assert refused(await Sender(caller).send(path, sent))[1] in ("not_json", "bad_value"), body[:20]

    served(shop, work)
    assert kept(shop) == 0, "also of what stood before the place where it broke off"


def test_intake_batch_beyond_item_count_is_refused(shop: House) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for path, make in ((EVENTS, event), (SAMPLES, sample)):
            items = [make(f"{path}{number}") for number in range(MOST_ITEMS + 1)]
            for kind, body in (
                (JSON, json.dumps(items).encode()),
                (LINES, b"\n".join(json.dumps(one).encode() for one in items)),
            ):
                assert refused(await send.send(path, body, kind)) == (413, "too_large")
            assert kept(shop) == (0 if path == EVENTS else MOST_ITEMS)
            assert len(await send.told(path, items[:-1])) == MOST_ITEMS

    served(shop, work)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, nothing is stored."""
    made = threading.Event()
    write: Callable[..., Any] = database.write

    def slow(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
        assert made.wait(LIMIT_S)
        return write(engine, work)

    monkeypatch.setattr("drawdown.server.usage.intake.write", slow)
    return made


def batch(name: str) -> bytes:
    """One event that shares no transaction with others."""
    return json.dumps(event(name)).encode() + b" " * SINGLE_BYTES


async def waiting(caller: Caller, send: Sender, count: int) -> list[asyncio.Task[httpx.Response]]:
    """So many batches more, which wait."""
    waits = caller.server._intake._batches
    there = waits.total()
    made = [asyncio.create_task(send.send(EVENTS, batch(f"{send.name}-{number}"))) for number in range(count)]
    async with asyncio.timeout(LIMIT_S):
        while waits.total() < there + count:
            await asyncio.sleep(0.01)
    return made


def test_intake_batches_beyond_queue_are_refused_as_busy(
    shop: House, free: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_BATCHES", 3)
    for name in ("second", "third"):
        sender(shop, name)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        tasks = await waiting(caller, send, 2) + await waiting(caller, Sender(caller, "second"), 1)
        answer = await Sender(caller, "third").send(EVENTS, batch("more"))
        assert refused(answer) == (429, "busy") and answer.headers["retry-after"] == "1"
        assert (await send.get("/v1/usage/acme?from_ms=1764547200000")).status_code == 404, "nobody else waits for them"
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*tasks)} == {"pending"}
        assert (await send.told(SAMPLES, sample()))[0][0] == "pending" and not caller.server._intake._batches
        assert 'drawdown_server_refused_total{what="batches"} 1.0' in (await caller.get("/metrics")).text

    served(shop, work)


def test_intake_small_batch_is_not_delayed_by_large_batches(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the same key sent more of them than are stored at once, which do not end."""
    free, begun = threading.Event(), list[str]()
    write: Callable[..., Any] = database.write

    def slow(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
        thread = threading.current_thread().name
        if not thread.startswith("drawdown-intake-small"):
            begun.append(thread)
            assert free.wait(LIMIT_S)
        return write(engine, work)

    monkeypatch.setattr(intake, "write", slow)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        blank = b" " * bodies.SMALL_BODY_BYTES
        large = [json.dumps([event(f"large-{number}")]).encode() + blank for number in range(2 * intake.AT_ONCE)]
        packed = (gzip.compress(large[0]), {"content-encoding": "gzip"})
        tasks = [asyncio.create_task(send.send(EVENTS, packed[0], **packed[1]))]
        tasks += [asyncio.create_task(send.send(EVENTS, one)) for one in large[1:]]
        async with asyncio.timeout(LIMIT_S / 2):
            while caller.server._intake._batches.total() < len(tasks) or len(begun) < intake.AT_ONCE:
                await asyncio.sleep(0.01)
            assert said(await send.send(EVENTS, event("single")))[0][0] == "pending"
        assert not any(task.done() for task in tasks)
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*tasks)} == {"pending"}

    served(shop, work)


def test_intake_large_batches_are_scheduled_fairly_across_keys(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another key's waits for those under way, and for no other that was there before it."""
    sender(shop, "other")
    steps, begun = threading.Semaphore(0), []
    write: Callable[..., Any] = database.write

    def slow(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
        begun.append(1)
        assert steps.acquire(timeout=LIMIT_S)
        return write(engine, work)

    monkeypatch.setattr(intake, "write", slow)
    blank = b" " * bodies.SMALL_BODY_BYTES

    async def work(caller: Caller) -> None:
        async def sent(name: str, number: int) -> asyncio.Task[httpx.Response]:
            body, there = (
                json.dumps([event(f"{name}-{number}")]).encode() + blank,
                caller.server._intake._batches.total(),
            )
            made = asyncio.create_task(Sender(caller, name).send(EVENTS, body))
            while caller.server._intake._batches.total() == there:
                assert not made.done(), said(made.result())
                await asyncio.sleep(0.01)
            return made

        async with asyncio.timeout(LIMIT_S):
            many = [await sent("app", number) for number in range(3 * intake.AT_ONCE)]
            one = await sent("other", 0)
            for _ in range(intake.AT_ONCE):  # those under way
                steps.release()
            while len(begun) < 2 * intake.AT_ONCE:  # then one of each line has its turn: else a third would end before
                await asyncio.sleep(0.01)
            for _ in range(intake.AT_ONCE):
                steps.release()
            assert said(await one)[0][0] == "pending"
            assert sum(task.done() for task in many) <= intake.AT_ONCE + 1
            for _ in many:
                steps.release()
            assert {said(task)[0][0] for task in await asyncio.gather(*many)} == {"pending"}

    served(shop, work)


def test_intake_large_batch_without_turn_in_time_is_refused_as_busy(
    shop: House, free: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was begun: that is no answer that was lost."""
    monkeypatch.setattr(intake, "WITHIN_S", 0.2)
    large = json.dumps([event("late")]).encode() + b" " * bodies.SMALL_BODY_BYTES

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        body = json.dumps([event("early")]).encode() + b" " * bodies.SMALL_BODY_BYTES
        early = [asyncio.create_task(send.send(EVENTS, body)) for _ in range(intake.AT_ONCE)]
        while caller.server._intake._turns._free:
            await asyncio.sleep(0.01)
        assert refused(await send.send(EVENTS, large)) == (503, "busy")
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*early)} <= {"pending", "duplicate"}
        monkeypatch.setattr(intake, "WITHIN_S", LIMIT_S)
        assert said(await send.send(EVENTS, large))[0][0] == "pending", "the line goes on behind whoever left"

    served(shop, work)


def test_intake_key_beyond_its_batches_does_not_block_another_key(
    shop: House, free: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_BATCHES", 3)
    monkeypatch.setattr(intake, "MOST_BATCHES_OF_A_KEY", 2)
    sender(shop, "greedy")

    async def work(caller: Caller) -> None:
        greedy = Sender(caller, "greedy")
        tasks = await waiting(caller, greedy, 2)
        assert refused(await greedy.send(EVENTS, batch("more"))) == (429, "busy")
        tasks += await waiting(caller, Sender(caller), 1)
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*tasks)} == {"pending"}

    served(shop, work)


def test_intake_two_keys_at_their_share_leave_room_for_third(shop: House, free: threading.Event) -> None:
    for name in ("first", "second"):
        sender(shop, name)

    async def work(caller: Caller) -> None:
        tasks = []
        for name, share in (("first", 16), ("second", 8)):
            greedy = Sender(caller, name)
            tasks += await waiting(caller, greedy, share)
            assert refused(await greedy.send(EVENTS, batch("more"))) == (429, "busy")
        tasks += await waiting(caller, Sender(caller), 4)
        free.set()
        assert {said(one)[0][0] for one in await asyncio.gather(*tasks)} == {"pending"}
        assert not caller.server._intake._batches, "and nothing is kept of a key that was refused"

    served(shop, work)


def test_intake_slow_sender_does_not_occupy_batch_slot(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MOST_BATCHES", 1)
    sent, end = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"["
        sent.set()
        await end.wait()
        yield b"]"

    async def work(caller: Caller) -> None:
        head = {"authorization": f"Bearer {key_of('app')}", "content-type": JSON}
        slow = asyncio.create_task(caller.send("POST", EVENTS, slowly(), head))
        await sent.wait()
        assert (await Sender(caller).told(EVENTS, event()))[0][0] == "pending"
        end.set()
        assert (await slow).json() == {"results": []}

    served(shop, work)


def test_intake_quotas_limit_items_per_second_by_key_and_org(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "KEY_ITEMS_PER_S", 100)
    monkeypatch.setattr(intake, "ORG_ITEMS_PER_S", 50)
    refused = Counter[str]()
    made = Quotas(refused)

    def takes(key: str, now_ms: int, **by_org: int) -> bool:
        try:
            made.take(key, sum(by_org.values()), Counter(by_org), now_ms)
        except ApiError as error:
            assert (error.status, error.code, error.headers["Retry-After"]) == (429, "too_many_requests", "1")
            return False
        return True

    assert takes("one", 0, acme=60, globex=40)
    assert not takes("one", 0, acme=41), "acme has sent 60, and may have 100 at once"
    assert not takes("two", 0, other=10, acme=41), "whoever sends them"
    assert takes("two", 0, other=100), "of a batch that was refused nothing counts"
    assert takes("one", 0, acme=40, globex=60) and not takes("one", 0, third=1), "the key has sent 200"
    assert takes("one", 1_000, third=100) and not takes("one", 1_000, third=1)
    assert takes("three", 1_000, acme=50) and not takes("three", 1_000, acme=1)
    assert refused == {"items": 5}


def test_intake_batch_beyond_org_rate_is_refused_whole(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(caller: Caller) -> None:
        monkeypatch.setattr(intake, "ORG_ITEMS_PER_S", 5)
        caller.server._intake._quotas = Quotas(caller.server.refused)
        send = Sender(caller)
        assert len(await send.told(EVENTS, [event(f"a{number}") for number in range(10)])) == 10
        answer = await send.send(EVENTS, [event("b", subject="globex"), event("c")])
        assert refused(answer) == (429, "too_many_requests") and answer.headers["retry-after"] == "1"
        assert kept(shop) == 10
        shop.clock.at_ms += 1_000
        assert len(await send.told(EVENTS, [event("b", subject="globex"), event("c")])) == 2

    served(shop, work)


def test_intake_during_database_outage_is_refused_and_not_stored(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Callable[..., Any] = database.write

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for error, code in ((DatabaseBusy("away"), "database"), (AnswerLost("cut"), "answer_lost")):

            def away(_engine: sa.Engine, _work: object, error: Exception = error) -> Any:
                raise error

            monkeypatch.setattr("drawdown.server.usage.intake.write", away)
            for path, item in ((EVENTS, event()), (SAMPLES, sample())):
                answer = await send.send(path, item)
                assert refused(answer) == (503, code) and answer.headers["retry-after"] == "1"
                assert refused(await send.send("/api/v1/events", event())) == (503, code)
        monkeypatch.setattr("drawdown.server.usage.intake.write", write)
        assert kept(shop) == 0
        assert (await send.told(EVENTS, event()))[0][0] == "pending"

    served(shop, work)


def test_intake_failed_commit_is_refused_and_not_stored(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the commit itself is no answer of 200, and leaves nothing."""
    commit: Callable[..., None] = database._commit

    def fails(transaction: sa.RootTransaction) -> None:
        transaction.rollback()
        raise DatabaseBusy("the disk is full")

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        monkeypatch.setattr(database, "_commit", fails)
        for path, item in ((EVENTS, event()), (SAMPLES, sample())):
            assert refused(await send.send(path, item)) == (503, "database")
        monkeypatch.setattr(database, "_commit", commit)
        assert kept(shop) == 0 and shop.fleet.one("SELECT COUNT(*) FROM usage_events") == 0
        for path, item in ((EVENTS, event()), (SAMPLES, sample())):
            assert (await send.told(path, item))[0][0] == "pending"

    served(shop, work)
