"""Organisations over HTTP: made, billed here or elsewhere, overridden, halted and shown, by a key of the operator's and
by one that is bound to an organisation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drawdown.schema.database import write
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.worker.wallets import actions as credit
from tests.integration.test_jobs import listed
from tests.server.house import Caller, House, served
from tests.server.program import Program, key_of, make_key, refused, wrong_at
from tests.server.test_declared import send
from tests.world import T0

ORGS = ("orgs:read", "orgs:write")


@pytest.fixture
def office(lone: House) -> House:
    make_key(lone, "app", *ORGS)
    make_key(lone, "bound", *ORGS, org="acme")
    lone.clock.at_ms = T0 + 1
    return lone


async def made(program: Program, org: str, **more: object) -> Any:
    return await send(program, f"/v1/orgs/{org}/assign", {"new": True, **more})


def test_org_assign_over_http_is_listed_and_can_be_undone(office: House) -> None:
    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        assert refused(await send(app, "/v1/orgs/newco/assign", {})) == (404, "unknown_org")
        dry = (await made(app, "newco", dry_run=True)).json()
        assert (dry["provider"], dry["customer_id"], dry["dry_run"]) == ("embedded", "newco", True)
        assert (await app.get("/orgs")).json()["orgs"] == []
        done = (await made(app, "newco")).json()
        assert (done["provider"], done["already"], done["job_id"]) == ("embedded", False, None)
        again = (await made(app, "newco")).json()
        assert (again["already"], again["start_ms"]) == (True, done["start_ms"])
        assert [one["org_id"] for one in (await app.get("/orgs")).json()["orgs"]] == ["newco"]
        assert [one["provider"] for one in (await app.get("/assignments")).json()["scheduled"]] == ["embedded"]
        shown = (await app.get("/orgs/newco")).json()
        assert [one["customer_id"] for one in shown["assignments"]] == ["newco"]
        for other in ({"provider": "none"}, {"customer_id": "x"}):
            assert refused(await send(app, "/v1/orgs/newco/assign", {"undo": True, **other})) == (409, "refused")
        undone = (await send(app, "/v1/orgs/newco/assign", {"undo": True})).json()
        assert undone["undone"] is True and (await app.get("/assignments")).json()["scheduled"] == []

    served(office, work)


def test_org_assign_to_external_provider_queues_job(office: House) -> None:
    """A provider that no tick met is not taken; nobody is halted, or let go free, by a key."""

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        await made(app, "newco", from_ms=T0)
        assert refused(await made(app, "newco", provider="atumn")) == (422, "unknown_provider")
        await asyncio.to_thread(office.fleet.tick, T0 + WINDOW_MS)
        order = (await made(app, "newco", provider="autumn", customer_id="cus_1")).json()
        assert order["job_id"] == 1 and order["customer_id"] == "cus_1"
        assert refused(await made(app, "newco", provider="autumn", customer_id="cus_1")) == (409, "refused")
        assert refused(await made(app, "newco", provider="none")) == (403, "grant_limit")
        shown = (await app.get("/orgs/newco")).json()
        assert [one["provider"] for one in shown["assignments"]] == ["embedded"], "the tick assigns it, once it asked"

    served(office, work)


def test_org_assign_of_new_org_to_external_provider_is_done_by_tick(office: House) -> None:
    office.autumn.account.add_customer("newco", T0)

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        await asyncio.to_thread(office.fleet.tick, T0 + WINDOW_MS)
        assert (await made(app, "newco", provider="autumn")).json()["job_id"] == 1
        assert listed(office.fleet)[0].command == ["org", "assign", "newco", "--provider", "autumn", "--new"]
        report = await asyncio.to_thread(office.fleet.tick, T0 + 2 * WINDOW_MS)
        assert (report.jobs_ended, report.problems) == (1, [])
        shown = (await app.get("/orgs/newco")).json()
        assert [one["provider"] for one in shown["assignments"]] == ["autumn"]

    served(office, work)


def test_org_assign_that_keeps_or_restores_free_usage_is_refused(office: House) -> None:
    for org in ("kept", "left"):
        office.fleet.assign(org, provider="none", from_ms=T0)
    office.fleet.assign("left", from_ms=T0 + WINDOW_MS)

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        assert refused(await send(app, "/v1/orgs/kept/assign", {"customer_id": "other"})) == (403, "grant_limit")
        assert refused(await send(app, "/v1/orgs/left/assign", {"undo": True})) == (403, "grant_limit")
        shown = [(await app.get(f"/orgs/{org}")).json()["assignments"] for org in ("kept", "left")]
        assert [sorted(one["provider"] for one in each) for each in shown] == [["none"], ["embedded", "none"]]

    served(office, work)


def test_org_assign_to_customer_without_credit_requires_allow_halt(office: House) -> None:
    office.fleet.assign("globex", from_ms=T0)
    write(office.fleet.engine, lambda c: credit.grant(c, "globex", MICRO, office.fleet.by, key="k", plan=None))

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        assert refused(await made(app, "globex", customer_id="poor")) == (409, "refused")
        moved = await made(app, "globex", customer_id="poor", allow_halt=True)
        assert moved.json()["customer_id"] == "poor"

    served(office, work)


def test_org_assign_without_credit_requires_allow_halt(office: House) -> None:
    office.fleet.assign("globex", provider="autumn", from_ms=T0)

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        assert refused(await send(app, "/v1/orgs/globex/assign", {"provider": "embedded"})) == (409, "refused")
        moved = await send(app, "/v1/orgs/globex/assign", {"provider": "embedded", "allow_halt": True})
        assert moved.json()["customer_id"] == "globex"

    served(office, work)


def test_org_assign_with_credit_from_remote_provider_is_accepted(office: House) -> None:
    office.fleet.assign("globex", provider="autumn", from_ms=T0)
    write(office.fleet.engine, lambda c: credit.grant(c, "globex", MICRO, office.fleet.by, key="k", plan=None))

    async def work(caller: Caller) -> None:
        moved = await send(Program(caller, key_of("app")), "/v1/orgs/globex/assign", {"provider": "embedded"})
        assert moved.status_code == 200 and moved.json()["provider"] == "embedded"

    served(office, work)


def test_org_override_over_http_is_set_and_cleared(office: House) -> None:
    office.fleet.assign("acme", from_ms=T0)

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        path = "/v1/orgs/acme/override"
        said = (await send(app, path, {"max_concurrent": 7})).json()
        assert said["now"]["max_concurrent"] == 7 and said["max_concurrent_sandboxes"] == 7
        assert [one["org_id"] for one in (await app.get("/orgs?overridden=true")).json()["orgs"]] == ["acme"]
        assert refused(await send(app, path, {"never_halt": True})) == (403, "grant_limit")
        assert refused(await send(app, path, {})) == (422, "bad_value")
        assert wrong_at(await send(app, path, {"max_concurrent": -1})) == "max_concurrent"
        assert (await send(app, path, {"undo": True})).json()["cleared"] is True
        assert (await app.get("/orgs?overridden=true")).json()["orgs"] == []

    served(office, work)


def test_org_halt_by_bound_key_is_limited_to_own_org(office: House) -> None:
    """Also where it names none, which would be a choice among all."""
    for org in ("acme", "globex"):
        office.fleet.assign(org, from_ms=T0)

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        assert refused(await send(bound, "/v1/orgs/halt", {"org_id": ["acme", "globex"]})) == (403, "foreign_org")
        assert refused(await send(bound, "/v1/orgs/halt", {"provider": "embedded"})) == (422, "bad_value")
        assert refused(await bound.get("/orgs")) == (403, "foreign_org")
        assert refused(await bound.get("/orgs/globex")) == (403, "foreign_org")
        own = (await send(bound, "/v1/orgs/halt", {})).json()
        assert [one["org_id"] for one in own["halts"]] == ["acme"]
        assert [one["org_id"] for one in (await app.get("/orgs?state=halted")).json()["orgs"]] == ["acme"]
        wrong = await send(app, "/v1/orgs/halt", {"provider": "embedded", "expect": 1, "dry_run": True})
        assert refused(wrong) == (409, "refused")
        both = (await send(app, "/v1/orgs/halt", {"provider": "embedded", "expect": 2})).json()
        assert [(one["org_id"], one["before"]) for one in both["halts"]] == [("acme", True), ("globex", False)]
        lifted = (await send(app, "/v1/orgs/halt", {"org_id": ["acme", "globex"], "undo": True})).json()
        assert lifted["undo"] is True and all(one["before"] for one in lifted["halts"])

    served(office, work)


def test_org_list_over_http_is_paged_and_filters_are_validated(office: House) -> None:
    for org in ("acme", "globex", "hooli"):
        office.fleet.assign(org, from_ms=T0)
    write(office.fleet.engine, lambda c: credit.grant(c, "hooli", 5, office.fleet.by, key="k", plan=None))

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        first = (await app.get("/orgs?most=2&sort=balance")).json()
        rest = (await app.get(f"/orgs?most=2&sort=balance&after={first['next']}")).json()
        assert sorted(one["org_id"] for one in (*first["orgs"], *rest["orgs"])) == ["acme", "globex", "hooli"]
        assert rest["next"] is None
        assert refused(await app.get("/orgs?after=nobody")) == (404, "unknown_org")
        assert wrong_at(await app.get("/orgs?sort=luck")) == "sort"
        assert refused(await app.get("/orgs?provider=embeded")) == (422, "unknown_provider")

    served(office, work)
