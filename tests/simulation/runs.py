"""A product runs things on credit: it asks, draws, extends, settles and releases, and gives calls again.

Guarantee: what each answer has to be is worked out here, from entries and from what the product was told before, not
from the wallets' held sums. What was lost with the database is done again like people's decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied, Overage
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.wallets import actions as credit
from tests.simulation.actions import ORGS, Action
from tests.simulation.oracle import Run
from tests.simulation.world import World

SIZES: Final = (40, 700, 9_000, 200_000)
"""Micro-credits: from less than a minute's usage to more than most wallets have."""
ALL: Final = 1
"""Of what a run asks for: as much as there is free."""
LIVES_MS: Final = (10 * MINUTE_MS, 60 * MINUTE_MS, DAY_MS)
PAYS: Final = 0.6
WAITS: Final = 0.8
"""How often who is halted pays, and asks later."""
RUNNERS: Final = 3
"""Organisations that run something, and pay ahead for it; the others' credit goes on running out."""
AGAIN: Final = 0.2
"""How often an answer is lost, and the call made again."""


def start(world: World) -> str | None:
    """A run is asked for."""
    org = world.rng.choice(ORGS[:RUNNERS])
    biller = world.oracle.assigned(org, world.time.now)
    known = world.rows("SELECT 1 FROM assignments WHERE org_id = :org", org=org)
    if biller is None or biller.provider != EMBEDDED or not biller.customer or not known:
        return None
    key = f"run{world.effects}:{world.rng.randrange(1 << 30)}"
    overages: tuple[Overage, ...] = ("charge", "cap", "refuse")
    overage = world.rng.choice(overages)
    request = Request(org, world.rng.choice((*SIZES, ALL)), overage=overage, for_ms=world.rng.choice(LIVES_MS))
    halted = world.rows("SELECT 1 FROM orgs WHERE org_id = :org AND is_halted", org=org)
    if world.rng.random() < PAYS:
        said = _decide(world, partial(_pay, customer=biller.customer, key=key))
        if halted and world.rng.random() < WAITS:
            return said
    asks = (partial(_start, key=f"{key}.{n}", request=request, customer=biller.customer) for n in range(3))
    return "; ".join(_decide(world, ask) for ask in itertools.islice(asks, world.rng.choice((1, 1, 3))))


def _pay(world: World, *, customer: str, key: str) -> str:
    """Before it runs something: most wallets are empty."""
    amount = world.rng.choice((*SIZES, 3_000_000, 20_000_000))
    world.write(lambda c: credit.grant(c, customer, amount, _by(world), key=f"for {key}", plan=None))
    return f"{customer} gets {amount}"


def _start(world: World, *, key: str, request: Request, customer: str) -> str:
    """Asked again after a restore, it is no run for whoever the seal makes known again only later, and another
    wallet's for whoever was assigned to that meanwhile."""
    now, org = world.time.now, request.org_id
    assigned = "SELECT customer_id FROM assignments WHERE org_id = :org AND start_ms <= :now AND provider = :provider"
    assigned += " AND (end_ms IS NULL OR end_ms > :now)"
    payers = world.rows(assigned, org=org, now=now, provider=EMBEDDED)
    if not payers:
        return f"{org} is not known any more"
    if payers != [(customer,)]:
        return f"{org} is paid for by another wallet now"
    room = _room(world, customer) - _unbilled(world, customer)
    if request.amount_micro == ALL:
        request = replace(request, amount_micro=max(room, ALL))
    known = world.rows("SELECT is_halted OR stopped_at_ms IS NOT NULL FROM orgs WHERE org_id = :o", o=org)
    wallet = world.rows("SELECT 1 FROM ledger_accounts WHERE account_id = :a", a=f"wallet:{customer}")
    assert request.amount_micro is not None
    allowed = bool(wallet) and not (known and known[0][0]) and request.amount_micro <= room
    answer = _call(world, lambda c: executions.accept(c, key, request, _by(world)))
    if isinstance(answer, Denied) == allowed:
        world.breaches.append(f"run: {key} of {request.amount_micro} was {_said(answer)}; {customer} has {room} free")
    if not isinstance(answer, Denied):
        world.faults.note("run_accepted")
        world.oracle.runs[key] = Run(key, customer, request.amount_micro, request.overage, now + (request.for_ms or 0))
    else:
        world.faults.note("run_denied")
    return f"asks to run {key} at {request.amount_micro} of {customer}: {_said(answer)}"


