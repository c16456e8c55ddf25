"""Ticks and checks by URL: for who has the secret, one at a time."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import BillFile, BillLine
from drawdown.worker.usage.backfills import open_backfill
from tests.integration.guarding import Guarded
from tests.server.house import CRON, Caller, House, served
from tests.world import T0

SECRET = {"authorization": f"Bearer {CRON}"}


def test_cron_tick_runs_and_returns_report(house: House) -> None:
    house.customer("acme", 100)
    house.fleet.sample("acme", T0)
    house.clock.at_ms = T0 + 2 * WINDOW_MS

    async def work(caller: Caller) -> None:
        answer = await caller.tick()
        assert answer.status_code == 200
        report = answer.json()["tick"]
        assert (report["sealed"], report["accepted"], report["exit_status"]) == (1, 1, 0)

    served(house, work)


def test_cron_tick_without_secret_is_refused(house: House) -> None:
    async def work(caller: Caller) -> None:
        for given in (
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {CRON}x",
            f"Bearer {CRON[:-1]}",
            CRON,
            f"Basic {CRON}",
            "Bearer é",
        ):
            answer = await caller.send("POST", "/cron/tick", headers={"authorization": given.encode("latin-1")})  # type: ignore[dict-item]
            assert answer.status_code == 401, given
        assert (await caller.send("POST", "/cron/tick")).status_code == 401
        assert (await caller.get("/cron/tick")).status_code == 405

    served(house, work)
    assert house.counts()["ticks"] == 0


def test_cron_endpoints_require_secret_and_are_in_openapi(house: House) -> None:
    async def work(caller: Caller) -> None:
        paths = (await caller.get("/openapi.json")).json()["paths"]
        for kind in ("tick", "parity", "vendors", "guard", "backfills"):
            for given in ("", f"Bearer {CRON}x", CRON):
                answer = await caller.send("POST", f"/cron/{kind}", headers={"authorization": given})
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), kind
            assert (await caller.get(f"/cron/{kind}")).status_code == 405, kind
            assert (await caller.send("POST", f"/cron/{kind}?dry_run=true", headers=SECRET)).status_code == 400, kind
            assert (await caller.send("POST", f"/cron/{kind}", headers=SECRET)).status_code == 200, kind
            described = paths[f"/cron/{kind}"]["post"]
            assert described["security"] == [{"bearer": []}] and described["description"], kind

    served(house, work)


def test_cron_endpoint_without_configured_secret_is_unavailable(engine: sa.Engine) -> None:
    house = House(engine, cron_secret="")

    async def work(caller: Caller) -> None:
        for given in ({}, SECRET, {"authorization": "Bearer "}):
            assert (await caller.send("POST", "/cron/guard", headers=given)).status_code == 503

    served(house, work)


def test_cron_guard_check_corrects_drifted_counter(house: House) -> None:
    guarded = Guarded(house.fleet.engine, house.fleet)
    guarded.limit("look", 10)
    guarded.consume("look", 3)
    house.fleet.write("UPDATE guard_counters SET used = 4 WHERE period = 'day'")

    async def work(caller: Caller) -> None:
        assert (await caller.send("POST", "/cron/guard")).status_code == 401
        assert house.fleet.one("SELECT used FROM guard_counters WHERE period = 'day'") == 4
        for off in (1, 0):
            found = (await caller.send("POST", "/cron/guard", headers=SECRET)).json()
            assert (len(found["drifts"]), found["corrected"], found["exit_status"]) == (off, off, off)
        assert house.fleet.rows("SELECT actor FROM guard_corrections") == [("cron",)]
        told = house.fleet.rows("SELECT check_name, off FROM checks")
        assert told == [("guard", 1)], "the same again, perhaps for a lost answer, leaves what the first put right"

    served(house, work)


def test_cron_backfill_check_reports_overdue_backfill(house: House) -> None:
    house.fleet.assign("acme", from_ms=T0 - DAY_MS)
    opened = partial(open_backfill, name="june", org_id="acme", from_ms=T0 - DAY_MS, to_ms=T0, by=house.fleet.by)
    write(house.fleet.engine, opened)

    async def work(caller: Caller) -> None:
        for days, names in ((7, []), (8, ["june"])):
            house.clock.at_ms = T0 + days * DAY_MS
            found = (await caller.send("POST", "/cron/backfills", headers=SECRET)).json()
            assert ([one["backfill"] for one in found["overdue"]], found["exit_status"]) == (names, len(names))
        assert house.fleet.rows("SELECT state FROM backfills") == [("open",)]

    served(house, work)


def test_cron_parity_check_records_yesterday(house: House) -> None:
    house.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')")
    house.clock.at_ms = T0 + DAY_MS + 1_000_000

    async def work(caller: Caller) -> None:
        for given in ("", f"Bearer {CRON}x", CRON):
            assert (await caller.send("POST", "/cron/parity", headers={"authorization": given})).status_code == 401
        assert house.fleet.rows("SELECT verdict FROM parity_checks") == []
        answer = await caller.send("POST", "/cron/parity", headers={"authorization": f"Bearer {CRON}"})
        assert answer.status_code == 200
        found = answer.json()["parity"]
        assert (found["unread"], found["exit_status"]) == (1, 75)
        assert house.fleet.rows("SELECT day_ms, verdict FROM parity_checks") == [(T0, "unread")]

    served(house, work)


def test_cron_vendor_check_reports_drift_alert(house: House) -> None:
    units = vendors.Units("cloud", "vm", "hour", 1, 1_000_000, 3600, "USD")
    write(house.fleet.engine, lambda c: vendors.set_units(c, "compute_1gb", units, T0, house.fleet.by, new=False))
    lines = [BillLine("cloud", "vm", T0 + day * DAY_MS, "USD", 9_000_000, True) for day in range(2)]
    write(house.fleet.engine, lambda c: vendors.import_bills(c, BillFile("bills", lines), house.fleet.by))
    house.clock.at_ms = T0 + 6 * DAY_MS

    async def work(caller: Caller) -> None:
        for given in ("", f"Bearer {CRON}x", CRON):
            assert (await caller.send("POST", "/cron/vendors", headers={"authorization": given})).status_code == 401
        answer = await caller.send("POST", "/cron/vendors", headers={"authorization": f"Bearer {CRON}"})
        found = answer.json()
        assert (answer.status_code, found["alerts"], found["exit_status"], len(found["drift"])) == (200, 1, 1, 2)

    served(house, work)


async def under_way(house: House, caller: Caller) -> asyncio.Task[httpx.Response]:
    """A tick that waits for Autumn's answer."""
    house.autumn_line.wait_s = 0.3
    tick = asyncio.create_task(caller.tick())
    while not house.autumn_line.calls:
        await asyncio.sleep(0.01)
    return tick


