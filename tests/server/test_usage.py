"""An organisation's usage over HTTP, as `drawdown usage` says it; the short names of its wallet; and /docs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator

from drawdown.cli.main import global_options_first, run
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.server import docs_page
from drawdown.server.api import openapi
from drawdown.server.declarations import DECLARED
from drawdown.worker.usage import lists as usage
from drawdown.worker.usage.lists import BY
from tests.integration.telling_events import billed_by_units
from tests.server.exact import closed
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, Sender, event, sender
from tests.server.program import make_key, refused, wrong_at
from tests.world import T0

DAY = f"from_ms={T0}&to_ms={T0 + DAY_MS}"


@pytest.fixture
def shop(house: House, database_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    """acme has used a sandbox, and rendered for two projects and two subjects; of one type nothing is made."""
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    house.clock.at_ms = T0 + 10_000
    billed_by_units(house.fleet, "acme")
    sender(house)
    sender(house, "bound", org="acme")
    house.fleet.sample("acme", T0 + 1)
    items = [
        event("e1", subject="ann", data={"quantity": 3, "project": "site"}),
        event("e2", subject="bob", data={"quantity": 4, "project": "site"}),
        event("e3", data={"quantity": 5, "project": "app"}, subject=...),
        event("e4", 7, subject="ann", type="un.mapped"),
    ]

    async def work(caller: Caller) -> None:
        assert len(await Sender(caller, "bound").told(EVENTS, items)) == len(items)

    served(house, work)
    house.server = house.another()
    house.fleet.tick(T0 + 2 * WINDOW_MS)
    return house


def command(house: House, line: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert run(global_options_first([*line.split(), "--at", str(house.clock.at_ms), "--json"])) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.both_databases
def test_usage_over_http_equals_command_for_every_grouping(shop: House, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        "feature": {("", "render"): 12, ("", "compute_1gb"): 60, ("", ""): 7},
        "day": {("2026-01-01", "render"): 12, ("2026-01-01", "compute_1gb"): 60, ("2026-01-01", ""): 7},
        "project": {("site", "render"): 7, ("app", "render"): 5, ("", "compute_1gb"): 60, ("", ""): 7},
        "subject": {("ann", "render"): 3, ("bob", "render"): 4, ("", "render"): 5, ("", "compute_1gb"): 60,
                    ("ann", ""): 7},
        "sandbox": {("event:page.render", "render"): 12, ("box", "compute_1gb"): 60, ("event:un.mapped", ""): 7},
    }  # fmt: skip

    async def work(caller: Caller) -> None:
        for by in BY:
            found = (await Sender(caller).get(f"/v1/usage/acme?{DAY}&by={by}")).json()
            assert {(row["group"], row["feature"]): row["used"] for row in found["rows"]} == expected[by], by
            units = {row["feature"]: row["unit"] for row in found["rows"]}
            assert units == {"render": "units", "compute_1gb": "s", "": "units"}, by
            told = command(shop, f"usage acme --from 2026-01-01 --to 2026-01-02 --by {by}", capsys)["usage"]
            assert {**found, "next": None} == {**told, "next": None} and found["next"] is None, by
            assert all((row["sealed"] is None) == (by not in ("feature", "day")) for row in found["rows"]), by

    served(shop, work)


def test_usage_pages_equal_whole_list(shop: House) -> None:
    for day in range(1, 4):
        shop.fleet.sample("acme", T0 + day * DAY_MS, 60 + day, sandbox=f"a:{day}")

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for by, lines in {"feature": 3, "day": 6, "sandbox": 6, "project": 4, "subject": 5}.items():
            span = f"from_ms={T0}&to_ms={T0 + 8 * DAY_MS}&by={by}"
            whole = (await send.get(f"/v1/usage/acme?{span}")).json()
            rows, after = [], ""
            for _ in whole["rows"]:
                page = (await send.get(f"/v1/usage/acme?{span}&most=1{after}")).json()
                rows += page["rows"]
                after = f"&after={quote(page['next'] or '')}"
            assert rows == whole["rows"] and page["next"] is None and len(rows) == lines, by
            assert {**page, "rows": []} == {**whole, "rows": []}, by
        for wrong in ("x", "render:s", "render:hours:ann"):
            assert wrong_at(await send.get(f"/v1/usage/acme?{DAY}&after={wrong}")) == "after"
        assert wrong_at(await send.get(f"/v1/usage/acme?{DAY}&by=day&after=render:units:soon")) == "after"

    served(shop, work)


Span: TypeAlias = tuple[str, int, int, str]


def _page(connection: sa.Connection, span: Span, after: usage.Place | None) -> tuple[usage.UsageReport, bool]:
    return usage.usage_page(connection, *span, most=1, after=after)


def test_usage_days_with_fewer_digits_are_in_time_order(shop: House) -> None:
    """Milliseconds since 1970 have thirteen digits from 2001-09-09 on."""
    begin = 999_820_800_000  # 2001-09-07
    for day in range(4):
        shop.fleet.sample("acme", begin + day * DAY_MS, 1 + day)
    span = ("acme", begin, begin + 4 * DAY_MS, "day")
    whole = read(shop.fleet.engine, lambda c: usage.read_usage(c, *span)).rows
    assert [(row.group, row.used) for row in whole] == [(f"2001-09-{7 + day:02}", 1 + day) for day in range(4)]
    rows: list[usage.UsageRow] = []
    for _ in whole:
        after = usage.Place(rows[-1].group, rows[-1].feature, rows[-1].unit) if rows else None
        page, is_more = read(shop.fleet.engine, partial(_page, span=span, after=after))
        rows += page.rows
    assert rows == whole and not is_more


def test_usage_page_reads_only_its_own_rows(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far it lies behind the first, and also where the row that it follows has gone since."""
    for number in range(40):
        shop.fleet.sample("acme", T0 + number, 60, sandbox=f"box-{number:02}")
    asked: list[tuple[str, Mapping[str, Any], int]] = []
    right = usage.SQL.run

    def counted(connection: sa.Connection, name: str, values: Any, **slots: str) -> Any:
        rows = right(connection, name, values, **slots).all()
        asked.append((name, values, len(rows)))
        return SimpleNamespace(all=lambda: rows, __iter__=lambda: iter(rows)) if name == "usage" else rows

    monkeypatch.setattr(usage.SQL, "run", counted)

    def page(after: usage.Place | None) -> tuple[list[str], bool, list[tuple[str, int]]]:
        asked.clear()
        span = ("acme", T0, T0 + DAY_MS, "sandbox")
        report, is_more = read(shop.fleet.engine, lambda c: usage.usage_page(c, *span, most=3, after=after))
        return [row.group for row in report.rows], is_more, [(name, count) for name, _, count in asked]

    first, last = page(None), page(usage.Place("box-36", "compute_1gb", "s"))
    assert first == (["box", "box-00", "box-01"], True, [("usage", 4), ("carried", 0)])
    assert last == (["box-37", "box-38", "box-39"], True, first[2])
    gone = page(usage.Place("box-03x", "compute_1gb", "s"))
    assert gone == (["box-04", "box-05", "box-06"], True, first[2])
    span = ("acme", T0 - 5 * DAY_MS, T0 + DAY_MS, "day")
    read(shop.fleet.engine, lambda c: usage.usage_page(c, *span, most=3, after=usage.Place("2026-01-01", "", "s")))
    assert asked[-2][1]["from_ms"] == T0, "days before the page's are not added up again"


