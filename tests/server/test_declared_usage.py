"""Usage that is wrong, corrected over HTTP: backfills, pushes, samples, batches, providers; each is tried out first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.declare import Action, Invocation, More
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MAX_AMOUNT_MICRO, MICRO, WINDOW_MS
from drawdown.server.declarations import ACTIONS
from drawdown.worker.features import actions as features
from drawdown.worker.provider import actions as providers
from drawdown.worker.usage import backfills
from drawdown.worker.wallets import actions as credit
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.server.test_declared import WRITERS, send
from tests.world import T0


def facts_of(answer: Any) -> dict[str, tuple[str, str]]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: (one["before"], one["after"]) for one in answer.json()["facts"]}


@pytest.fixture
def office(lone: House) -> House:
    """acme, with 100 credits, of whose events each costs a credit."""
    give(lone, "acme")
    give(lone, "globex")
    make_key(lone, "app", *WRITERS, gives_micro=MAX_AMOUNT_MICRO)
    make_key(lone, "small", *WRITERS, gives_micro=MICRO)
    make_key(lone, "bound", *WRITERS, org="acme")
    engine, by = lone.fleet.engine, lone.fleet.by
    write(engine, lambda c: features.map_event(c, "page.render", "render", by, new=True))
    write(engine, lambda c: credit.set_rate(c, "render", MICRO, 1, by, from_ms=0))
    lone.clock.at_ms = lone.fleet.clock.at_ms = T0 + DAY_MS
    return lone


def staged(house: House, units: int) -> None:
    event = UsageEvent("/web", "e-1", "page.render", "acme", units, T0)
    write(house.fleet.engine, lambda c: backfills.stage(c, "june", [event], house.clock.at_ms))


def test_backfill_over_http_is_opened_closed_and_reverted(office: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        path, order = "/v1/backfills/june", {"org_id": "acme", "from_ms": T0, "to_ms": T0 + WINDOW_MS}
        assert refused(await send(bound, path, order | {"org_id": "globex"})) == (403, "foreign_org")
        assert (await send(bound, path, order)).json()["state"] == "open"
        await asyncio.to_thread(staged, office, 3)
        found = (await bound.get("/backfills/june")).json()
        assert (found["price"], found["counts"], found["lines"][0]["price_micro"]) == (3, {"new": 1}, 3 * MICRO)
        wrong = await send(app, f"{path}/close", {"hash": "0"})
        assert refused(wrong) == (409, "refused")
        done = await send(app, f"{path}/close", {"hash": found["hash"]}, **{"idempotency-key": "close"})
        assert (done.json()["state"], done.json()["events"], done.json()["price"]) == ("closed", 1, 3)
        assert [one["backfill"] for one in (await bound.get("/backfills")).json()["backfills"]] == ["june"]
        tried = facts_of(await send(app, f"{path}/revert", {"dry_run": True}))
        assert tried["Worth"] == ("3.00 credits", "no usage")
        assert tried["Organisations"] == ("1: acme", "none")
        assert tried["From"][0] == "2026-01-01T00:00:00Z" and tried["State"] == ("closed", "reverted")
        assert (await app.get("/backfills/june")).json()["withdrawn"] == 0, "nothing was changed"
        assert refused(await send(Program(caller, key_of("small")), f"{path}/revert", {})) == (403, "grant_limit")
        with monkeypatch.context() as patched:
            patched.setattr(Action, "fits", lambda *_: False)
            large = await send(app, f"{path}/revert", {})
        assert refused(large) == (409, "refused") and "`drawdown backfill revert june`" in large.text
        assert "POST" not in large.text, "a second call would be refused, too"
        assert (await send(app, f"{path}/revert", {})).json() == {"backfill": "june", "was": "closed", "withdrawn": 1}
        make_key(office, "other", *WRITERS, org="globex")
        other = Program(caller, key_of("other"))
        hidden, nowhere = [await other.get(f"/backfills/{name}") for name in ("june", "july")]
        assert refused(hidden) == (422, "unknown_backfill")
        assert hidden.text.replace("june", "july") == nowhere.text and "acme" not in hidden.text
        taken = await send(other, path, order | {"org_id": "globex"})
        assert refused(taken) == (409, "refused") and "Choose another name" in taken.text
        assert "acme" not in taken.text

    served(office, work)


def test_batched_action_too_large_for_http_is_refused(office: House) -> None:
    by, engine = office.fleet.by, office.fleet.engine
    write(engine, lambda c: backfills.open_backfill(c, "june", "acme", T0, T0 + WINDOW_MS, by))
    staged(office, 3)
    write(engine, lambda c: backfills.close(c, "june", backfills.diff(c, "june").hash, by))
    action, values = replace(ACTIONS["backfill revert"], at_once=1), {"backfill": "june"}
    assert read(engine, lambda c: action.fits(c, Invocation(by), values))
    small = replace(action, size=lambda c, asked, values: replace(action.size(c, asked, values), rows=2))
    with pytest.raises(Refused, match=r"more than 1 rows.*`drawdown backfill revert june`"):
        write(engine, lambda c: small.whole(c, Invocation(by), values))
    assert read(engine, lambda c: backfills.show_backfill(c, "june")).state == "closed"


def test_batched_action_over_http_runs_all_steps_in_single_call() -> None:
    taken: list[object] = []

    def do(_connection: sa.Connection, asked: Invocation, **_values: object) -> object:
        taken.append(asked.state)
        return More(len(taken)) if len(taken) < 3 else "done"

    action = replace(ACTIONS["backfill revert"], do=do, at_once=0)
    assert action.whole(None, Invocation(None), {}) == "done" and taken == [None, 1, 2]  # type: ignore[arg-type]


@pytest.fixture
def rejected(office: House) -> House:
    """A push of acme's hour that its provider refused."""
    return with_rejected(office, "acme")


