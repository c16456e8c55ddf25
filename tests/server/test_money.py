"""What programs do with wallets, plans, tiers, pools and top-ups, within their limits."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import pytest

from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.actions import Terms
from drawdown.worker.topup.fill import begin
from tests.fake_payments import CAN
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused, wrong_at
from tests.world import T0

SCOPES: Final = ("catalog:read", "catalog:write", "ledger:read", "ledger:write")
GIVES: Final = 50 * MICRO


@pytest.fixture
def shop(lone: House) -> House:
    """A key that gives 50 credits at once, and another that is bound to acme."""
    give(lone, "acme")
    make_key(lone, "app", *SCOPES, gives_micro=GIVES)
    make_key(lone, "bound", *SCOPES, org="acme", gives_micro=GIVES)
    return lone


async def send(program: Program, path: str, body: object, **headers: str) -> httpx.Response:
    return await program.caller.send("POST", f"/v1{path}", json.dumps(body).encode(), program.headers(**headers))


async def done(program: Program, path: str, body: object, **headers: str) -> Any:
    answer = await send(program, path, body, **headers)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


async def seen(program: Program, path: str) -> Any:
    answer = await program.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


def test_customer_setup_over_http_sums_are_consistent(shop: House) -> None:
    """Rate, plan, tier, trial credit: what the lists then show adds up."""

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        rate = await done(app, "/rates/render", {"micro_credits": 250, "per": 10, "new": True})
        assert (rate["start_ms"], rate["was"], rate["per_quantity"]) == (0, None, 10)
        plan = {"max_concurrent": 5, "included": 20, "most_hold": 3, "hold_factor_ppm": 1_500_000, "new": True}
        made = await done(app, "/plans/team", plan)
        assert (made["was"], made["included_micro"], made["most_hold"], made["holds_halt"]) == (
            None,
            20 * MICRO,
            3,
            True,
        )
        assert (await done(app, "/plans/team", {"most_hold": 0}))["most_hold"] is None, "0 is no end"
        await done(app, "/tiers/pro", {"at_once": 100, "price": 4, "new": True})
        trial, key = {"amount": 10, "kind": "bonus", "new": True}, {"idempotency-key": "signup-1"}
        first = await done(app, "/wallets/studio/grants", trial, **key)
        assert (first["lot"], first["is_new"], first["balance"]) == ("grant:key:app:signup-1", True, 10)
        assert await done(app, "/wallets/studio/grants", trial, **key) == first
        put = await done(app, "/wallets/studio/plan", {"plan": "team"})
        assert (put["was"], put["max_concurrent"], put["balance_micro"]) == (None, 5, 30 * MICRO)
        bought = await done(app, "/wallets/studio/tiers/pro", {})
        assert (bought["charged_micro"], bought["max_concurrent"], bought["renews"]) == (4 * MICRO, 100, True)
        assert (await done(app, "/wallets/studio/tiers/pro", {"undo": True}))["renews"] is False
        lots = await seen(app, "/lots?customer_id=studio")
        assert sum(lot["remaining_micro"] for lot in lots["lots"]) == 26 * MICRO and len(lots["lots"]) == 2
        taken = await done(app, "/lots/grant%3Akey%3Aapp%3Asignup-1/take-back", {})
        assert taken["taken_back_micro"] + taken["balance_micro"] == 26 * MICRO
        moved = (await seen(app, "/wallets/studio/entries"))["entries"]
        assert sum(one["moved_micro"] for one in moved) == taken["balance_micro"] and "execution" in moved[0]
        wallets = {one["customer_id"]: one for one in (await seen(app, "/wallets"))["wallets"]}
        assert (wallets["studio"]["plan"], wallets["studio"]["balance_micro"]) == ("team", taken["balance_micro"])
        assert [one["customers"] for one in (await seen(app, "/plans"))["plans"] if one["plan"] == "team"] == [1]
        assert [one["tier"] for one in (await seen(app, "/tiers"))["tiers"]] == ["pro"]
        assert ("render", 250) in [
            (one["feature"], one["micro_credits"]) for one in (await seen(app, "/rates"))["rates"]
        ]

    served(shop, work)


def test_wallet_and_entry_lists_over_http_are_paged_without_gaps(shop: House) -> None:
    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        for number in range(3):
            await done(app, f"/wallets/c-{number}/grants", {"amount": number + 1, "new": True})
        await done(app, "/wallets/acme/grants", {"amount": 1})
        lists = (("/wallets", "wallets", "customer_id"), ("/wallets/acme/entries", "entries", "key"))
        for path, holds, name in lists:
            found: list[str] = []
            page = await seen(app, f"{path}?most=1")
            while page["next"] is not None:
                found += [one[name] for one in page[holds]]
                page = await seen(app, f"{path}?most=1&after={page['next']}")
            found += [one[name] for one in page[holds]]
            whole = [one[name] for one in (await seen(app, path))[holds]]
            assert found == whole and len(set(found)) == len(found) > 1, path

    served(shop, work)


def test_credit_giving_calls_above_grant_limit_of_key_are_refused(shop: House) -> None:
    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        await done(app, "/pools/course", {})
        await done(app, "/wallets/course/grants", {"amount": 50})
        await done(app, "/plans/rich", {"max_concurrent": 1, "included": 30, "new": True})
        await done(app, "/plans/rich", {"first": 30})
        ends = T0 + 30 * DAY_MS
        for path, body in (
            ("/wallets/acme/grants", {"amount": 50.000001}),
            ("/wallets/acme/grants", {"amount": 1, "plan": "rich"}),
            ("/wallets/acme/plan", {"plan": "rich"}),
            ("/wallets/acme/grants", {"amount": 0, "plan": "rich"}),
            ("/plans/rich", {"included": 51}),
            ("/pools/course/allotments", {"customer_id": "acme", "amount": 51, "expires_ms": ends}),
            ("/payers/course/orgs/acme/allow", {}),
            ("/payers/course/orgs/acme/allow", {"limit": 51}),
        ):
            assert refused(await send(app, path, body)) == (403, "grant_limit"), (path, body)
        allot = {"customer_id": "acme", "amount": 20, "expires_ms": ends}
        first = await done(app, "/pools/course/allotments", allot, **{"idempotency-key": "spring"})
        assert (first["lot"], first["pool_available"]) == ("allot:course:key:app:spring", 30)
        assert (await done(app, "/payers/course/orgs/acme/allow", {"limit": 5}))["changed"] is True
        (payer,) = (await seen(app, "/payers?org_id=acme"))["payers"]
        assert (payer["payer"], payer["limit"]) == ("course", 5)
        assert (await done(app, "/payers/course/orgs/acme/end", {}))["changed"] is True
        (member,) = (await seen(app, "/pools/course"))["allotments"]
        assert (member["customer_id"], member["remaining_micro"]) == ("acme", 20 * MICRO)

    served(shop, work)


def test_payer_after_many_ended_payers_is_shown(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ledger.pools", "server.api.accounts"):
        monkeypatch.setattr(f"drawdown.{module}.MOST_PAYERS", 1)
    for name in ("ada", "wayne"):
        give(shop, name)

    async def work(caller: Caller) -> None:
        app = Program(caller, key_of("app"))
        for name in ("ada", "wayne"):
            await done(app, f"/payers/{name}/orgs/acme/allow", {"limit": 5})
        await done(app, "/payers/ada/orgs/acme/end", {})
        dry = await done(app, "/payers/wayne/orgs/acme/end", {"dry_run": True})
        assert [one["before"] for one in dry["facts"]] == ["yes", "5.00", "0.00"]
        assert [one["payer"] for one in (await seen(app, "/accounts/acme"))["payers"]] == ["wayne"]

    served(shop, work)


def test_bound_key_grants_to_own_wallet_only(shop: House) -> None:
    give(shop, "wayne")

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        await done(app, "/pools/course", {})
        assert (await done(bound, "/wallets/acme/grants", {"amount": 1}))["balance"] == 101
        assert len((await seen(bound, "/lots"))["lots"]) == 2, "its own needs no name"
        ends = T0 + 30 * DAY_MS
        for path, body in (
            ("/wallets/wayne/grants", {"amount": 1}),
            ("/lots/grant%3Afirst%20of%20acme/take-back", {}),
            ("/wallets/acme/plan", {"plan": "rich"}),
            ("/pools/course/allotments", {"customer_id": "acme", "amount": 1, "expires_ms": ends}),
            ("/payers/wayne/orgs/acme/allow", {"limit": 1}),
            ("/topups/stop", {"customer_id": "wayne"}),
        ):
            assert refused(await send(bound, path, body)) == (403, "foreign_org"), path
        for path in ("/wallets", "/wallets/wayne/entries", "/lots?customer_id=wayne", "/pools", "/pools/course"):
            assert refused(await bound.get(path)) == (403, "foreign_org"), path
        assert refused(await bound.get("/payers?payer=wayne"))[1] == "foreign_org"
        assert wrong_at(await send(bound, "/topups/stop", {"all": True})) == "customer_id"

    served(shop, work)


def test_grant_over_http_to_wallet_not_in_use_is_refused(shop: House) -> None:
    """An operator's command fills one before a move; a program that does is mistaken."""
    shop.fleet.assign("tyrell", provider="autumn")

    async def work(caller: Caller) -> None:
        answer = await send(Program(caller, key_of("app")), "/wallets/tyrell/grants", {"amount": 1})
        text = answer.text
        assert wrong_at(answer) == "customer_id" and "keeps the balance" in text and "/grants" not in text, text

    served(shop, work)