def test_usage_range_invalid_is_refused(shop: House) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        answer = (await send.get(f"/v1/usage/acme?{DAY}")).json()
        assert (answer["from_ms"], answer["to_ms"]) == (T0, T0 + DAY_MS)
        assert (await send.get(f"/v1/usage/acme?from_ms={T0}")).json()["to_ms"] == T0 + 3 * WINDOW_MS, "now"
        wrong = (
            ("from_ms=", "from_ms"), ("from_ms=yesterday", "from_ms"), ("from_ms=2026-01-01", "from_ms"),
            (f"from_ms={T0 + DAY_MS}&to_ms={T0}", "to_ms"), ("from_ms=1&to_ms=2", "from_ms"),
            (f"from_ms={T0}&to_ms=2", "to_ms"), (f"from_ms={T0 - 401 * DAY_MS}&to_ms={T0}", "from_ms"),
            (f"{DAY}&by=colour", "by"), (f"{DAY}&most=0", "most"), (f"{DAY}&x=1", "x"), (f"{DAY}&from=1", "from"),
            ("from_ms=9999999999999999999999", "from_ms"), ("from_ms=%D9%A3", "from_ms"), ("from_ms=-1", "from_ms"),
        )  # fmt: skip
        for span, at in wrong:
            assert wrong_at(await send.get(f"/v1/usage/acme?{span}")) == at, span
        long = (await send.get("/v1/usage/acme?from_ms=1577836800000")).text
        assert "longer than 400 days" in long and "empty" not in long, "it is not given, and lies after the beginning"

    served(shop, work)


