"""Runs are listed alike by the command line, over HTTP and in the console: the same rows in the same order, whole and
page by page, also where a page goes through few rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.ledger.draws import Cost
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.server.console.session_auth import COOKIE
from drawdown.worker.access import keys as api_keys
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import lists as runs
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from tests.server.console_home import ANN, Home, secret
from tests.server.program import key_of

Query = dict[str, str]
LINK: Final = re.compile(r'rel="next" href="([^"]+)"')
ROW: Final = re.compile(r'href="/console/execution\?key=([^"&]+)"')
WANTED: Final[list[tuple[Query, list[str]]]] = [
    ({"state": "held"}, ["drawing", "idle", "soon", "late"]),
    ({"state": "any"}, ["gone", "late", "soon", "idle", "done", "drawing", "brief", "over"]),
    ({"state": "held", "org": "acme"}, ["late", "idle", "drawing"]),
    ({"state": "any", "org": "acme"}, ["gone", "late", "idle", "done", "drawing"]),
    ({"state": "held", "project": "site"}, ["drawing", "late"]),
    ({"state": "any", "project": "site"}, ["late", "drawing", "over"]),
    ({"state": "expired"}, ["brief", "over"]),
    ({"state": "settled", "org": "acme"}, ["done"]),
    ({"state": "released", "project": "site"}, []),
]
"""A filter, and what it finds."""
FEW: Final = (WANTED[1], WANTED[6])
"""Those that are paged also where all rows are looked through: what is found then was compared before."""


class Street(Home):
    """Runs of three organisations in each state: those of initech expired, and nothing looked at one of them since."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.fleet.assign("globex", "initech")
        for org in ("globex", "initech"):
            write(engine, lambda c, org=org: credit.grant(c, org, 9 * MICRO, self.fleet.by, key=org, plan=None))  # type: ignore[misc]
        for key, org, project, minutes in (
            ("over", "initech", "site", 1), ("brief", "globex", None, 2), ("drawing", "acme", "site", 30),
            ("done", "acme", None, 60), ("idle", "acme", None, 40), ("soon", "globex", None, 50),
            ("late", "acme", "site", 60), ("gone", "acme", "shop", 60),
        ):  # fmt: skip
            if key not in ("idle", "soon"):  # three are accepted in one millisecond
                self.fleet.clock.at_ms += 1
            request = Request(org, MICRO, project=project, for_ms=minutes * MINUTE_MS)
            write(engine, lambda c, key=key, request=request: executions.accept(c, key, request, self.fleet.by))  # type: ignore[misc]
        write(engine, lambda c: executions.draw(c, "drawing", 1, Cost(1), self.fleet.by))
        write(engine, lambda c: executions.settle(c, "done", Cost(1), self.fleet.by))
        write(engine, lambda c: executions.release(c, "gone", None, self.fleet.by))
        self.fleet.clock.at_ms += 5 * MINUTE_MS
        self.now = self.fleet.clock.at_ms
        write(engine, lambda c: executions.extend(c, "soon", 2 * MICRO, 48 * MINUTE_MS, self.fleet.by))
        write(
            engine,
            lambda c: api_keys.create(c, key_of("app"), "app", ("executions:read",), self.fleet.by, for_ms=DAY_MS),
        )


@pytest.fixture
def street(engine: sa.Engine) -> Street:
    return Street(engine)


def by_command(street: Street, query: Query, most: int, capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    words = [word for name, value in query.items() if value != "any" for word in (f"--{name}", value)]
    url, after = street.engine.url.render_as_string(hide_password=False), ""
    while after is not None:
        capfd.readouterr()
        line = ["execution", "list", *words, "--most", str(most), *(("--after", after) if after else ())]
        assert drawdown(["--database-url", url, "--at", str(street.now), "--json", *line]) == 0
        found = json.loads(capfd.readouterr().out)
        yield [one["reservation"] for one in found["executions"]]
        after = found["next_after"]
        assert after is not None or not found["is_cut"]


def by_program(street: Street, query: Query, most: int) -> list[list[str]]:
    given = {"org_id" if name == "org" else name: value for name, value in query.items() if value != "any"}

    async def work(client: httpx.AsyncClient, _: Any) -> list[list[str]]:
        pages, after = [], ""
        while after is not None:
            asked = urlencode({**given, "most": most, "after": after})
            answer = await client.get(f"/v1/executions?{asked}", headers={"authorization": f"Bearer {key_of('app')}"})
            assert answer.status_code == 200, answer.text
            pages.append([one["key"] for one in answer.json()["executions"]])
            after = answer.json()["next"]
        return pages

    return street.ask(work)


def by_console(street: Street, query: Query) -> list[list[str]]:
    pages, path = [], f"/console/executions?{urlencode(query)}"
    while path:
        (answer,) = street.get(path)
        assert answer.status_code == 200, answer.text[-500:]
        pages.append(ROW.findall(answer.text))
        link = LINK.search(answer.text)
        path = link[1].replace("&amp;", "&") if link else ""
    return pages


def by_file(street: Street, query: Query) -> list[str]:
    async def work(client: httpx.AsyncClient, _: Any) -> list[str]:
        cookie = {"cookie": f"{COOKIE}={secret(ANN)}"}
        answer = await client.get(f"/console/executions.csv?{urlencode(query)}", headers=cookie)
        return [row["execution"] for row in csv.DictReader(io.StringIO(answer.text))]

    return street.ask(work)


def test_execution_lists_of_command_http_console_and_file_are_equal(
    street: Street, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for query, wanted in WANTED:
        assert list(by_command(street, query, 50, capfd)) == by_program(street, query, 50) == [wanted], query
    monkeypatch.setattr(runs, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(runs.list_runs, "__defaults__", ("", 2))  # of a page of the console
    for looked_at, (query, wanted) in [*product((10_000,), FEW), *product((3,), WANTED)]:
        monkeypatch.setattr(runs, "MOST_LOOKED_AT", looked_at)
        ways = {
            "command": list(by_command(street, query, 2, capfd)),
            "program": by_program(street, query, 2),
            "console": by_console(street, query),
            "file": [by_file(street, query)],
        }
        for way, pages in ways.items():
            assert [key for page in pages for key in page] == wanted, (way, query, pages)
            assert way == "file" or max(map(len, pages)) <= 2, (way, query, pages)
        assert ways["command"] == ways["program"] == ways["console"], query