@pytest.mark.both_databases
def test_cron_tick_while_another_runs_is_conflict(house: House) -> None:
    house.customer("acme", 100)

    async def work(caller: Caller) -> None:
        first = await under_way(house, caller)
        second = await caller.tick()
        assert second.status_code == 409
        assert second.json()["error"]["details"] == {"running_since_ms": T0}
        assert (await first).status_code == 200
        assert (await caller.tick()).status_code == 200

    served(house, work)
    assert house.counts()["ticks"] == 2


def test_cron_tick_continues_after_caller_disconnects(house: House) -> None:
    house.customer("acme", 100)

    async def work(caller: Caller) -> None:
        (await under_way(house, caller)).cancel()
        assert (await caller.tick()).status_code == 409
        while (await caller.tick()).status_code == 409:
            await asyncio.sleep(0.01)

    served(house, work)
    assert house.fleet.rows("SELECT tick_id FROM ticks WHERE finished_ms IS NULL") == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # whose clock it is compared with
@pytest.mark.parametrize("path", ["tick", "parity", "vendors", "guard"])
def test_cron_work_with_doubtful_clock_fails_with_message(house: House, path: str) -> None:
    house.clock.trusted = False

    async def work(caller: Caller) -> None:
        answer = await caller.send("POST", f"/cron/{path}", headers=SECRET)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
        assert "clock" in answer.json()["error"]["message"]

    served(house, work)