def test_usage_without_scope_or_for_foreign_org_is_refused(shop: House) -> None:
    make_key(shop, "other", "ledger:read")

    async def work(caller: Caller) -> None:
        assert refused(await Sender(caller, "other").get(f"/v1/usage/acme?{DAY}")) == (403, "no_scope")
        assert refused(await Sender(caller, "bound").get(f"/v1/usage/globex?{DAY}")) == (403, "foreign_org")
        assert (await Sender(caller, "bound").get(f"/v1/usage/acme?{DAY}")).status_code == 200
        assert refused(await Sender(caller).get(f"/v1/usage/acmee?{DAY}")) == (404, "unknown_org")

    served(shop, work)


def test_usage_of_org_before_first_tick_is_shown(shop: House) -> None:
    """A program that has just sent its first event asks what came of it."""
    shop.fleet.sample("newcomer", T0, 60)

    async def work(caller: Caller) -> None:
        answer = await Sender(caller).get(f"/v1/usage/newcomer?{DAY}")
        assert answer.status_code == 200, answer.text
        assert [(row["used"], row["sealed"]) for row in answer.json()["rows"]] == [(60, 0)]

    served(shop, work)


def test_usage_range_without_end_includes_current_window(shop: House, capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP, in the command, and on the pages that name it."""
    shop.clock.at_ms = T0 + 7 * DAY_MS + WINDOW_MS + 70_000
    shop.fleet.sample("acme", shop.clock.at_ms - 60_000, 30)
    shop.fleet.sample("acme", T0 + WINDOW_MS - 1, 1000)
    told = command(shop, "usage acme --from 7d --by sandbox", capsys)["usage"]
    assert (told["from_ms"], told["to_ms"]) == (T0 + WINDOW_MS, T0 + 7 * DAY_MS + 2 * WINDOW_MS)
    assert [(row["group"], row["used"]) for row in told["rows"]] == [("box", 30)]

    async def work(caller: Caller) -> None:
        found = (await Sender(caller).get(f"/v1/usage/acme?from_ms={T0 + WINDOW_MS}&by=sandbox")).json()
        assert found == {**told, "next": None}

    served(shop, work)
    shown = read(shop.fleet.engine, lambda c: usage.read_shares(c, "acme", 0, *usage.last_days(shop.clock.at_ms, 7)))
    assert [(one.group, one.used) for one in shown["sandbox"]] == [("box", 30)]


def test_wallet_short_paths_equal_account_paths(shop: House) -> None:
    make_key(shop, "reader", "ledger:read")

    async def work(caller: Caller) -> None:
        send = Sender(caller, "reader")
        for short, long in (("/v1/balance/acme", "/v1/accounts/acme"), ("/v1/ledger/acme", "/v1/accounts/acme/ledger")):
            found, same = await send.get(short), await send.get(long)
            assert (found.status_code, found.json()) == (200, same.json())
        page = await send.get("/v1/ledger/acme?most=1")
        assert len(page.json()["entries"]) == 1 and page.json()["next"]

    served(shop, work)


class Seen(HTMLParser):
    """What a browser would load, run or be led to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: set[str | None] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id"))


def test_docs_page_lists_each_operation_without_scripts(lone: House) -> None:
    async def work(caller: Caller) -> None:
        answer = await caller.client.get("/docs")
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        (policy,) = answer.headers.get_list("content-security-policy")
        style = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
        assert (
            policy.startswith("default-src 'none'; ") and f"style-src 'sha256-{digest}'" in policy and len(style) == 1
        )
        assert "unsafe" not in policy and "script" not in policy
        seen = Seen()
        seen.feed(answer.text)
        assert not {tag for tag, _ in seen.tags} & {"script", "img", "link", "iframe", "form", "object", "base"}
        for tag, attributes in seen.tags:
            assert not {name for name in attributes if name.startswith("on") or name in ("src", "style")}, tag
            link = attributes.get("href")
            assert link is None or link == "/openapi.json" or (link[0] == "#" and link[1:] in seen.ids), link
        found = (await caller.client.get("/openapi.json")).json()
        for path, by_method in found["paths"].items():
            assert all(f"{method}-{path}" in seen.ids for method in by_method), path
        assert "render-1" in answer.text, "an example"

    served(lone, work)


def test_docs_page_hostile_text_is_escaped() -> None:
    bad = "<script>alert(1)</script>\"'&"
    schema = {"description": bad, "examples": [{bad: bad}]}
    operation = {
        "description": bad, "security": [{bad: [bad]}], "parameters": [{"name": bad, "in": bad, "schema": schema}],
        "requestBody": {"content": {bad: {"schema": schema, "example": bad}}},
        "responses": {bad: {"description": bad, "content": {"a": {"schema": {"$ref": bad}, "example": bad}}}},
    }  # fmt: skip
    found = {"info": {"title": bad}, "paths": {bad: {"get": operation}}, "components": {"schemas": {bad: schema}}}
    seen = Seen()
    text = docs_page.page(found)
    seen.feed(text)
    assert "<script" not in text and not any("alert" in name for _, attributes in seen.tags for name in attributes)


UNSHOWN: Final = {
    "org_resume", "override_end", "cell_remove", "hook_rotate", "hook_show", "hook_test", "job_cancel",
    "settlement_payout", "topup_resolve", "provider_accept", "backfill_close", "batch_accept", "batch_withdraw",
    "batch_show", "push_retry", "push_resolve", "push_void", "sample_withdraw",
}  # fmt: skip
"""Operations of which no answer is shown: the house of the examples refuses them (`test_examples.RULED`)."""


def test_openapi_examples_match_their_schemas(lone: House) -> None:
    """Of its answer, which has the fields of its schema and no other, its bodies and its parameters; and none of a
    route that there is no longer."""
    found = lone.server.routes.openapi()
    exact = {**found, "components": closed(found["components"])}
    shown = set()
    for path, operations in found["paths"].items():
        for method, one in operations.items():
            answers = one["responses"].get("200", {}).get("content", {}).values()
            bodies = one.get("requestBody", {}).get("content", {}).values()
            for there, contents in ((exact, answers), (found, bodies)):
                for content in contents:
                    if there is exact and one["operationId"] in UNSHOWN:
                        assert "example" not in content
                        continue
                    shown.add(f"{method.upper()} {path}")
                    _require_fitting(there, content, content["schema"], f"{method} {path}")
            for parameter in one.get("parameters", ()):
                _require_fitting(found, parameter, parameter["schema"], f"{method} {path} {parameter['name']}")
    kept = json.loads(openapi.EXAMPLES.read_text(encoding="utf-8"))
    assert {*kept["answers"], *kept["bodies"]} <= shown
    ways = [way for path in found["paths"].values() for way in path.values()]
    names = {one["name"] for way in ways for one in way.get("parameters", ())}
    names |= {param.field for declared in DECLARED for param in declared.params}
    assert {name.rpartition(" ")[2] for name in kept["parameters"]} <= names


def _require_fitting(found: dict[str, Any], content: dict[str, Any], schema: dict[str, Any], where: str) -> None:
    model = found["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    examples = [content["example"]] if "example" in content else model.get("examples", [])
    assert examples, f"{where} shows no example"
    for example in examples:
        Draft202012Validator({**schema, "components": found["components"]}).validate(example)


def test_openapi_intake_statuses_and_usage_parameters_are_complete(lone: House) -> None:
    paths = lone.server.routes.openapi()["paths"]
    for path in (EVENTS, "/v1/samples", "/api/v1/events"):
        assert {"400", "401", "403", "413", "415", "429", "503"} <= set(paths[path]["post"]["responses"])
    names = {
        one["name"]: one["required"] for one in paths["/v1/usage/{org_id}"]["get"]["parameters"] if one["in"] == "query"
    }
    assert names == dict.fromkeys(("from_ms", "to_ms", "by", "most", "after"), False)


def test_usage_without_start_begins_at_month_for_single_and_all_orgs(shop: House) -> None:
    """A caller who names no begin gets this month, by each of the two paths."""
    make_key(shop, "all", "usage:read")

    async def work(caller: Caller) -> None:
        async def used() -> tuple[int, list[int]]:
            found, there = [(await Sender(caller, "all").get(path)).json() for path in ("/v1/usage/acme", "/v1/usage")]
            sums = [sum(row["used"] for row in rows) for rows in (found["rows"], there["usage"])]
            return found["from_ms"], sums

        begin, (of_acme, of_all) = await used()
        assert begin == T0 and of_acme == of_all > 0
        shop.clock.at_ms = T0 + 40 * DAY_MS
        assert await used() == (T0 + 31 * DAY_MS, [0, 0]), "February has no usage"

    served(shop, work)