def with_rejected(office: House, *orgs: str) -> House:
    for org in orgs:
        office.fleet.sample(org, T0 + 1, interval_s=60)
    write(office.fleet.engine, lambda c: providers.pause(c, "embedded", office.fleet.by))
    office.fleet.tick(T0 + 2 * DAY_MS)
    office.clock.at_ms = office.fleet.clock.at_ms
    office.fleet.write("UPDATE pushes SET state = 'rejected', last_error = 'no such meter'")
    return office


NAMED: Final = "SELECT 'usage:' || org_id || ':' || window_ms || ':' || feature FROM pushes"


def test_push_void_over_http_needs_evidence_and_runs_once(rejected: House) -> None:
    keys = [str(row[0]) for row in rejected.fleet.rows(NAMED)]

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        path, order = "/v1/pushes/void", {"keys": keys, "evidence": "their dashboard"}
        tried = facts_of(await send(app, path, {**order, "dry_run": True}))
        assert tried["Organisations"][0] == "1: acme" and tried["Used from"][0] == "2026-01-01T00:00:00Z"
        assert "credits" in tried["Worth"][0] and tried[keys[0]] == ("rejected", "voided")
        assert refused(await send(app, path, {"keys": keys})) == (422, "bad_value"), "without evidence"
        assert refused(await send(app, path, {**order, "expect": 7})) == (409, "refused")
        calls = [send(app, path, order, **{"idempotency-key": "void-1"}) for _ in range(4)]
        answers = await asyncio.gather(*calls)
        assert {answer.text for answer in answers} == {answers[0].text}
        assert answers[0].json()["pushes"] == keys and answers[0].json()["effect"]["orgs"] == 1
        found = (await bound.get("/pushes?state=voided")).json()["pushes"]
        assert [one["key"] for one in found] == keys
        assert (await bound.get(f"/pushes/{keys[0]}")).json()["void"]["evidence"] == "their dashboard"

    served(rejected, work)


PUSH_ACTS: Final[dict[str, dict[str, str]]] = {
    "retry": {},
    "void": {"evidence": "their dashboard"},
    "resolve": {"evidence": "their dashboard", "outcome": "absent"},
}


@pytest.mark.parametrize("act", PUSH_ACTS)
def test_push_action_by_bound_key_on_another_org_is_unknown_push(office: House, act: str) -> None:
    rejected = with_rejected(office, "acme", "globex")
    make_key(office, "mine", *WRITERS, org="acme", gives_micro=MAX_AMOUNT_MICRO)
    own = str(rejected.fleet.one(f"{NAMED} WHERE org_id = 'acme'"))
    foreign, nowhere = own.replace("acme", "globex"), own.replace("acme", "wayne")

    async def work(caller: Caller) -> None:
        bound, path, more = Program(caller, key_of("mine")), f"/v1/pushes/{act}", PUSH_ACTS[act]
        said = []
        for key in (foreign, nowhere):
            for dry_run in (False, True):
                answer = await send(bound, path, {"keys": [own, key], "dry_run": dry_run, **more})
                assert refused(answer) == (422, "unknown_push"), answer.text
                said.append(answer.text.replace(key, "KEY"))
        assert len(set(said)) == 1 and "To list those of acme" in said[0], said
        assert refused(await send(bound, path, {"keys": [], **more})) == (422, "bad_value"), "not all of acme's"
        near = [(await bound.get(f"/pushes/{key}")).text.replace(key, "KEY") for key in (foreign, nowhere, f"{own}:r9")]
        assert near == [said[0]] * 3, near
        assert refused(await send(bound, path, {"keys": [own], "provider": "embedded", **more})) == (422, "bad_value")
        tried = facts_of(await send(bound, path, {"keys": [own], "dry_run": True, **more}))
        assert tried["Organisations"][0] == "1: acme"
        done = await send(bound, path, {"keys": [own], **more})
        assert done.status_code == 200 and done.json()["pushes"] == [own], done.text

    served(rejected, work)
    assert rejected.fleet.one("SELECT state FROM pushes WHERE org_id = 'globex'") == "rejected"


