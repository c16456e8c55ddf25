"""The ways out of a block: which are open, why not, and the call that takes each, tried."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from drawdown.ledger import pools
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO
from drawdown.server.settings import MySettings
from drawdown.worker.guard import options as guard_options
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.wallets import actions as credit
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.world import T0

ALL: Final = ("top_up", "sponsor", "request_override", "run_locally")
Options = Callable[..., Awaitable[Any]]


def with_options(
    house: House, work: Callable[[Options, Program], Awaitable[None]], *, price: int = 2, phase: int = 3, **more: Any
) -> None:
    """acme has 3 credits; `idea` costs 2, and is allowed twice a month."""
    give(house, "acme", 3)
    give(house, "wayne", 50)
    by, engine = house.fleet.by, house.fleet.engine
    change = Change(price_micro=price * MICRO, phase=phase)
    write(engine, lambda c: guard_terms.set_metric(c, "idea", change, by))
    write(engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea", "*", "month", 2), by))
    make_key(house, "app", "guard", **more)

    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of("app"))

        async def options(query: str = "metric=idea", org: str = "acme") -> Any:
            answer = await caller.send("GET", f"/v1/guard/{org}/options?{query}", headers=program.headers())
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert [one["option"] for one in found["options"]] == list(ALL), "always all of them, in one order"
            return {**found, **{one["option"]: one for one in found["options"]}}

        await work(options, program)

    served(house, whole)


async def send(program: Program, call: Any, **more: Any) -> Any:
    """As an answer says it."""
    body = json.dumps({**call["body"], **more}).encode()
    return await program.caller.send(call["method"], call["path"], body, program.headers())


def closed(found: Any) -> dict[str, str]:
    return {name: found[name]["code"] for name in ALL if not found[name]["open"]}


def test_guard_options_without_block_are_not_blocked(house: House) -> None:
    async def work(options: Options, _: Program) -> None:
        found = await options()
        assert (found["decision"], closed(found)) == ("allow", dict.fromkeys(ALL, "not_blocked"))

    with_options(house, work)


@pytest.mark.both_databases
def test_guard_options_sponsor_call_is_charged_to_sponsor(house: House) -> None:
    async def work(options: Options, program: Program) -> None:
        assert (await send(program, {"method": "POST", "path": "/v1/guard/consume", "body": {}},
                           key="k0", org_id="acme", metric="idea")).json()["decision"] == "allow"  # fmt: skip
        found = await options()
        assert (found["decision"], found["rule"]) == ("block", "credits")
        assert closed(found) == {"sponsor": "no_sponsor", "request_override": "not_limit"}
        assert (found["top_up"]["missing"], found["top_up"]["command"]) == (1, "drawdown ledger grant acme AMOUNT")
        assert found["top_up"]["link"] is None, "there is no page of theirs here"
        assert found["sponsor"]["command"] == "drawdown payer allow PAYER acme"
        by, engine = house.fleet.by, house.fleet.engine
        write(engine, lambda c: pools.say(c, "wayne", "acme", by, allowed=True, limit_micro=MICRO))
        assert closed(await options())["sponsor"] == "sponsor_short", "it pays less than this costs"
        write(engine, lambda c: pools.say(c, "wayne", "acme", by, allowed=True, limit_micro=9 * MICRO))
        halted = "UPDATE orgs SET is_halted = {}, halted_at = {}, halt_reason = {} WHERE org_id = 'acme'"
        house.fleet.write(halted.format("true", T0, "'credits_exhausted'"))
        assert "acme is halted" in (await options())["sponsor"]["description"], "a top-up of wayne would not help"
        house.fleet.write(halted.format("false", "NULL", "NULL"))
        found = await options()
        assert found["sponsor"]["payers"] == ["wayne"]
        done = (await send(program, found["sponsor"]["call"], key="k1")).json()
        assert (done["decision"], done["charged"], done["payer"]) == ("warn", 2, "wayne")
        write(engine, lambda c: pools.say(c, "wayne", "acme", by, allowed=False))
        assert closed(await options("metric=idea&quantity=1"))["sponsor"] == "not_credit", "now it is the limit"
        with pytest.raises(AssertionError, match="422"):
            await options("metric=idea&quantity=0")

    with_options(house, work)


def test_guard_options_top_up_for_payer_not_allowed_is_closed(house: House) -> None:
    async def work(options: Options, _: Program) -> None:
        found = await options("metric=idea&payer=wayne")
        assert (found["decision"], found["rule"], found["reason"]) == ("block", "credits", "payer_not_allowed")
        assert closed(found)["top_up"] == "not_credit" and found["top_up"]["command"] is None, found["top_up"]

    with_options(house, work)


def test_guard_options_missing_amount_when_granted_allows_use(house: House) -> None:
    async def work(options: Options, _: Program) -> None:
        found = await options("metric=idea&quantity=2")
        missing = found["top_up"]["missing_micro"]
        assert missing == MICRO
        by = house.fleet.by
        write(house.fleet.engine, lambda c: credit.grant(c, "acme", missing - 1, by, key="a", plan=None))
        assert (await options("metric=idea&quantity=2"))["decision"] == "block"
        write(house.fleet.engine, lambda c: credit.grant(c, "acme", 1, by, key="b", plan=None))
        assert (await options("metric=idea&quantity=2"))["decision"] != "block"

    with_options(house, work)


def test_guard_options_requested_override_once_approved_allows_use(house: House) -> None:
    async def work(options: Options, program: Program) -> None:
        found = await options("metric=idea&quantity=5")
        assert closed(found) == {"top_up": "not_credit", "sponsor": "not_credit"}
        assert found["request_override"]["call"]["body"]["amount"] == 5
        assert found["request_override"]["command"] == (
            "drawdown override ask idea 5 --per month --org acme --expires 2026-02-01T00:00:00Z"
        )
        asked = (await send(program, found["request_override"]["call"], reason="a workshop")).json()
        assert (asked["state"], asked["ends_ms"] > house.clock.at_ms) == ("asked", True)
        found = await options("metric=idea&quantity=5")
        assert (found["request_override"]["pending_requests"], found["request_override"]["open"]) == (1, True)
        assert found["request_override"]["command"] == "drawdown override list --metric idea"
        write(house.fleet.engine, lambda c: guard_overrides.decide(c, asked["number"], "approve", house.fleet.by))
        assert (await options("metric=idea&quantity=5"))["decision"] == "warn", "all of it is used then"

    with_options(house, work, price=0)


def test_guard_options_override_without_entitlement_includes_earlier_use(house: House) -> None:
    async def work(options: Options, program: Program) -> None:
        by, engine = house.fleet.by, house.fleet.engine
        write(engine, lambda c: guard_terms.set_metric(c, "draft", Change(phase=1), by))
        use = {"key": "k0", "org_id": "acme", "metric": "draft", "quantity": 7}
        call = {"method": "POST", "path": "/v1/guard/consume", "body": use}
        assert (await send(program, call)).json()["decision"] == "warn"
        write(engine, lambda c: guard_terms.set_metric(c, "draft", Change(phase=3), by))
        found = await options("metric=draft&quantity=5")
        assert (found["decision"], found["reason"]) == ("block", "no_entitlement")
        asked = (await send(program, found["request_override"]["call"])).json()
        assert (asked["period"], asked["amount"]) == ("month", 12)
        write(engine, lambda c: guard_overrides.decide(c, asked["number"], "approve", by))
        assert (await options("metric=draft&quantity=5"))["decision"] != "block"

    with_options(house, work)


def test_guard_options_after_most_override_requests_is_closed(house: House) -> None:
    async def work(options: Options, program: Program) -> None:
        found = (await options("metric=idea&quantity=5"))["request_override"]["call"]
        for amount in range(guard_overrides.MOST_ASKED):
            assert (await send(program, found, amount=amount)).status_code == 200
        found = await options("metric=idea&quantity=5")
        assert (found["request_override"]["code"], found["request_override"]["call"]) == ("too_many_asked", None)

    with_options(house, work)


def test_guard_options_of_org_halted_by_operator_are_closed(house: House) -> None:
    async def work(options: Options, _: Program) -> None:
        write(house.fleet.engine, lambda c: orgs.halt(c, ["acme"], house.fleet.by))
        found = await options()
        assert (found["rule"], closed(found)) == ("operator", dict.fromkeys(ALL, "operator"))

    with_options(house, work)


def test_guard_options_in_silent_phase_show_options_of_would_be_block(house: House) -> None:
    async def work(options: Options, _: Program) -> None:
        found = await options("metric=idea&quantity=3")
        assert (found["decision"], found["would"], found["request_override"]["open"]) == ("allow", "block", True)

    with_options(house, work, phase=0)


def test_guard_options_top_up_link_is_customer_page(house: House) -> None:
    house.settings = type(house.settings)(
        **{**vars(house.settings), "console_url": "https://d.test", "my": MySettings(secrets=("x" * 32,))}
    )
    house.server = house.another()

    async def work(options: Options, _: Program) -> None:
        assert (await options("metric=idea&quantity=2"))["top_up"]["link"] == "https://d.test/my/usage"

    with_options(house, work)


def test_guard_options_bound_key_is_limited_to_own_org_without_suggestions(house: House) -> None:
    async def work(_: Options, program: Program) -> None:
        async def ask(org: str, query: str) -> Any:
            return await program.caller.send("GET", f"/v1/guard/{org}/options?{query}", headers=program.headers())

        assert refused(await ask("wayne", "metric=idea")) == (403, "foreign_org")
        unknown = await ask("acme", "metric=ideaa")
        assert refused(unknown) == (404, "unknown_metric") and "did you mean" not in unknown.text
        assert refused(await ask("acme", ""))[0] == 422
        assert refused(await ask("acme", "metric=idea&more=1"))[0] == 422

    with_options(house, work, org="acme")


@pytest.mark.parametrize("most_sponsors", [0, 5])
def test_guard_options_sponsor_beside_present_payer_is_open(house: House, most_sponsors: int) -> None:
    by, engine = house.fleet.by, house.fleet.engine
    give(house, "apex", 1)

    async def work(_: Options, __: Program) -> None:
        write(engine, lambda c: guard_terms.set_metric(c, "idea", Change(payer="apex"), by))
        for name in ("apex", "wayne"):
            write(engine, lambda c, n=name: pools.say(c, n, "acme", by, allowed=True))  # type: ignore[misc]
        wish = guard_terms.Wish("acme", "idea", 1)
        found = read(engine, lambda c: guard_options.ways_out(c, wish, house.clock.at_ms, most_sponsors))
        assert (found.answer.rule, found.answer.payer) == ("credits", "apex")
        assert [way.code for way in found.ways if way.option == "sponsor"] == [None], "wayne can pay"

    with_options(house, work)


def test_guard_options_sponsor_list_is_bounded(house: House) -> None:
    names = [f"s-{number}" for number in range(guard_options.MOST_SPONSORS + 2)]

    async def work(options: Options, _: Program) -> None:
        for name in names:
            give(house, name, 50)
            write(house.fleet.engine, lambda c, n=name: pools.say(c, n, "acme", house.fleet.by, allowed=True))  # type: ignore[misc]
        found = await options("metric=idea&quantity=2")
        assert found["sponsor"]["payers"] == names[: guard_options.MOST_SPONSORS]

    with_options(house, work)
