"""Signed requests that change who bills whom: each counts once, and does what the command line does."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import httpx
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
ORDER = json.dumps({**SAID, "max_concurrent": 3}).encode()
PATH = "/admin/orgs/acme/override"


@pytest.mark.parametrize("secret", ADMIN)
def test_admin_assignment_records_actor_and_reason(house: House, secret: str) -> None:
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


def test_admin_assignment_applies_command_line_checks(house: House) -> None:
    house.customer("running", 100)
    house.fleet.tick(T0 + 3 * WINDOW_MS)
    house.autumn.account.add_customer("taken", house.clock.at_ms)

    async def work(caller: Caller) -> None:
        for order, status in (
            ({"provider": "embedded"}, 409),  # it has no credit there: it would be halted at once
            ({"provider": "nobody"}, 400),
            ({"provider": "autumn", "customer_id": "unknown"}, 409),
            ({"provider": "embedded", "from_ms": T0 + 1, "allow_halt": True}, 400),
            ({"provider": "embedded", "from_ms": T0, "allow_halt": True}, 409),  # sealed already
            ({"provider": "none", "undo": True}, 409),
        ):
            answer = await caller.admin("running", "provider", {**SAID, **order})
            assert answer.status_code == status, (order, answer.text)
        order = {**SAID, "provider": "autumn", "customer_id": "running"}
        mistyped = await caller.admin("runing", "provider", order)
        assert (mistyped.status_code, mistyped.json()["error"]["code"]) == (404, "unknown_org")
        assert "did you mean running?" in mistyped.text
        mistyped = await caller.admin("runing", "override", {**SAID, "never_halt": True})
        assert mistyped.status_code == 404 and "did you mean running?" in mistyped.text
        answer = await caller.admin("other", "provider", {**order, "new": True})
        assert answer.status_code == 409, "a customer belongs to one organisation"

    served(house, work)
    assert house.fleet.rows("SELECT org_id, provider FROM assignments") == [("running", "autumn")]


@pytest.mark.parametrize("named", [{"provider": "embedded"}, {"provider": "none", "customer_id": "x"}])
def test_admin_undo_of_another_assignment_is_refused(house: House, named: Mapping[str, object]) -> None:
    move = {**MOVE, "provider": "none", "from_ms": T0 + DAY_MS}

    async def work(caller: Caller) -> None:
        assert (await caller.admin("acme", "provider", move)).status_code == 200
        answer = await caller.admin("acme", "provider", {**SAID, **named, "undo": True})
        assert answer.status_code == 409 and "is to none" in answer.text, answer.text
        assert house.fleet.rows("SELECT provider FROM assignments") == [("none",)]
        assert (await caller.admin("acme", "provider", {**move, "undo": True})).status_code == 200

    served(house, work)
    assert house.fleet.rows("SELECT provider FROM assignments") == []


def test_admin_override_takes_effect_at_once_and_is_audited(house: House) -> None:
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
        assert (await caller.admin("acme", "override", {**SAID, "undo": True})).json()["cleared"] is True
        await caller.settled()
        assert (await caller.get("/v1/gate/acme")).json()["allowed"] is False

    served(house, work)
    rows = house.fleet.rows("SELECT action, actor, reason FROM operator_actions WHERE action = 'org_override'")
    assert rows == [("org_override", "alice", "ticket 42")] * 2


WRONG_ORDERS: Final[tuple[tuple[Mapping[str, object], int], ...]] = (
    ({}, 422), ({**SAID, "undo": True, "surprise": 1}, 422), ({**SAID, "undo": "yes"}, 422),
    ({**SAID, "undo": 1}, 422), ({**SAID, "max_concurrent": "7"}, 422), ({**SAID, "max_concurrent": 7.0}, 422),
    ({**SAID, "max_concurrent": -1}, 422), ({**SAID, "max_concurrent": 2**31}, 422),
    ({**SAID, "max_concurrent": 10**400}, 422), ({**SAID, "max_concurrent": True}, 422),
    ({**SAID, "until_ms": 10**18, "undo": True}, 422), ({**SAID, "undo": True, "actor": ""}, 422),
    ({**SAID, "undo": True, "reason": "a\u0000b"}, 422), ({**SAID, "undo": True, "actor": ["alice"]}, 422),
    ({**SAID, "undo": True, "max_concurrent": 1}, 400), ({**SAID, "until_ms": T0 + DAY_MS}, 400),
    ({**SAID, "max_concurrent": 1, "until_ms": 5}, 400),
)  # fmt: skip
NO_JSON: Final[tuple[tuple[bytes, int], ...]] = (
    (b"", 400), (b"{", 400), (b"null", 422), (b"[]", 422), (b'"text"', 422), (b"\xff\xfe", 400),
    (b'{"actor": "a", "reason": "r", "undo": false, "undo": true}', 400),
    (b'{"actor": "a", "reason": "r", "max_concurrent": NaN}', 400), (b"[" * 60_000, 400),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400), (b"9" * 60_000, 400), (b" " * 65_537, 413),
)  # fmt: skip


def test_admin_override_invalid_body_is_refused(lone: House) -> None:
    lone.customer("acme", 1)
    before = {**lone.counts(), "used_signatures": None}
    wrong: list[tuple[Mapping[str, object] | bytes, int]] = [*WRONG_ORDERS, *NO_JSON]

    async def work(caller: Caller) -> None:
        for order, status in wrong:
            answer = await caller.admin("acme", "override", order)
            assert answer.status_code == status, (str(order)[:99], answer.text)
        headers = {**lone.signed(PATH, b"{}"), "content-type": "text/plain"}
        assert (await caller.send("POST", PATH, b"{}", headers)).status_code == 415

    served(lone, work)
    assert {**lone.counts(), "used_signatures": None} == before


def test_admin_endpoints_unknown_org_is_not_found(lone: House) -> None:
    async def work(caller: Caller) -> None:
        for org in ("nobody", "%00", "x" * 300):
            assert (await caller.admin(org, "override", {**SAID, "undo": True})).status_code == 404, org
        assert (await caller.admin("%00", "provider", MOVE)).status_code == 404

    served(lone, work)


def badly_signed(house: House) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers."""
    now, signed = house.clock.at_ms, house.signed(PATH, ORDER)
    stamp = signed["x-timestamp"]
    yield PATH, ORDER, house.signed(PATH, ORDER, secret="another")
    yield PATH, ORDER, house.signed(PATH, ORDER, at_ms=now - 5 * MINUTE_MS - 1000)
    yield PATH, ORDER, house.signed(PATH, ORDER, at_ms=now + 5 * MINUTE_MS + 1000)
    yield PATH, ORDER, house.signed(PATH, ORDER, method="PUT")
    yield PATH, ORDER, house.signed(PATH, ORDER, host="staging.test")
    yield PATH, ORDER, {**signed, "x-timestamp": str(now // 1000 + 1)}
    yield PATH, ORDER, {**signed, "x-timestamp": "now"}
    yield PATH, ORDER.replace(b"3", b"9"), signed
    yield PATH.replace("acme", "%61cme"), ORDER, signed  # the same organisation, other bytes
    yield f"{PATH}?a=b", ORDER, signed
    yield PATH, b"x." + ORDER, house.signed(PATH, ORDER, query=b"x")  # signed for a query, sent as a body
    yield PATH, ORDER, {**signed, "x-signature": signed["x-signature"].upper()}
    yield PATH, ORDER, {**signed, "x-signature": signed["x-signature"][:-1]}
    yield PATH, ORDER, {name: text for name, text in signed.items() if name != "x-signature"}
    yield PATH, ORDER, {**signed, "x-signature": f"v2={signature(ADMIN[0], int(stamp), ORDER)}"}  # a cell's
    version_1 = hmac.new(ADMIN[0].encode(), f"{stamp}.{PATH}?.".encode() + ORDER, "sha256").hexdigest()
    yield PATH, ORDER, {**signed, "x-signature": version_1}


def test_admin_request_badly_signed_is_refused(lone: House) -> None:
    lone.customer("acme", 1)
    before = lone.counts()

    async def work(caller: Caller) -> None:
        for path, body, headers in badly_signed(lone):
            answer = await caller.send("POST", path, body, headers)
            assert refused(answer) == (401, "unauthorized"), (path, body, headers)
            assert lone.counts() == before, (path, body, headers)

    served(lone, work)


def test_admin_request_signed_for_another_host_is_refused(lone: House) -> None:
    """Whoever took it down on its way there sends it here, Host and all; both have the same secret."""
    lone.customer("acme", 1)
    lone.settings = replace(lone.settings, admin_hosts=("other.test:8443", "drawdown.test"))
    lone.server.close()
    lone.server = lone.another()
    before = lone.counts()

    async def sent(caller: Caller, name: str) -> httpx.Response:
        lone.clock.at_ms += 1000
        return await caller.send("POST", PATH, ORDER, {**lone.signed(PATH, ORDER, host=name), "host": name})

    async def work(caller: Caller) -> None:
        answer = await sent(caller, "staging.test")
        assert refused(answer) == (401, "unauthorized") and "is not in DRAWDOWN_ADMIN_HOSTS" in answer.text
        assert lone.counts() == before
        for name in ("drawdown.test", "Drawdown.TEST"):
            assert (await sent(caller, name)).status_code == 200, name

    served(lone, work)


def test_admin_request_signed_with_query_is_refused(lone: House) -> None:
    async def work(caller: Caller) -> None:
        headers = lone.signed(PATH, ORDER, query=b"a=b")
        assert (await caller.send("POST", f"{PATH}?a=b", ORDER, headers)).status_code == 400

    served(lone, work)


@pytest.mark.both_databases
def test_admin_signature_repeated_is_refused(house: House) -> None:
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


def test_admin_signature_after_failed_request_can_be_resent(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was busy, or a process that ended, uses no signature up."""
    lone.customer("acme", 1)
    assign, move = "/admin/orgs/other/provider", {**MOVE, "from_ms": T0 + DAY_MS}
    orders: tuple[tuple[str, bytes, str], ...] = (
        (PATH, ORDER, "actions.override"),
        (assign, json.dumps(move).encode(), "flips._assign_one"),
        (assign, json.dumps({**MOVE, "undo": True}).encode(), "assignments.cancel"),
    )

    def busy(*_given: object, **_more: object) -> None:
        raise DatabaseBusy("another writes")

    async def work(caller: Caller) -> None:
        for path, order, deed in orders:
            headers = lone.signed(path, order)
            with monkeypatch.context() as patch:
                patch.setattr(f"drawdown.worker.orgs.{deed}", busy)
                assert (await caller.send("POST", path, order, headers)).status_code == 503, deed
            assert (await caller.send("POST", path, order, headers)).status_code == 200, deed
            assert refused(await caller.send("POST", path, order, headers)) == (409, "signature_repeated")

    served(lone, work)


def test_admin_endpoints_without_secret_are_unavailable(lone: House) -> None:
    lone.settings = ServerSettings()
    lone.server = lone.another()

    async def work(caller: Caller) -> None:
        for what in ("provider", "override"):
            assert (await caller.admin("acme", what, ORDER, secret="")).status_code == 503
        assert (await caller.tick("")).status_code == 503

    served(lone, work)
