"""Credits: costs that a provider tells and changes, and a push that waits until its customer has credit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import CustomerState, Part
from drawdown.schema.database import read, write
from drawdown.worker.catalog.costs import read_pools
from drawdown.worker.engine.effects import Steps
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.evidence import Balances, drawn_of, read_accounted, read_balances
from drawdown.worker.push.push import push
from drawdown.worker.push.void import bill_again
from drawdown.worker.seal import stops
from drawdown.worker.verdict import refresh_requests as verdict_asks
from drawdown.worker.verdict.costs import learn_costs
from drawdown.worker.verdict.project import project
from tests.interleave.of_steps import WITHOUT
from tests.interleave.party import Act, Check, Party, plain, rest, step
from tests.interleave.stage import AWAITS, COST, NOW, Stage

OTHER_COST: Final = replace(COST, credits=Decimal("0.0048"))
POOR: Final = ("poor", COST.balance)
TOPUP: Final = Part(COST.balance, "top-up", Decimal(5))
VOIDED: Final = f"voids x JOIN pushes p USING (window_ms, org_id, feature, revision) WHERE p.key = '{AWAITS}'"


def _asked(stage: Stage) -> None:
    write(stage.engine, lambda c: verdict_asks.mark_for_projection(c, ["poor"], stage.clock.now_ms()))


def _has_credit(stage: Stage) -> None:
    """A read has shown it."""
    _asked(stage)
    stage.walk(project(stage.context(WITHOUT), "bank")).rest(stage.engine)


def _costs_change(stage: Stage) -> None:
    """Some while after they were learned."""
    stage.bank.costs_say = (OTHER_COST,)


def _learns(stage: Stage) -> Steps[Any]:
    return learn_costs(stage.context(WITHOUT), "bank")


def _bills(stage: Stage) -> Steps[Any]:
    return bill_again(stage.context(WITHOUT))


def _tops_up(stage: Stage) -> None:
    """What is granted once is shown by the read whose verdict is written."""
    stage.bank.states["poor"] = CustomerState(None, None, None, parts=(TOPUP,))
    _asked(stage)


def _learns_late(stage: Stage) -> Act:
    """What was asked ten seconds before all others, and before the cost changed, is stored now."""
    says, now = stage.bank.costs_say, stage.clock.at_ms
    stage.bank.costs_say, stage.clock.at_ms = (COST,), now - 10_000
    walk = stage.walk(_learns(stage))
    walk.until("learn_costs", stage.engine)
    stage.bank.costs_say, stage.clock.at_ms = says, now
    return Act(walk.one, lambda engine: rest(stage, walk, engine))


def _learned_once(stage: Stage) -> Iterator[str]:
    """The cost in force is the provider's, which changes once at most, so that each is learned once; and balances agree
    with the charges."""
    pools = read(stage.engine, lambda c: read_pools(c, "bank"))
    told = [cost.credits for cost in pools.reported_costs() if cost.feature == COST.feature]
    says = stage.bank.costs_say
    if told[-1] != says[0].credits or len(told) != len(set(told)):
        yield f"the costs {told} were learned, and {says[0].credits} is told"
    yield from _drawn_as_charged(stage)


def _drawn_as_charged(stage: Stage) -> Iterator[str]:
    """A comparison of the balance in credits tells nobody of a difference: what was charged is known, at its cost."""
    found: Balances = stage.walk(read_balances("bank", ["poor"], stage.clock.now_ms())).rest(stage.engine)
    compared = partial(read_accounted, provider="bank", pairs=[POOR], balances=found)
    level = drawn_of(found, POOR)
    beyond = None if level is None else read(stage.engine, compared)[POOR].beyond(level)
    if beyond is None or not beyond[0] <= 0 <= beyond[1]:
        yield f"the credits of poor were drawn on by {beyond} beyond what was charged: {level}"


def _billed_again_once(stage: Stage) -> Iterator[str]:
    """It was voided no more than once, on record, and in the end its window was charged once."""
    yield from _stays(stage)
    charged = sum(key.split(":r")[0] == AWAITS for key in stage.bank.charged)
    at_bank = stage.rows("SELECT 1 FROM orgs WHERE org_id = 'poor' AND billing_provider = 'bank'")
    if at_bank and charged != 1:
        yield f"{AWAITS} was charged {charged} times"


def _stays(stage: Stage) -> Iterator[str]:
    """Of one that was voided, the push is void; of one that a person decided about, it is what was said."""
    voids, state = stage.rows(f"SELECT 1 FROM {VOIDED}"), stage.rows(f"SELECT state FROM pushes WHERE key = '{AWAITS}'")
    if len(voids) > 1 or (bool(voids) != (state[0][0] == "voided")):
        yield f"{AWAITS} is {state[0][0]}, and was voided {len(voids)} times"


def _as_said(stage: Stage) -> Iterator[str]:
    """Whoever was told that it is accepted finds it accepted, and nothing was charged in its place."""
    ((state,),) = stage.rows(f"SELECT state FROM pushes WHERE key = '{AWAITS}'")
    if state != "accepted":
        yield f"a person resolved {AWAITS} as accepted, and it is {state}"
    yield from _billed_again_once(stage)


def _resolved(stage: Stage) -> Act:
    """And billed by hand, once Drawdown took the word."""

    def by_hand(_engine: sa.Engine) -> None:
        sent = next(one for one in stage.bank.seen if one.key == AWAITS)
        stage.bank.charged[AWAITS] = sent
        stage.bank.drew[AWAITS] = COST.credits * sent.quantity

    said = partial(pushes.resolve_accepted, keys=[AWAITS], by=stage.by, evidence="billed by hand")
    return Act(lambda engine: write(engine, said), by_hand)


def _of_who_waits(name: str, work: Any) -> Party:
    """What a person does about it once a read has shown credit."""
    return plain(f"{name} what waits for credit", work, _billed_again_once)


def _with_check(party: Party, check: Check) -> Party:
    return replace(party, check=check)


CREDITS: Final = (
    _with_check(step("learn_costs", _learns), _learned_once),
    _with_check(step("learn_costs that changed", _learns, _costs_change), _learned_once),
    Party("learn_costs asked before", _learns_late, _learned_once),
    _with_check(step("bill_again", _bills, _has_credit), _billed_again_once),
    step("note_parts", lambda s: push(s.context(WITHOUT), "bank"), _tops_up),
    step("settle in credits", lambda s: push(s.context(WITHOUT), "bank"), _tops_up),
    step("project a part", lambda s: project(s.context(WITHOUT), "bank"), _tops_up),
    _of_who_waits("cli.declared:run push void", lambda s, c: pushes.void(c, [AWAITS], s.by, "their console")),
    _of_who_waits("cli.declared:run push retry", lambda s, c: pushes.retry(c, [AWAITS], s.by)),
    Party("cli.declared:run push resolve what waits for credit", _resolved, _as_said),
    plain(
        "stop_org who waits for credit",
        lambda s, c: stops.stop_org(c, org_id="poor", reason="bad", now_ms=NOW, actor="somebody"),
        _billed_again_once,
    ),
)
