"""Programs with keys of one organisation each: what they learn of others, and what they can cost them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.ledger import own_keys, reservations
from drawdown.schema import ids
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO, MINUTE_MS
from drawdown.server.api.programs import MOST_PARAMETERS
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import pools
from tests.server.house import Caller, House, served
from tests.server.program import RUNS, Program, give, key_of, make_key, refused


@pytest.fixture
def shared(house: House) -> House:
    """acme, globex, a supplier of globex's, and wayne, who pays for neither."""
    for org in ("acme", "globex", "wayne"):
        give(house, org)
    change = Change(share_ppm=700_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
    write(house.fleet.engine, lambda c: settlements.set_supplier(c, "pixel-works", change, house.fleet.by, new=True))
    make_key(house, "a", *RUNS, "settlements:read", org="acme")
    make_key(house, "g", *RUNS, org="globex")
    make_key(house, "any", *RUNS)
    return house


def metered(key: str, org: str, *names: str, **more: object) -> dict[str, object]:
    return {"key": key, "org_id": org, "estimate": 1, "settled_by": "metering", "sandboxes": names, **more}


def test_bound_key_mistyped_names_get_neither_suggestions_nor_search(
    shared: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = ids._around

    def counting(connection: sa.Connection, kind: ids.Kind, given: str) -> Any:
        looked.append(given)
        return real(connection, kind, given)

    monkeypatch.setattr(ids, "_around", counting)

    async def work(caller: Caller) -> None:
        acme, anybody = Program(caller, key_of("a")), Program(caller, key_of("any"))
        assert (
            await anybody.post("", {"key": "g", "org_id": "globex", "estimate": 1, "project": "gold"})
        ).status_code == 200
        for program, said in ((acme, "that you may see"), (anybody, "did you mean pixel-works?")):
            answer = await program.accept("x", supplier="pixel-work")
            assert refused(answer) == (422, "unknown_supplier") and said in answer.text, answer.text
            answer = await program.post("/preview", {"org_id": "acme", "estimate": 1, "supplier": "pixel-work"})
            assert refused(answer) == (422, "unknown_supplier") and said in answer.text, answer.text
        assert looked == ["pixel-work"] * 2, "for who may see all"
        for label in ("project=golt", "subject=golt", "action=golt", "project=gold"):
            assert (await acme.get(f"/executions?{label}")).json()["executions"] == []
        assert refused(await acme.accept("y", use={"compute_1g": 1}, estimate=None))[0] in (409, 422)
        assert len(looked) == 2

    served(shared, work)


def test_bound_key_unregistered_org_gets_no_suggestion(shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """acme-cor is one letter from a customer of another owner, and zzz is like nothing: both get the same answer."""
    give(shared, "acme-corp")
    searched: list[str] = []

    def counting(_connection: sa.Connection, *given: object) -> list[str]:
        searched.append(str(given[-1]))
        return []

    for search in ("_around", "_sampled_around"):
        monkeypatch.setattr(ids, search, counting)
    for name in ("acme-cor", "zzz"):
        make_key(shared, name, "ledger:write", "orgs:write", org=name, gives_micro=MICRO)

    async def send(caller: Caller, org: str, path: str, number: int, **body: object) -> Any:
        content = json.dumps({"reason": "signed up"} | body).encode()
        headers = Program(caller, key_of(org)).headers(**{"idempotency-key": str(number)})
        return await caller.send("POST", path.format(org), content, headers)

    async def work(caller: Caller) -> None:
        calls: tuple[tuple[str, dict[str, object]], ...] = (
            ("/v1/wallets/{}/grants", {"amount": 1}), ("/v1/orgs/{}/assign", {}),
        )  # fmt: skip
        for number, (path, body) in enumerate(calls):
            near, far = [await send(caller, org, path, number, **body) for org in ("acme-cor", "zzz")]
            assert refused(near) == refused(far) == (404, "unknown_org")
            assert near.text.replace("acme-cor", "zzz") == far.text and "acme-corp" not in near.text
            declared = await send(caller, "acme-cor", path, number + 10, new=True, **body)
            assert declared.status_code == 200, declared.text
        assert searched == []

    served(shared, work)


def test_bound_key_unknown_payer_looks_like_payer_not_allowed(shared: House) -> None:
    async def work(caller: Caller) -> None:
        acme, anybody = Program(caller, key_of("a")), Program(caller, key_of("any"))
        there, nowhere = [await acme.accept("x", payer=payer) for payer in ("wayne", "wayme")]
        assert refused(there) == refused(nowhere) == (409, "payer_not_allowed")
        assert there.json()["error"]["details"] == nowhere.json()["error"]["details"] == {"step": "account"}
        assert there.text.replace("wayne", "wayme") == nowhere.text
        assert refused(await anybody.accept("x", payer="wayme")) == (422, "unknown_payer")
        write(shared.fleet.engine, lambda c: pools.allow(c, "wayne", "acme", shared.fleet.by, limit_micro=9 * MICRO))
        assert (await acme.accept("x", payer="wayne")).status_code == 200

    served(shared, work)


def test_bound_key_foreign_sandbox_looks_like_unknown_sandbox(shared: House) -> None:
    shared.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    shared.fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'globex', 'cell-1', 'running')"
    )

    async def work(caller: Caller) -> None:
        acme, anybody = Program(caller, key_of("a")), Program(caller, key_of("any"))
        assert refused(await anybody.post("", metered("x", "acme", "b"))) == (409, "other_org")
        for name in ("b", "nobodys"):
            assert (await acme.post("", metered(f"on-{name}", "acme", name))).status_code == 200

    served(shared, work)


@pytest.mark.both_databases
def test_execution_cannot_reserve_sandbox_or_draw_samples_of_another_org(shared: House) -> None:
    """Whatever ids another one names: each pays for its own samples, and its holds shrink by them alone."""

    async def work(caller: Caller) -> None:
        acme, globex = Program(caller, key_of("a")), Program(caller, key_of("g"))
        squatted = metered("squat", "acme", "box-1", "box-2", for_ms=30 * MINUTE_MS)
        assert (await acme.post("", squatted)).status_code == 200
        assert (await globex.post("", metered("own", "globex", "box-1", for_ms=30 * MINUTE_MS))).status_code == 200
        assert (await globex.post("/preview", metered("", "globex", "box-2") | {"key": None})).status_code in (200, 422)
        taken = await globex.post("", metered("again", "globex", "box-1"))
        assert refused(taken) == (409, "sandbox_taken") and "own" in taken.text

    served(shared, work)
    fleet = shared.fleet
    for minute in range(3):
        fleet.sample("globex", fleet.clock.at_ms + minute * MINUTE_MS, sandbox="box-1")
    fleet.sample("acme", fleet.clock.at_ms, sandbox="its-own")
    fleet.tick_windows(3)
    rows = fleet.rows("SELECT reservation, drawn_micro FROM reservations")
    drawn = sorted((own_keys.strip_own_prefix(str(name)), micro) for name, micro in rows)
    assert drawn == [("own", 18_000), ("squat", 0)]
    assert read(fleet.engine, verify).breaches == []


def test_open_metered_executions_of_wallet_are_bounded(shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "MOST_METERED", 3)

    async def work(caller: Caller) -> None:
        acme, globex = Program(caller, key_of("a")), Program(caller, key_of("g"))
        for number in range(3):
            order = metered(f"m{number}", "acme", f"box-{number}", for_ms=(number + 1) * MINUTE_MS)
            assert (await acme.post("", order)).status_code == 200
        more = await acme.post("", metered("m3", "acme", "box-3"))
        assert refused(more) == (409, "too_many_executions") and "has 3 open executions" in more.text
        asked = (
            await acme.post("/preview", {k: v for k, v in metered("", "acme", "box-3").items() if k != "key"})
        ).json()
        assert (asked["allowed"], asked["code"], asked["step"]) == (False, "too_many_executions", "account")
        assert (await acme.accept("receipt", 1)).status_code == 200, "receipts are looked at by nobody"
        assert (await globex.post("", metered("theirs", "globex", "box-3"))).status_code == 200
        assert (await acme.post("/m1/settle")).status_code == 200
        assert (await acme.post("", metered("m3", "acme", "box-3"))).status_code == 200
        assert refused(await acme.post("", metered("m4", "acme", "box-4"))) == (409, "too_many_executions")
        shared.clock.at_ms += 2 * MINUTE_MS  # the first is over
        assert (await acme.post("", metered("m4", "acme", "box-4"))).status_code == 200

    served(shared, work)
    assert read(shared.fleet.engine, verify).breaches == []


def test_query_parameter_count_is_bounded(shared: House) -> None:
    async def work(caller: Caller) -> None:
        acme = Program(caller, key_of("a"))
        assert (await acme.get("/executions?" + "&".join(["state=held"] * MOST_PARAMETERS))).status_code == 200
        for query in ("&".join(["state=held"] * (MOST_PARAMETERS + 1)), "&" * MOST_PARAMETERS):
            answer = await acme.get(f"/executions?{query}")
            assert refused(answer) == (422, "bad_value") and f"at most {MOST_PARAMETERS} are allowed" in answer.text
        assert refused(await acme.get("/executions?org_id=acme&org=acme")) == (422, "bad_value")
        assert refused(await acme.get("/executions?what=ever")) == (422, "bad_value")

    served(shared, work)


TAKEN_AS_TEXT = (
    "/accounts/acme/ledger?after=", "/accounts/acme/statement?month=", "/accounts/acme/lots?most=",
    "/executions?project=", "/executions?state=", "/executions?after=", "/executions/ours?most=",
    "/settlements?org_id=",
    "/settlements/ours?most=",
)  # fmt: skip


def test_query_value_with_control_character_is_refused(shared: House) -> None:
    async def work(caller: Caller) -> None:
        acme = Program(caller, key_of("a"))
        assert (await acme.accept("ours", 1)).status_code == 200
        for path in TAKEN_AS_TEXT:
            for value in ("%00", "a%00b", "%1b%5b2J", "%7f", "%ff", "%ED%A0%80", "%0a"):
                assert refused(await acme.get(path + value)) == (422, "bad_value"), path + value

    served(shared, work)


def test_path_id_with_encoded_slash_is_part_of_id(shared: House) -> None:
    give(shared, "acme/ledger", 7)
    make_key(shared, "slash", *RUNS, org="acme/ledger")

    async def work(caller: Caller) -> None:
        acme, slash, anybody = (Program(caller, key_of(name)) for name in ("a", "slash", "any"))
        assert (await slash.get("/accounts/acme%2Fledger")).json()["balance"] == 7
        assert (await anybody.get("/accounts/acme%2fledger")).json()["org_id"] == "acme/ledger"
        assert refused(await acme.get("/accounts/acme%2Fledger")) == (403, "foreign_org")
        assert refused(await acme.get("/accounts/acme%2Flots")) == (403, "foreign_org")
        found = (await slash.get("/accounts/acme%2Fledger/ledger")).json()
        assert (found["org_id"], len(found["entries"])) == ("acme/ledger", 1)
        assert (await acme.get("/accounts/acme/ledger")).json()["org_id"] == "acme"
        assert (await acme.get("/%61ccounts/acm%65")).json()["org_id"] == "acme", "plain in another spelling"
        assert (await acme.accept("e", 1)).status_code == 200
        answer = await acme.caller.send("POST", "/v1/executions/e%2Fsettle", b'{"actual": 1}', acme.headers())
        assert answer.status_code == 405, "a run named e/settle, of which nothing is asked"
        assert (await acme.get("/executions/e")).json()["state"] == "held"
        assert refused(await acme.get("/executions/e%ff")) == (422, "bad_value")
        assert (await acme.get("/executions/e%252Fsettle")).status_code == 404

    served(shared, work)