def test_topups_over_http_are_stopped_and_listed(shop: House) -> None:
    terms = Terms(MICRO, 20 * MICRO, None, 100, "usd", "fake", "cus_1", 10_000)
    write(shop.fleet.engine, lambda c: topups.set_terms(c, "acme", terms, CAN, shop.fleet.by))

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        dry = await done(app, "/topups/stop", {"customer_id": "acme", "dry_run": True})
        assert {"name": "Mode", "before": "live", "after": "stopped"} in dry["facts"]
        stopped = {
            "customer_id": "acme",
            "is_stopped": True,
            "was": "live",
            "blocked": None,
            "open_topups": 0,
            "open_topup": None,
        }
        assert (await done(bound, "/topups/stop", {})) == stopped
        assert [one["mode"] for one in (await seen(app, "/topups?customer_id=acme"))["wallets"]] == ["stopped"]
        assert wrong_at(await send(app, "/topups/stop", {})) == "customer_id"
        await done(app, "/topups/stop", {"all": True, "reason": "their incident 7"})
        assert (await seen(app, "/topups"))["stopped"]["reason"] == "their incident 7"
        told = (await seen(bound, "/topups"))["stopped"]
        assert told["stopped_ms"] == shop.clock.at_ms and told["reason"] == told["actor"] == ""
        assert (await send(app, "/topups/stop", {"all": True, "undo": True})).status_code == 403, "nothing bounds it"

    served(shop, work)


