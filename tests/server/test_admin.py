"""Signed requests that change who bills whom: each counts once, and does what the command line does."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.server.settings import ServerSettings
from drawdown.worker.halts.cell_client import signature
from tests.server.house import ADMIN, Caller, House, served
from tests.server.program import refused
from tests.world import T0

SAID = {"actor": "alice", "reason": "ticket 42"}
MOVE = {**SAID, "provider": "embedded", "allow_halt": True, "new": True}


@pytest.mark.parametrize("secret", ADMIN)
def test_an_organisation_is_assigned_with_actor_and_reason(house: House, secret: str) -> None:
    async def work(caller: Caller) -> None:
        dry = await caller.admin("acme", "provider", {**MOVE, "dry_run": True}, secret=secret)
        assert (dry.status_code, dry.json()["dry_run"]) == (200, True)
        assert house.fleet.rows("SELECT 1 FROM assignments") == []
        house.clock.at_ms += 1000
        answer = await caller.admin("acme", "provider", {**MOVE, "from_ms": T0 + DAY_MS}, secret=secret)
        assert answer.json()["assigned"][0]["start_ms"] == T0 + DAY_MS
        house.clock.at_ms += 1000
        again = await caller.admin("acme", "provider", {**MOVE, "from_ms": T0 + DAY_MS}, secret=secret)
        assert again.json()["assigned"][0]["already"] is True
        cancelled = await caller.admin("acme", "provider", {**MOVE, "undo": True}, secret=secret)
        assert cancelled.status_code == 200, cancelled.text

    served(house, work)
    rows = house.fleet.rows(
        "SELECT action, target, actor, reason FROM operator_actions WHERE actor = 'alice' ORDER BY 1"
    )
    assert {row[2:] for row in rows} == {("alice", "ticket 42")} and len(rows) >= 2
    assert house.fleet.rows("SELECT 1 FROM assignments") == []


def test_the_checks_are_those_of_the_command_line(house: House) -> None:
    house.customer("running", 100)
    house.fleet.tick(T0 + 3 * WINDOW_MS)
    house.autumn.account.add_customer("taken", house.clock.at_ms)

    async def work(caller: Caller) -> None:
        for order, status in (
            ({"provider": "embedded"}, 409),  # it has no credit there: it would be halted at once
            ({"provider": "nobody"}, 400),
            ({"provider": "autumn", "customer": "unknown"}, 409),
            ({"provider": "embedded", "from_ms": T0 + 1, "allow_halt": True}, 400),
            ({"provider": "embedded", "from_ms": T0, "allow_halt": True}, 409),  # sealed already
            ({"provider": "none", "cancel": True}, 409),
        ):
            answer = await caller.admin("running", "provider", {**SAID, **order})
            assert answer.status_code == status, (order, answer.text)
        order = {**SAID, "provider": "autumn", "customer": "running"}
        mistyped = await caller.admin("runing", "provider", order)
        assert (mistyped.status_code, mistyped.json()["error"]["code"]) == (404, "unknown_org")
        assert "did you mean running?" in mistyped.text
        mistyped = await caller.admin("runing", "override", {**SAID, "never_halt": True})
        assert mistyped.status_code == 404 and "did you mean running?" in mistyped.text
        answer = await caller.admin("other", "provider", {**order, "new": True})
        assert answer.status_code == 409, "a customer belongs to one organisation"

    served(house, work)
    assert house.fleet.rows("SELECT org_id, provider FROM assignments") == [("running", "autumn")]


def test_an_override_takes_effect_at_once_and_is_on_record(house: House) -> None:
    house.customer("acme")
    house.fleet.tick(T0 + WINDOW_MS)
    assert house.halted("acme")

    async def work(caller: Caller) -> None:
        until = house.clock.at_ms + DAY_MS
        order = {**SAID, "max_concurrent": 7, "never_halt": True, "until_ms": until}
        told = (await caller.admin("acme", "override", order)).json()
        assert (told["org_id"], told["cleared"]) == ("acme", False)
        assert (told["now"]["max_concurrent"], told["was"]["max_concurrent"]) == (7, None)
        await caller.settled()
        gate = (await caller.get("/v1/gate/acme")).json()
        assert (gate["allowed"], gate["max_concurrent_sandboxes"]) == (True, 7)
        house.clock.at_ms += 1000
        assert (await caller.admin("acme", "override", {**SAID, "clear": True})).json()["cleared"] is True
        await caller.settled()
        assert (await caller.get("/v1/gate/acme")).json()["allowed"] is False

    served(house, work)
    rows = house.fleet.rows("SELECT action, actor, reason FROM operator_actions WHERE action = 'org_override'")
    assert rows == [("org_override", "alice", "ticket 42")] * 2


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({}, 422),
        ({"clear": True, "surprise": 1}, 422),
        ({"clear": "yes"}, 422),
        ({"clear": 1}, 422),
        ({"max_concurrent": "7"}, 422),
        ({"max_concurrent": 7.0}, 422),
        ({"max_concurrent": -1}, 422),
        ({"max_concurrent": 2**31}, 422),
        ({"max_concurrent": 10**400}, 422),
        ({"max_concurrent": True}, 422),
        ({"until_ms": 10**18, "clear": True}, 422),
        ({"clear": True, "actor": ""}, 422),
        ({"clear": True, "reason": "a\u0000b"}, 422),
        ({"clear": True, "actor": ["alice"]}, 422),
        ({"clear": True, "max_concurrent": 1}, 400),
        ({"until_ms": T0 + DAY_MS}, 400),
        ({"max_concurrent": 1, "until_ms": 5}, 400),
    ],
    ids=str,
)
def test_an_order_that_is_not_one_is_refused(lone: House, order: Mapping[str, object], status: int) -> None:
    lone.customer("acme", 1)
    before = {**lone.counts(), "used_signatures": None}

    async def work(caller: Caller) -> None:
        given = {**SAID, **order} if order else order
        answer = await caller.admin("acme", "override", given)
        assert answer.status_code == status, answer.text

    served(lone, work)
    assert {**lone.counts(), "used_signatures": None} == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"\xff\xfe", 400),
        (b'{"actor": "a", "reason": "r", "clear": false, "clear": true}', 400),
        (b'{"actor": "a", "reason": "r", "max_concurrent": NaN}', 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b"9" * 60_000, 400),
        (b" " * 65_537, 413),
    ],
    ids=lambda one: repr(one)[:30],
)
def test_what_is_no_json_of_ours_is_refused(lone: House, body: bytes, status: int) -> None:
    async def work(caller: Caller) -> None:
        assert (await caller.admin("acme", "override", body)).status_code == status
        path = "/admin/orgs/acme/override"
        headers = {**lone.signed(path, b"{}"), "content-type": "text/plain"}
        assert (await caller.send("POST", path, b"{}", headers)).status_code == 415

    served(lone, work)
    assert lone.counts()["assignments"] == 0


def test_unknown_organisations_are_not_found(lone: House) -> None:
    async def work(caller: Caller) -> None:
        for org in ("nobody", "%00", "x" * 300):
            assert (await caller.admin(org, "override", {**SAID, "clear": True})).status_code == 404, org
        assert (await caller.admin("%00", "provider", MOVE)).status_code == 404

    served(lone, work)


ORDER = json.dumps({**SAID, "max_concurrent": 3}).encode()
PATH = "/admin/orgs/acme/override"


@pytest.mark.parametrize(
    "broken",
    [
        "secret", "stale", "early", "timestamp", "body", "path", "query", "case", "short", "none", "text",
        "hidden query", "of a cell", "method", "host", "version 1",
    ],
)  # fmt: skip
def test_what_is_not_signed_as_it_must_be_is_refused(lone: House, broken: str) -> None:
    lone.customer("acme", 1)
    now, path, body = lone.clock.at_ms, PATH, ORDER
    headers = lone.signed(PATH, ORDER)
    match broken:
        case "secret":
            headers = lone.signed(PATH, ORDER, secret="another")
        case "stale":
            headers = lone.signed(PATH, ORDER, at_ms=now - 5 * MINUTE_MS - 1000)
        case "early":
            headers = lone.signed(PATH, ORDER, at_ms=now + 5 * MINUTE_MS + 1000)
        case "timestamp":
            headers["x-timestamp"] = str(now // 1000 + 1)
        case "body":
            body = ORDER.replace(b"3", b"9")
        case "path":
            path = PATH.replace("acme", "%61cme")  # the same organisation, other bytes
        case "query":
            path += "?a=b"
        case "hidden query":  # signed for a query, sent as a body
            headers = lone.signed(PATH, ORDER, query=b"x")
            body = b"x." + ORDER
        case "case":
            headers["x-signature"] = headers["x-signature"].upper()
        case "short":
            headers["x-signature"] = headers["x-signature"][:-1]
        case "none":
            del headers["x-signature"]
        case "text":
            headers["x-timestamp"] = "now"
        case "of a cell":
            headers["x-signature"] = f"v2={signature(ADMIN[0], int(headers['x-timestamp']), ORDER)}"
        case "method":
            headers = lone.signed(PATH, ORDER, method="PUT")
        case "host":
            headers = lone.signed(PATH, ORDER, host="staging.test")
        case "version 1":
            before_2 = f"{headers['x-timestamp']}.{PATH}?.".encode() + ORDER
            headers["x-signature"] = hmac.new(ADMIN[0].encode(), before_2, "sha256").hexdigest()
    before = lone.counts()

    async def work(caller: Caller) -> None:
        answer = await caller.send("POST", path, body, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")

    served(lone, work)
    assert lone.counts() == before


@pytest.mark.parametrize(("name", "status"), [("drawdown.test", 200), ("Drawdown.TEST", 200), ("staging.test", 401)])
def test_what_was_signed_for_another_deployment_is_refused_here(lone: House, name: str, status: int) -> None:
    """Whoever took it down on its way there sends it here, Host and all; both have the same secret."""
    lone.customer("acme", 1)
    lone.settings = replace(lone.settings, admin_hosts=("other.test:8443", "drawdown.test"))
    lone.server.close()
    lone.server = lone.another()
    before = lone.counts()

    async def work(caller: Caller) -> None:
        answer = await caller.send("POST", PATH, ORDER, {**lone.signed(PATH, ORDER, host=name), "host": name})
        assert answer.status_code == status
        assert status == 200 or "for another host" in answer.json()["error"]["message"]

    served(lone, work)
    assert (lone.counts() == before) == (status == 401)


def test_a_query_is_taken_by_nobody_even_signed(lone: House) -> None:
    async def work(caller: Caller) -> None:
        headers = lone.signed(PATH, ORDER, query=b"a=b")
        assert (await caller.send("POST", f"{PATH}?a=b", ORDER, headers)).status_code == 400

    served(lone, work)


def test_a_signature_counts_once_for_as_long_as_it_is_fresh(house: House) -> None:
    house.customer("acme", 1)
    headers = house.signed(PATH, ORDER)

    async def work(caller: Caller) -> None:
        assert (await caller.send("POST", PATH, ORDER, headers)).status_code == 200
        for later in (0, 1000, 5 * MINUTE_MS):
            house.clock.at_ms = T0 + later
            answer = await caller.send("POST", PATH, ORDER, headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "signature_repeated")
        house.clock.at_ms = T0 + 5 * MINUTE_MS + 1000
        assert (await caller.send("POST", PATH, ORDER, headers)).status_code == 401
        house.clock.at_ms = T0 + 20 * MINUTE_MS
        assert (await caller.admin("acme", "override", ORDER)).status_code == 200

    served(house, work)
    assert house.fleet.one("SELECT COUNT(*) FROM used_signatures") == 1, "what can no longer be fresh is forgotten"


@pytest.mark.parametrize(
    ("path", "order", "deed"),
    [
        (PATH, ORDER, "drawdown.worker.commands.orgs.override"),
        ("/admin/orgs/acme/provider", json.dumps(MOVE).encode(), "drawdown.worker.commands.flips._assign_one"),
        (
            "/admin/orgs/acme/provider",
            json.dumps({**MOVE, "undo": True}).encode(),
            "drawdown.worker.commands.assignments.cancel",
        ),
    ],
    ids=["override", "assign", "undo"],
)
def test_what_was_not_done_may_be_sent_again_as_it_is(
    house: House, path: str, order: bytes, deed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that was busy, or a process that ended, uses no signature up."""
    if path == PATH:
        house.customer("acme", 1)

    async def work(caller: Caller) -> None:
        if b"undo" in order:
            assert (await caller.admin("acme", "provider", {**MOVE, "from_ms": T0 + DAY_MS})).status_code == 200
        headers = house.signed(path, order)

        def busy(*_given: object, **_more: object) -> None:
            raise DatabaseBusy("another writes")

        with monkeypatch.context() as patch:
            patch.setattr(deed, busy)
            assert (await caller.send("POST", path, order, headers)).status_code == 503
        assert (await caller.send("POST", path, order, headers)).status_code == 200
        assert refused(await caller.send("POST", path, order, headers)) == (409, "signature_repeated")

    served(house, work)


def test_without_a_secret_nothing_is_taken(lone: House) -> None:
    lone.settings = ServerSettings()
    lone.server = lone.another()

    async def work(caller: Caller) -> None:
        for what in ("provider", "override"):
            assert (await caller.admin("acme", what, ORDER, secret="")).status_code == 503
        assert (await caller.tick("")).status_code == 503

    served(lone, work)
