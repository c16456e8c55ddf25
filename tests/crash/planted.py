"""Bugs for the siege to find, planted in its own worker processes only.

Each is one that billing software really had: see what the siege says to it in `test_crash.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from drawdown.providers.autumn import events, wire
from drawdown.providers.autumn.credits import Units
from drawdown.providers.payments.protocol import ChargeResult, InDoubt, Payment
from drawdown.providers.protocol import Capabilities, Drawn, Part, PushRequest
from drawdown.schema.database import write
from drawdown.worker.batches import folders
from drawdown.worker.batches.files import FoundFile
from drawdown.worker.batches.sources import begin_reading as sound_begin_reading
from drawdown.worker.batches.take import TakenFile, note
from drawdown.worker.catalog.costs import Pools
from drawdown.worker.engine import calls, runner
from drawdown.worker.engine import calls as flight
from drawdown.worker.engine.calls import Calls
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Effect, Push, Steps, Transaction
from drawdown.worker.push import claim, evidence, push
from drawdown.worker.push.evidence import Level
from drawdown.worker.push.rows import request_of as sound_request_of
from drawdown.worker.reconcile import reconcile
from drawdown.worker.topup import fill as topup_fill
from drawdown.worker.topup.fill import Topup
from drawdown.worker.verdict import project
from tests.sent import nothing_in_place

ACCEPTED = "UPDATE pushes SET state = 'accepted' WHERE key = :key AND state = 'due'"


def _sent() -> None:
    vars(push)["charge_in_place"] = nothing_in_place


def _settled_apart() -> None:
    """What is charged in place is settled by the next transaction, so that who dies between charges it again."""
    found = push.SQL
    found.put("post_charges", found.pieces["post_charges", ""].replace("SELECT key,", "SELECT key || ':' || :now_ms,"))
    picks = ("make_charges", "pick_charges")

    def work(connection: sa.Connection, names: Sequence[str], values: Mapping[str, object]) -> int:
        done = [found.run(connection, name, values).rowcount for name in names]
        return int(done[1])

    def charge_in_place(context: Context, claim: str, sending: int, until_ms: int | None = None) -> Steps[int]:
        now = context.clock.now_ms()
        most = {"most_rate": push.MOST_RATE, "most_product": push.MOST_PRODUCT, "most_entry_micro": 10**15}
        due = {"provider": "embedded", "now_ms": now, "at_most": 2_000, "lo": 0, "hi": 255}
        values = {**due, **most, "claim_owner": claim}
        yield Transaction("charge", partial(work, names=(*picks, "post_charges", "move_charges"), values=values))
        done: int = yield Transaction("settle", partial(work, names=(*picks, "settle_charges"), values=values))
        return done

    vars(push)["charge_in_place"] = charge_in_place


def _fresh_key() -> None:
    """Each attempt has a key of its own, so that a lost answer is charged again."""
    _sent()

    def request_of(row: sa.Row[Any], capabilities: Capabilities) -> PushRequest:
        found = sound_request_of(row, capabilities)
        return found if row.attempts == 1 else replace(found, key=f"{row.key}:again{row.attempts}")

    vars(claim)["request_of"] = request_of


def _settled_first() -> None:
    """What is about to be sent is written down as accepted, so that who dies before sending never sends."""
    _sent()
    original = runner._do

    async def do(effect: Effect, world: runner.World, calls: Mapping[str, Calls]) -> Any:
        if isinstance(effect, Push):
            keys = [{"key": one.key} for one in effect.batch]
            write(world.engine, lambda connection: connection.execute(sa.text(ACCEPTED), keys))
        return await original(effect, world, calls)

    vars(runner)["_do"] = do


def _settled_at_the_end() -> None:
    """Answers are written down once the last of a claim is in, so that who dies before has heard nothing."""
    vars(flight).update(PORTION=10**9, PORTION_S=10**9)
    vars(calls).update(MOST_UNSETTLED=10**9)


def _fresh_charge() -> None:
    """Each call to a payment service has an id of its own, so that a lost answer is paid again."""
    original = topup_fill._topup

    def topup(row: Any, *more: Any) -> Topup:
        made = original(row, *more)
        return replace(made, charge=replace(made.charge, charge_id=f"{made.charge.charge_id}:{row.attempts}"))

    vars(topup_fill)["_topup"] = topup


def _paid_by_doubt() -> None:
    """Whoever hears no answer takes it for a payment."""
    original = topup_fill.end_of_charge

    def end_of_charge(found: Topup, result: ChargeResult, now_ms: int) -> Any:
        paid = Payment(f"pi_1:{found.charge.charge_id}", found.charge.amount, found.charge.currency)
        return original(found, paid if isinstance(result, InDoubt) else result, now_ms)

    vars(topup_fill)["end_of_charge"] = end_of_charge


def _noted_first() -> None:
    """A file that is about to be read counts as taken, so that who dies over it never takes it."""
    original = sound_begin_reading

    def begin_reading(connection: sa.Connection, source: str, file: FoundFile, now_ms: int) -> int | None:
        note(connection, file, TakenFile(source, file.name, "noted", "taken"), now_ms)
        return original(connection, source, file, now_ms)

    vars(folders)["begin_reading"] = begin_reading


def _blind_to_balances() -> None:
    """Nobody compares balances with pushes: whatever the service lost with its store stays lost."""

    def compare_drawn(*_: object) -> Steps[None]:
        return
        yield

    vars(reconcile)["compare_drawn"] = compare_drawn


def _asked_is_charged() -> None:
    """What was asked counts as what was charged, whatever a limit left of it."""
    for module in (wire, events):
        vars(module)["charged"] = lambda taken, asked, _costs: Units(asked, exact=True)


def _used_up_is_lost() -> None:
    """Nobody remembers parts of balances: one that was used up exactly looks like a loss of what used it up."""
    vars(push)["note_shown_parts"] = vars(push)["note_parts"] = vars(project)["note_parts"] = lambda *_, **__: None


def _own_used_up_is_lost() -> None:
    """Parts are remembered of the credits alone: own units that vanish look as if the credits lacked them."""
    right = evidence.levels

    def levels(read: Mapping[str, Drawn], pools: Pools, known: Sequence[Part], now_ms: int) -> Mapping[str, Level]:
        return right(read, pools, [part for part in known if part.balance in read], now_ms)

    vars(evidence)["levels"] = levels


PLANTED: dict[str, Callable[[], None]] = {
    "fresh key": _fresh_key,
    "settled apart": _settled_apart,
    "settled first": _settled_first,
    "settled at the end": _settled_at_the_end,
    "fresh charge": _fresh_charge,
    "paid by doubt": _paid_by_doubt,
    "noted first": _noted_first,
    "blind to balances": _blind_to_balances,
    "asked is charged": _asked_is_charged,
    "used up is lost": _used_up_is_lost,
    "own used up is lost": _own_used_up_is_lost,
}