def test_topup_in_doubt_is_resolved_over_http_with_evidence(shop: House) -> None:
    engine, by, now = shop.fleet.engine, shop.fleet.by, shop.clock.at_ms
    terms = Terms(100 * MICRO, 20 * MICRO, None, 100, "usd", "fake", "cus_1", 10_000)
    write(engine, lambda c: topups.set_terms(c, "acme", terms, CAN, by))
    write(engine, lambda c: begin(c, ready={"fake"}, now=now, witness=None))
    shop.fleet.write("UPDATE topups SET state = 'in_doubt', attempts = 1")
    make_key(shop, "poor", *SCOPES)

    async def work(caller: Caller) -> None:
        app, poor = Program(caller, key_of("app")), Program(caller, key_of("poor"))
        path = "/topups/topup%3Aacme%3A1/resolve"
        for body in ({"evidence": "x"}, {"evidence": "x", "paid": "pi_1", "absent": True}):
            assert wrong_at(await send(app, path, body)) == "paid"
        paid = {"paid": "pi_1", "evidence": "their dashboard, 10:15"}
        assert refused(await send(poor, path, paid)) == (403, "grant_limit")
        assert (await done(app, path, paid))["state"] == "credited"
        assert (await seen(app, "/accounts/acme"))["balance"] == 120

    served(shop, work)
