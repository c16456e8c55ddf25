"""Wallets, their lots and what suppliers are owed over HTTP: what the commands say, for keys that may read it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from drawdown.cli.main import global_options_first, run
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.wallets.accounts import account_of
from drawdown.worker.wallets.actions import grant
from drawdown.worker.wallets.lists import owed_figures
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.world import T0


@pytest.fixture
def shop(house: House, database_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    """acme, with a supplier whose terms take claw-backs."""
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    give(house, "acme")
    give(house, "globex")
    change = Change(share_ppm=700_000, hold_ms=DAY_MS, threshold_micro=0, takes_clawbacks=True)
    write(house.fleet.engine, lambda c: settlements.set_supplier(c, "pixel", change, house.fleet.by, new=True))
    make_key(house, "app", "executions:write", "executions:read", "ledger:read", "settlements:read")
    make_key(house, "bound", "settlements:read", "ledger:read", org="acme")
    return house


def command(house: House, line: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert run(global_options_first([*line.split(), "--at", str(house.clock.at_ms), "--json"])) == 0
    return json.loads(capsys.readouterr().out)


async def render(program: Program, key: str, org: str = "acme") -> None:
    order = {"key": key, "org_id": org, "estimate": 10, "supplier": "pixel"}
    accepted = await program.post("", order)
    assert (accepted.status_code, accepted.json()["supplier"]) == (200, "pixel"), accepted.text
    assert (await program.post(f"/{quote(key, safe='')}/settle", {"actual": 6})).status_code == 200


@pytest.mark.both_databases
def test_wallet_endpoints_equal_command_output(shop: House, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        await render(program, "e-1")
        await program.post("", {"key": "e-2", "org_id": "acme", "estimate": 4})
        account = (await program.get("/accounts/acme")).json()
        told = command(shop, "ledger show acme", capsys)
        assert all(told[name] == value for name, value in account.items() if name not in ("org_id", "payers"))
        assert (account["org_id"], account["payers"]) == ("acme", [])
        found = [account[name] for name in ("available", "reserved", "balance", "purchased", "included", "hold")]
        assert found == [90, 4, 94, 94, 0, 4.2]
        assert account["hold_micro"] == 4_200_000
        lots = (await program.get("/accounts/acme/lots")).json()
        (lot,), said = lots["lots"], command(shop, "ledger lots acme", capsys)
        assert all(lot[name] == value for name, value in said["lots"][0].items())
        assert (lot["remaining"], lot["used"], lot["place"], lots["more"]) == (94, 6, 1, 0)
        assert lots["order"] == said["order"]
        assert (await program.get("/accounts/acme/ledger")).json()["entries"][0]["moved"] == -6

    served(shop, work)


PLACES = ("/balance/{}", "/accounts/{}", "/ledger/{}", "/accounts/{}/ledger", "/accounts/{}/lots")
MONTH = "/accounts/{}/statement?month=2026-01"


@pytest.mark.parametrize("provider", ["autumn", "stripe"])
def test_wallet_endpoints_of_org_billed_by_provider_name_provider_and_call(shop: House, provider: str) -> None:
    for org in ("wayne", "moved"):
        shop.fleet.assign(org, provider=provider, from_ms=T0)
    shop.fleet.write("INSERT INTO provider_states (provider, terms) VALUES ('stripe', '{\"balance_in_ledger\": true}')")
    by = shop.fleet.by
    write(shop.fleet.engine, lambda c: grant(c, "moved", 5 * MICRO, by, key="before", plan=None, new=True))

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for place in (*PLACES, MONTH):
            answer = await program.get(place.format("wayne"))
            assert refused(answer) == (409, "billed_elsewhere"), place
            message = answer.json()["error"]["message"]
            assert f"wayne is billed by {provider}" in message, message
            assert ("`GET /v1/orgs/{org_id}`" if provider == "autumn" else "`GET /v1/usage`") in message, message
        for place in (*PLACES[2:], MONTH):
            assert (await program.get(place.format("moved"))).status_code == 200, "its past can be read"
        for place in PLACES[:2]:
            answer = await program.get(place.format("moved"))
            if provider == "autumn":
                assert refused(answer) == (409, "billed_elsewhere"), "this wallet pays for nothing"
            else:
                assert answer.json()["balance"] == 5, "its usage is charged to this wallet, too"

    served(shop, work)


def test_wallet_settlement_hold_lasts_until_payout(shop: House) -> None:
    """On hold, eligible and frozen: the wallets' figures are the metric's."""
    engine, by = shop.fleet.engine, shop.fleet.by

    def waits() -> tuple[int, int]:
        account = read(engine, lambda c: account_of(c, "acme", shop.clock.at_ms))
        return account.hold_micro, read(engine, owed_figures).waiting_micro

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for key in ("e-1", "e-2", "e-3"):
            await render(program, key)

    served(shop, work)
    write(engine, lambda c: settlements.freeze(c, "e-2", by))
    write(engine, lambda c: settlements.reverse(c, "e-1", "ticket", 200_000, by))
    assert waits() == (12_400_000, 12_400_000)
    shop.clock.at_ms += 2 * DAY_MS
    assert waits() == (12_400_000, 12_400_000), "what is eligible is waited for, too"
    later = replace(by, now_ms=shop.clock.at_ms)
    write(engine, lambda c: settlements.make_payout(c, "pixel", "2026-01", later))
    assert waits() == (4_200_000, 4_200_000), "what is frozen is in no batch"


def test_settlement_endpoints_equal_command_output(shop: House, capsys: pytest.CaptureFixture[str]) -> None:
    by = shop.fleet.by

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for key, org in (("e-1", "acme"), ("e-2", "acme"), ("g/1", "globex")):
            await render(program, key, org)
        engine = shop.fleet.engine
        write(engine, lambda c: settlements.freeze(c, "e-2", by))
        write(engine, lambda c: settlements.reverse(c, "e-1", "ticket", 200_000, by))
        listed = (await program.get("/settlements")).json()["settlements"]
        said = command(shop, "settlement list", capsys)["settlements"]
        assert [one["execution"] for one in listed] == [one["execution"] for one in said]
        assert {one["execution"]: (one["state"], one["owed"]) for one in listed} == {
            "e-1": ("hold", 4), "e-2": ("frozen", 4.2), "g/1": ("hold", 4.2),
        }  # fmt: skip
        assert [
            one["execution"] for one in (await program.get("/settlements?state=frozen&most=1")).json()["settlements"]
        ] == ["e-2"]
        shown = (await program.get("/settlements/e-2")).json()
        assert shown["freezes"][0]["whole"] is False and shown["reversals"] == []
        assert (await program.get("/settlements/e-1")).json()["reversals"][0]["amount"] == 0.2
        shop.clock.at_ms += 2 * DAY_MS
        write(engine, lambda c: settlements.make_payout(c, "pixel", "2026-01", shop.fleet.by))
        (payout,) = (await program.get("/payouts?supplier=pixel")).json()["payouts"]
        assert (payout["total"], payout["lines"], payout["period"]) == (8.2, 2, "2026-01")
        (supplier,) = (await program.get("/suppliers")).json()["suppliers"]
        told = command(shop, "supplier list", capsys)["suppliers"][0]
        assert supplier["released_micro"] == told["released_micro"] == 8_200_000
        assert (supplier["frozen"], supplier["paid"], supplier["reversed"]) == (4.2, 8.2, 0.2)
        wrong = {
            "/settlements?supplier=pixle": (422, "unknown_supplier"), "/payouts?supplier=x": (422, "unknown_supplier"),
            "/settlements?state=held": (422, "bad_value"), "/settlements/e-11": (404, "unknown_settlement"),
            "/settlements?org_id=acmee": (404, "unknown_org"), "/settlements?most=0": (422, "bad_value"),
        }  # fmt: skip
        assert {path: refused(await program.get(path)) for path in wrong} == wrong

    served(shop, work)


def test_settlement_endpoints_bound_key_reads_own_org_only(shop: House) -> None:
    async def work(caller: Caller) -> None:
        program, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        for key, org in (("ours", "acme"), ("theirs", "globex")):
            await render(program, key, org)
        assert [one["execution"] for one in (await bound.get("/settlements")).json()["settlements"]] == ["ours"]
        assert (await bound.get("/settlements/ours")).status_code == 200
        said = set()
        for key in ("theirs", "their"):
            answer = await bound.get(f"/settlements/{key}")
            assert refused(answer) == (404, "unknown_settlement")
            said.add(answer.text.replace(f"'{key}'", "KEY"))
        assert len(said) == 1, "the settlement of another organisation looks as one that does not exist"
        for path in ("/suppliers", "/payouts", "/settlements?org_id=globex", "/settlements?supplier=pixel"):
            assert refused(await bound.get(path)) == (403, "foreign_org"), path
        assert (await bound.get("/accounts/acme")).json()["balance_micro"] == 94 * MICRO

    served(shop, work)