def go_on(world: World) -> str | None:
    """A run draws, grows, or ends."""
    going = [run for run in world.oracle.runs.values() if run.state in ("held", "expired")]
    if not going:
        return None
    run, how = world.rng.choice(going), world.rng.random()
    amount = world.rng.choice((0, run.amount // 3, run.amount, 2 * run.amount))
    if how < 0.4:
        act = partial(_draw, key=run.key, amount=amount)
    elif how < 0.5:
        act = partial(_extend, key=run.key, to=run.amount + amount, for_ms=world.rng.choice(LIVES_MS))
    elif how < 0.85:
        act = partial(_end, key=run.key, amount=amount, state="settled")
    else:
        act = partial(_end, key=run.key, amount=amount, state="released")
    return _decide(world, act)


def end_all(world: World) -> None:
    """Whatever still runs is settled or given up."""
    for run in list(world.oracle.runs.values()):
        if _now_known(world, run).state in ("held", "expired"):
            state = "settled" if run.drawn else "released"
            world.say("world", _end(world, key=run.key, amount=0, state=state))


def _draw(world: World, *, key: str, amount: int) -> str:
    """Its next one: what was refused, and is done again after a restore, may come behind others then."""
    run = _known(world, key)
    if run is None:
        return f"{key} is not known any more"
    number = run.draws
    charged = run.costs(amount) if run.state == "held" else None
    answer = _call(world, lambda c: executions.draw(c, key, number, Cost(amount), _by(world)))
    _judge(world, f"draw {number} of {key}", answer, charged)
    if charged is not None:
        world.faults.note("run_drawn")
        off = run.off + (amount - charged if run.overage == "cap" else 0)
        world.oracle.runs[key] = replace(run, drawn=run.drawn + charged, draws=number + 1, off=off)
    return f"draws {amount} for {key}: {_said(answer)}"


def _extend(world: World, *, key: str, to: int, for_ms: int) -> str:
    run = _known(world, key)
    if run is None:
        return f"{key} is not known any more"
    until = max(run.expires_ms, world.time.now + for_ms)
    grown = replace(run, amount=max(run.amount, to), expires_ms=until)
    allowed = run.state == "held" and (
        grown.left == run.left or grown.left - run.left <= _room(world, run.customer) - _unbilled(world, run.customer)
    )
    answer = _call(world, lambda c: executions.extend(c, key, to or None, for_ms, _by(world)))
    if isinstance(answer, Denied) == allowed:
        world.breaches.append(f"run: {key}, {run.state}, is to grow to {to}: {_said(answer)}")
    if allowed:
        world.faults.note("run_extended")
        world.oracle.runs[key] = grown
    return f"extends {key} to {to}: {_said(answer)}"


def _end(world: World, *, key: str, amount: int, state: str) -> str:
    """With what it drew, and an amount more."""
    run = _known(world, key)
    if run is None:
        return f"{key} is not known any more"
    open_ = run.state == "held" or (run.state == "expired" and state == "settled")
    charged = run.costs(max(amount - run.off, 0)) if open_ else None
    act = executions.settle if state == "settled" else executions.release
    answer = _call(world, lambda c: act(c, key, Cost(run.drawn + amount), _by(world)))
    if run.state == state and not amount and not isinstance(answer, Denied):
        charged = 0  # after a restore it had ended at this cost already: a repetition charges nothing
    _judge(world, f"{key} is to be {state}", answer, charged)
    if charged is not None:
        world.faults.note(f"run_{state}" if run.state == "held" else "run_settled_late")
        world.oracle.runs[key] = replace(run, drawn=run.drawn + charged, state=state)
    return f"{key} is {state} at {run.drawn + amount}: {_said(answer)}"


def _judge(world: World, what: str, answer: Any, charged: int | None) -> None:
    got = None if isinstance(answer, Denied) else answer.drawn.charged_micro
    if got != charged:
        world.breaches.append(f"run: {what}: charged {got}, should be {charged}: {_said(answer)}")


def _decide(world: World, act: Callable[[World], str]) -> str:
    world.decided(act)
    return act(world)


def _call(world: World, work: Callable[[sa.Connection], Any]) -> Any:
    """The answer, or how it was denied; now and then it is lost, and the call made again."""
    try:
        answer = world.write(work)
    except Denied as denied:
        return denied
    if world.rng.random() < AGAIN:
        world.faults.note("run_called_again")
        second = world.write(work)
        repeated = second.repeated if isinstance(second, executions.Accepted) else second.drawn.repeated
        if not repeated:
            world.breaches.append(f"run: the same call again was no repetition: {second!r:.200}")
    return answer


def _by(world: World) -> By:
    return By(world.time.now, "product", "simulated")


def _said(answer: Any) -> str:
    return f"denied, {answer.code}" if isinstance(answer, Denied) else "yes"


def _known(world: World, key: str) -> Run | None:
    """What the product knows of a run; nothing where the database never kept it."""
    run = world.oracle.runs.get(key)
    return None if run is None else _now_known(world, run)


def _now_known(world: World, run: Run) -> Run:
    """A run that is over is expired; so is one that any worker's clock, however wrong, took for over."""
    over = run.expires_ms <= world.time.now
    if run.state == "held" and (over or (run.expires_ms <= world.latest and _kept(world, run.key) == "expired")):
        world.faults.note("run_expired")
        run = world.oracle.runs[run.key] = replace(run, state="expired")
    return run


def _kept(world: World, key: str) -> str:
    return str(world.rows("SELECT state FROM reservations WHERE reservation = :key", key=key)[0][0])


def _room(world: World, customer: str) -> int:
    """What a wallet has free: its entries, less what is left of runs that are not over."""
    lines = "SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines WHERE account_id = :id"
    ((balance,),) = world.rows(lines, id=f"wallet:{customer}")
    theirs = [_now_known(world, run) for run in list(world.oracle.runs.values()) if run.customer == customer]
    return int(balance) - sum(run.left for run in theirs)


def _unbilled(world: World, customer: str) -> int:
    """What it used and is not charged yet. `tests/integration/test_unbilled.py` judges this figure itself."""
    return int(world.write(lambda c: unbilled_micro(c, customer, world.time.now)))


def runs(world: World) -> Iterator[str]:
    """10: each run has drawn what it should, each wallet holds what is left."""
    theirs = "SELECT reservation, drawn_micro, state, customer_id FROM reservations WHERE reservation NOT LIKE 'shop-%'"
    theirs += " AND reservation NOT LIKE 'guard:%'"
    kept = {row[0]: row[1:] for row in world.rows(theirs)}  # others have judges of their own
    for key, run in world.oracle.runs.items():
        drawn, state, customer = kept.get(key, (None, None, None))
        early = state == "expired" and run.state == "held" and run.expires_ms <= world.latest
        late = state == "held" and run.state == "expired"
        if (drawn, customer) != (run.drawn, run.customer) or (state != run.state and not (early or late)):
            yield f"10: {key} is {state} with {drawn} of {customer}, and should be {run}"
    for key in kept.keys() - world.oracle.runs.keys():
        yield f"10: {key} is a run that nobody was told of"
    for account, held, left in world.rows(
        "SELECT a.account_id, a.held_micro, COALESCE((SELECT SUM(r.amount_micro - r.drawn_micro) FROM reservations r "
        "WHERE 'wallet:' || r.customer_id = a.account_id AND r.state = 'held' AND r.drawn_micro < r.amount_micro), 0) "
        "FROM ledger_accounts a"
    ):
        if held != left:
            yield f"10: {account} keeps {held} held, its runs have {left} left"


RUNS: Final[tuple[tuple[Action, float], ...]] = ((start, 8.0), (go_on, 12.0))
