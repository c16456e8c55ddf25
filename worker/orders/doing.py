"""What a tick does of the orders that wait.

Guarantee: it takes MAX_A_TICK at most, for TURN_MS at most, and leaves what remains to the next tick. A tick that
dies half-way has changed nothing that the next one may not do again: a replay subtracts what is sealed, so doing it
twice bills nobody twice; of the others see `asking`, `topping` and `correcting`. What became of an order is told by
one tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.orders import orders
from drawdown.worker.orders.asked import AskedAccept, AskedAssign, AskedCorrect, AskedTopup
from drawdown.worker.orders.asking import Turn, accept, assign
from drawdown.worker.orders.correcting import correct
from drawdown.worker.orders.orders import TURN_MS, Taken
from drawdown.worker.orders.topping import top_up
from drawdown.worker.replay.plan import ReplayAtWork
from drawdown.worker.replay.replay import Replayed, replay

log = structlog.get_logger()

MAX_A_TICK: Final = 4
SAID: Final = 5
"""Of each kind of what a replay left; the command shows all."""


@dataclass
class OrdersDone:
    """Orders that this tick ended, and in words those that failed."""

    ended: int = 0
    failures: list[str] = field(default_factory=list)


def do_orders(context: Context) -> Steps[OrdersDone]:
    """Do what waits, the oldest first.

    Errors: those of what is done; the order is then free again once its lease has ended.
    """
    done, turn = OrdersDone(), _turn(context)
    for _ in range(MAX_A_TICK):
        if turn.out_of_time():
            break
        # Two ticks at once: one has it, and the other goes home.
        take = partial(orders.take, worker=turn.worker, now_ms=turn.clock.now_ms())
        taken: Taken | None = yield Transaction("take_order", take)
        if taken is None or not (yield from _do(turn, taken, done)):
            break
    return done


def _turn(context: Context) -> Context:
    """Of all organisations, whatever shard this tick is of: an order is done by one tick."""
    now = context.clock.now_ms()
    return replace(context.within(TURN_MS), shard=Shard(), began_ms=now, progress=None)


def _do(turn: Context, taken: Taken, done: OrdersDone) -> Steps[bool]:
    """Do one; whether it is over, and the next one's turn has come."""
    if taken.failed:
        _note(done, taken, "failed", taken.failed)
        return True
    came = yield from _come(turn, taken)
    if came.state is None:
        yield Transaction("put_order_back", partial(_back, turn=turn, taken=taken, came=came))
        return False
    said: str | None = yield Transaction("end_order", partial(_end, turn=turn, taken=taken, came=came))
    if said is not None:
        _note(done, taken, came.state, said)
    return True


def _come(turn: Context, taken: Taken) -> Steps[Turn]:
    by = replace(taken.by, now_ms=turn.clock.now_ms())
    match taken.asked:
        case AskedAccept() as accepted:
            return (yield from accept(turn, accepted, by))
        case AskedAssign() as assigned:
            return (yield from assign(turn, assigned, by))
        case AskedTopup() as topped:
            return (yield from top_up(turn, topped, by))
        case AskedCorrect() as compared:
            return (yield from correct(turn, compared, by))
    assert taken.plan is not None  # of a replay that has not failed
    try:
        found = yield from replay(turn, taken.plan, by, dry_run=False, most=0, order_id=taken.order_id)
    except ReplayAtWork as error:  # somebody replays the same by hand: when that is over, this finds what it left
        return Turn(None, str(error))
    return Turn(None if found.unfinished else "failed" if found.stopped else "done", replayed=found)


def _note(done: OrdersDone, taken: Taken, state: str, said: str) -> None:
    done.ended += 1
    if state == "failed":
        done.failures.append(f"order {taken.order_id} failed: {said}")
    log.info("order_ended", order=taken.order_id, state=state, said=said, actor=taken.by.actor)


def _back(connection: sa.Connection, *, turn: Context, taken: Taken, came: Turn) -> bool:
    return orders.put_back(connection, taken.order_id, turn.worker, came.said, in_vain=came.in_vain)


def _end(connection: sa.Connection, *, turn: Context, taken: Taken, came: Turn) -> str | None:
    """What is said of it; None where another tick has it by now."""
    assert came.state is not None
    said = came.said
    if came.replayed is not None:
        said = in_words(orders.sealed(connection, taken.order_id), came.replayed)
    over = orders.end(connection, taken.order_id, turn.worker, came.state, said, turn.clock.now_ms())
    return said if over else None


def in_words(pushes: int, found: Replayed) -> str:
    """What a replay came to: `pushes` of all its turns, and what is left of it for others."""
    none = "nothing more to seal" if found.to_settle else "nothing more was owed there"
    said = [f"sealed {pushes:,} push{'' if pushes == 1 else 'es'}" if pushes else none]
    said += [found.to_settle] if found.to_settle else []
    said += [f"left out {bad.org_id}: {bad.reason}" for bad in found.stopped[:SAID]]
    said += _some([f"{name} cannot be sent to now" for name in found.not_ready])
    said += _some([f"{one.why}: {one.quantity:,} {one.unit}" for one in found.left_out])
    return "; ".join(said)


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SAID], *([f"and {len(lines) - SAID:,} more"] if len(lines) > SAID else [])]