@pytest.mark.both_databases
def test_sample_action_by_bound_key_on_another_org_is_unknown_sample(office: House) -> None:
    for org in ("acme", "globex"):
        office.fleet.sample(org, T0 // 1000, interval_s=60, sample_id=f"{org}-1")
        office.fleet.sample(org, T0 // 1000 + 60, interval_s=60, sample_id=f"{org}-2")
    office.fleet.tick(T0 + 2 * DAY_MS)
    office.clock.at_ms = office.fleet.clock.at_ms

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        dismiss, repair = "/v1/samples/dismiss", "/v1/samples/repair"
        assert (await send(app, dismiss, {"ids": ["globex-2"]})).status_code == 200
        undone: dict[str, object] = {"undo": True}
        for path, name, more in ((dismiss, "globex-1", {}), (repair, "globex-1", {}), (dismiss, "globex-2", undone)):
            said = []
            assert refused(await send(bound, path, {"ids": [], **more})) == (422, "bad_value"), "not all of acme's"
            for one in (name, "nowhere"):
                for dry_run in (False, True):
                    answer = await send(bound, path, {"ids": [one], "dry_run": dry_run, **more})
                    assert refused(answer) == (422, "unknown_sample"), answer.text
                    said.append(answer.text.replace(one, "ID"))
            assert len(set(said)) == 1, said
        assert refused(await send(bound, dismiss, {"ids": ["acme-1"], "from_ms": 0})) == (422, "bad_value")
        tried = facts_of(await send(bound, dismiss, {"ids": ["acme-1"], "dry_run": True}))
        assert tried["Quarantined"] == ("1", "0")
        for undo in (False, True):
            done = await send(bound, dismiss, {"ids": ["acme-1"], "undo": undo})
            assert done.status_code == 200 and done.json()["dismissed"] == ["acme-1"], done.text
        fixed = await send(bound, repair, {"ids": ["acme-1"]})
        assert [one["new_id"] for one in fixed.json()["repaired"]] == ["acme-1:fixed"], fixed.text

    served(office, work)
    rows = office.fleet.rows("SELECT sample_id FROM quarantine_closed ORDER BY sample_id")
    assert [str(row[0]) for row in rows] == ["acme-1", "globex-2"]


def test_provider_pause_over_http_previews_effect_and_can_be_undone(office: House) -> None:
    async def work(caller: Caller) -> None:
        app, path = Program(caller, key_of("app")), "/v1/providers/embedded/pause"
        tried = facts_of(await send(app, path, {"dry_run": True, "reason": "their incident"}))
        assert tried["Receives usage"][0] == "yes" and tried["Receives usage"][1].startswith("no: paused since")
        assert tried["Organisations"] == ("2: acme, globex", "2: acme, globex")
        assert (await send(app, path, {"reason": "their incident"})).json()["paused"] is True
        row = (await app.get("/providers/embedded")).json()
        assert (row["state"], row["orgs"]) == ("paused", 2) and "their incident" in row["why"]
        assert (await send(app, path, {"undo": True})).json()["paused"] is False
        assert refused(await send(app, path, {"undo": True})) == (409, "refused")
        assert refused(await send(app, "/v1/providers/embeded/pause", {})) == (422, "unknown_provider")
        policy = {"policy": "stop", "dry_run": True}
        tried = facts_of(await send(app, "/v1/providers/embedded/when-down", policy))
        assert tried["Every other plan"] == ("estimate", "stop") and tried["Charges"][0] == "no credits change"

    served(office, work)


def test_sample_withdraw_and_project_block_over_http_take_effect(rejected: House) -> None:
    ((sample,),) = rejected.fleet.rows("SELECT id FROM usage_samples")

    async def work(caller: Caller) -> None:
        app, bound = Program(caller, key_of("app")), Program(caller, key_of("bound"))
        assert refused(await send(bound, "/v1/samples/withdraw", {"ids": [sample]})) == (403, "foreign_org")
        listed = (await bound.get(f"/samples?from_ms={T0}")).json()["samples"]
        assert [one["sample_id"] for one in listed] == [sample]
        tried = facts_of(await send(app, "/v1/samples/withdraw", {"ids": [sample], "dry_run": True}))
        assert tried["Samples"] == ("1", "0")
        done = (await send(app, "/v1/samples/withdraw", {"ids": [sample]})).json()
        assert [one["already"] for one in done["withdrawn"]] == [False]
        order = {"project": "site", "new": True}
        assert (await send(bound, "/v1/orgs/acme/block", order)).json()["blocked"] is True
        audit = (await app.get("/audit?action=sample_withdraw")).json()["actions"]
        assert [(one["actor"], one["target"]) for one in audit] == [("key:app", sample)]

    served(rejected, work)
