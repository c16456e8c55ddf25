"""Usage across organisations, by what is asked for: over HTTP and on the command line, by one declaration."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest

from drawdown.cli.main import run
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.usage.lists import read_usage
from drawdown.worker.usage.prune import prune
from drawdown.worker.usage.totals import Zone, zones
from tests.integration.telling_events import billed_by_units
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, Sender, sender
from tests.server.program import Program, key_of, make_key, refused
from tests.world import T0

HOUR_MS = 3_600_000
Get = Callable[..., Awaitable[Any]]
RANGE = {"from_ms": T0, "to_ms": T0 + DAY_MS}


@pytest.fixture
def fleet(house: House) -> House:
    """Two organisations render for two projects and two subjects, at two hours; one runs a sandbox, too."""
    house.clock.at_ms = T0 + 2 * HOUR_MS
    billed_by_units(house.fleet, "acme", "globex")
    sender(house)
    house.fleet.sample("acme", T0 + 1)
    make_key(house, "reader", "usage:read")
    make_key(house, "own", "usage:read", org="globex")

    def one(at: int, org: str, ms: int, **data: Any) -> dict[str, Any]:
        found = {"source": "/web", "event_id": f"e{at}", "event_type": "page.render", "org_id": org, "occurred_at": ms}
        return {**found, **data}

    items = [
        one(1, "acme", T0, quantity=3, project="site", subject="ann"),
        one(2, "acme", T0 + HOUR_MS, quantity=4, project="site", subject="bob"),
        one(3, "globex", T0 + HOUR_MS, quantity=5, project="app", subject="ann"),
        {**one(4, "globex", T0, quantity=7), "event_type": "un.mapped"},
    ]

    async def work(caller: Caller) -> None:
        assert len(await Sender(caller, "app").told(EVENTS, items)) == len(items)

    served(house, work)
    house.server = house.another()
    return house


def asked(house: House, work: Callable[[Get], Awaitable[None]], key: str = "reader") -> None:
    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of(key))

        async def get(**query: Any) -> Any:
            return await program.get(f"/usage?{urlencode(query, doseq=True)}")

        await work(get)

    served(house, whole)


def rows(answer: Any, *names: str) -> list[tuple[Any, ...]]:
    assert answer.status_code == 200, answer.text
    return [tuple(row[name] for name in names) for row in answer.json()["usage"]]


@pytest.mark.both_databases
def test_usage_totals_groups_filters_and_pages_have_equal_sums(fleet: House) -> None:
    async def work(get: Get) -> None:
        plain = rows(await get(**RANGE), "org_id", "feature", "unit", "used", "period", "project")
        assert plain == [
            ("acme", "compute_1gb", "s", 60, None, None), ("acme", "render", "units", 7, None, None),
            ("globex", "", "units", 7, None, None), ("globex", "render", "units", 5, None, None),
        ]  # fmt: skip
        found = rows(await get(**RANGE, by="project", feature="render"), "org_id", "feature", "project", "used")
        assert found == [(None, None, "app", 5), (None, None, "site", 7)]
        found = rows(await get(**RANGE, by=["subject", "org"], project="site"), "org_id", "subject", "used")
        assert found == [("acme", "ann", 3), ("acme", "bob", 4)]
        found = rows(await get(**RANGE, by="hour", feature="render", org_id="acme"), "period", "used")
        assert found == [("2026-01-01T00:00+00:00", 3), ("2026-01-01T01:00+00:00", 4)]
        found = rows(await get(**RANGE, by="day", feature="render", time_zone="America/New_York"), "period", "used")
        assert found == [("2025-12-31", 12)]
        found = rows(await get(**RANGE, by="hour", feature="render", time_zone="Asia/Kolkata"), "period", "used")
        assert found == [("2026-01-01T05:00+05:30", 3), ("2026-01-01T06:00+05:30", 9)]
        page, pages = await get(**RANGE, most=1), []
        while True:
            pages += rows(page, "org_id", "feature", "unit", "used", "period", "project")
            if (after := page.json()["next"]) is None:
                break
            page = await get(**RANGE, most=1, after=after)
        assert pages == plain

    asked(fleet, work)


@pytest.mark.both_databases
def test_usage_totals_after_prune_equal_usage_of_each_org(fleet: House) -> None:
    fleet.fleet.tick(T0 + DAY_MS)
    later = T0 + 60 * DAY_MS
    fleet.clock.at_ms = fleet.fleet.clock.at_ms = later
    fleet.fleet.tick(later)
    prune(partial(write, fleet.fleet.engine), T0 + 2 * DAY_MS, fleet.fleet.by)
    right = {
        (org, row.feature, row.unit): row.used
        for org in ("acme", "globex")
        for row in read(fleet.fleet.engine, lambda c: read_usage(c, org, T0, T0 + DAY_MS, "feature")).rows  # noqa: B023
        if row.used
    }
    assert ("acme", "render", "units") in right

    async def work(get: Get) -> None:
        found = rows(await get(**RANGE), "org_id", "feature", "unit", "used")
        assert {tuple(key): used for *key, used in found} == right

    asked(fleet, work)


def test_usage_totals_bound_key_sees_own_org_only(fleet: House) -> None:
    async def work(get: Get) -> None:
        assert {row[0] for row in rows(await get(**RANGE), "org_id")} == {"globex"}
        assert refused(await get(**RANGE, org_id="acme")) == (403, "foreign_org")

    asked(fleet, work, "own")


def test_usage_totals_invalid_parameter_is_refused_by_name(fleet: House) -> None:
    async def work(get: Get) -> None:
        for more, at in (
            ({"time_zone": "Mars/Olympus"}, "time_zone"), ({"time_zone": "../etc/passwd"}, "time_zone"),
            ({"by": ["day", "hour"]}, "by"), ({"after": "nonsense"}, "after"), ({"after": "WzFd"}, "after"),
            ({"to_ms": T0}, "to_ms"), ({"from_ms": T0 - 100 * DAY_MS}, "from_ms"),
        ):  # fmt: skip
            answer = await get(**{**RANGE, **more})
            assert refused(answer) == (422, "bad_value"), more
            assert answer.json()["error"]["details"]["wrong"][0]["at"] == at, more
        assert (await get(**{**RANGE, "from_ms": T0 - 100 * DAY_MS}, org_id="acme")).status_code == 200
        assert refused(await get(**{**RANGE, "from_ms": T0 + 1}))[0] == 422

    asked(fleet, work)


def test_usage_totals_by_hour_of_folded_days_are_refused(fleet: House) -> None:
    """Of those there are sums alone, of days in UTC."""
    text = (
        "INSERT INTO folded_pushes (day_ms, org_id, provider, customer_id, feature, state, pushes, attempts, "
        f"sealed_qty, sent_qty, folded_ms) VALUES ({T0}, 'acme', 'embedded', 'acme', 'render', 'accepted', 1, 1, 2, 2, "
        "0)"
    )
    write(fleet.fleet.engine, lambda c: c.exec_driver_sql(text))

    async def work(get: Get) -> None:
        for more in ({"by": "hour"}, {"time_zone": "Asia/Kolkata"}, {"to_ms": T0 + WINDOW_MS}):
            assert refused(await get(**{**RANGE, **more}))[0] == 422, more
        assert (await get(**RANGE, by="day")).status_code == 200
        assert (await get(**RANGE, by="hour", org_id="globex")).status_code == 200

    asked(fleet, work)


def test_org_usage_command_equals_http(fleet: House, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--database-url", database_url, "--json", "org", "usage", "--from", "2026-01-01", "--to", "2026-01-02"]
    assert run([*words, "--by", "feature", "--by", "day", "--feature", "render"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["usage"]
    assert (row["feature"], row["period"], row["used"], row["org_id"]) == ("render", "2026-01-01", 12, None)
    assert run([arg for arg in words if arg != "--json"]) == 0
    assert "globex" in capsys.readouterr().out


def test_time_zone_offset_changes_at_daylight_saving() -> None:
    """Berlin's clocks go forward on 29 March 2026 at 01:00 UTC."""
    begin = 1_774_656_000_000  # 28 March, 00:00 UTC
    turn = begin + DAY_MS + HOUR_MS
    assert zones("Europe/Berlin", begin, begin + 3 * DAY_MS) == [
        Zone(begin, turn, HOUR_MS),
        Zone(turn, begin + 3 * DAY_MS, 2 * HOUR_MS),
    ]
