"""What programs send that is invalid: counted by key and reason, with the name of one, and with nothing else of it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any, Final

import pytest

from drawdown.cli.main import run
from drawdown.events import example
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS
from drawdown.server.usage import intake
from drawdown.worker.usage import invalid as invalid_items
from drawdown.worker.usage.invalid import InvalidItems
from drawdown.worker.usage.invalid import invalid_items as listed
from drawdown.worker.usage.prune import prune
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, SAMPLES, Sender, clean, event, sample, sender

PRIVATE: Final = "Bearer abcdefghijklmnopqrstuvwxyz0123456789"
ALL: Final = "SELECT key_name, kind, code, items, source, item_id FROM invalid_items ORDER BY kind, code"


@pytest.fixture
def shop(lone: House, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(intake, "EVERY_S", 0.01)
    sender(lone)
    return lone


async def kept(caller: Caller) -> None:
    """Until all that was noted is written down."""
    while caller.server._intake._invalid._keeping is not None:
        await asyncio.sleep(0.005)


@pytest.mark.both_databases
def test_invalid_items_are_counted_by_key_and_code_with_example_id(
    shop: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        long = "order 7, " * 16
        wrong = [event("e1", "half", data={"quantity": "SECRET"}), event("e2", data={"quantity": "SECRET"})]
        await send.told(
            EVENTS, [*wrong, event("good"), event(PRIVATE, time=...), event("old", time="1999-01-01T00:00:00Z")]
        )
        await kept(caller)
        await send.told(EVENTS, [*wrong, event(long, time="1999-01-01T00:00:00Z"), "no object"])
        await send.told(EVENTS, [event("a" * 201, subject=...), event(PRIVATE, subject=...)])
        await send.told(SAMPLES, [sample("s1", memory_mb=-1), sample("s2")])
        await kept(caller)

    served(shop, work)
    assert listed_of(shop) == [
        ("app", "events", "missing", 2, "/web", None),
        ("app", "events", "not_an_object", 1, None, None),
        ("app", "events", "too_old", 2, "/web", "old"),
        ("app", "events", "wrong_type", 4, "/web", "e1"),
        ("app", "samples", "memory_out_of_bounds", 1, "cell-1", "s1"),
    ]
    assert "SECRET" not in str(shop.fleet.rows("SELECT * FROM invalid_items"))
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", shop.fleet.engine.url.render_as_string(hide_password=False))
    assert run(["--json", "event", "invalid", "--from", "2020-01-01", "--key", "app"]) == 0
    told = json.loads(capsys.readouterr().out)["invalid"]
    assert [(one["code"], one["items"], one["item_id"]) for one in told[:2]] == [
        ("wrong_type", 4, "e1"),
        ("missing", 2, None),
    ]
    clean(shop)


def listed_of(house: House) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in house.fleet.rows(ALL)]


def test_invalid_items_from_hostile_client_use_bounded_rows(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends ever other ids and fields has a row an hour for each code; a day has so many of all."""
    monkeypatch.setattr(invalid_items, "MOST_ROWS_A_DAY", 2)
    monkeypatch.setattr(intake, "MOST_NOTED", 3)

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for turn in range(3):
            await send.told(EVENTS, [event(f"{turn}-{n}", **{"data": {"quantity": -n - 1}}) for n in range(300)])
            await send.told(EVENTS, [event(f"{turn}-{n}", subject=...) for n in range(300)])
            await send.told(EVENTS, [1, event(time="never"), event(specversion="9")])
            assert len(caller.server._intake._invalid._noted) <= 3
            await kept(caller)

    served(shop, work)
    found = listed_of(shop)
    assert len(found) == 2 and {row[3] for row in found} == {900}


def test_invalid_items_failed_write_does_not_delay_or_refuse_intake(
    shop: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_given: object, **_more: object) -> None:
        raise DatabaseBusy("away")

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        with monkeypatch.context() as patched:
            patched.setattr(invalid_items, "keep", away)
            assert await send.told(EVENTS, event(subject=...)) == [("invalid", "missing")]
            await kept(caller)
        monkeypatch.setattr(intake, "EVERY_S", 3_600)
        assert await send.told(EVENTS, event(subject=...)) == [("invalid", "missing")]
        assert await send.told(EVENTS, event("e2", subject=...)) == [("invalid", "missing")]

    served(shop, work)
    assert listed_of(shop) == []


def test_invalid_items_show_latest_example_and_old_rows_are_pruned(shop: House) -> None:
    now, engine = shop.clock.at_ms, shop.fleet.engine
    for at, item_id in ((now - 90 * DAY_MS, "first"), (now, "last"), (now + DAY_MS, None)):
        one = InvalidItems("app", "events", "missing", 2, at, at, None, item_id)
        write(engine, partial(invalid_items.keep, found=[one], now_ms=at))
    (found,) = read(engine, lambda c: listed(c, 0, 10))
    assert (found.items, found.first_ms, found.last_ms, found.item_id) == (6, now - 90 * DAY_MS, now + DAY_MS, "last")
    before = now - LATE_HORIZON_MS - DAY_MS
    prune(partial(write, engine), before, shop.fleet.by, dry_run=True)
    assert len(listed_of(shop)) == 3
    prune(partial(write, engine), before, shop.fleet.by)
    (found,) = read(engine, lambda c: listed(c, 0, 10))
    assert (found.items, found.first_ms) == (4, now)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("/web", "e-1"), ("/web", "e-1")),
        (("/web", "0196c1a2-1c9e-7b1e-8f0e-0c1d2e3f4a5b"), ("/web", "0196c1a2-1c9e-7b1e-8f0e-0c1d2e3f4a5b")),
        (("ann@example.com", PRIVATE), (None, None)),
        (("https://u:p4ss@shop.internal/x", "sk_live_abcdefghijklmnopqrstuvwx"), (None, None)),
        ((None, "order 7, " * 20), (None, ("order 7, " * 20)[: example.MAX_TOLD_CHARS - 1] + "…")),
    ],
)
def test_invalid_item_example_omits_secrets(
    named: tuple[str | None, str | None], told: tuple[str | None, str | None]
) -> None:
    assert example.example_of(named) == told
