"""Calls of programs that are decided together: uses, the ends of uses, and acts on runs, of one wallet of acme's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import NotTogether
from drawdown.schema.database import write
from drawdown.schema.errors import LockHeld
from drawdown.schema.units import DAY_MS
from drawdown.server.api import executions as routes
from drawdown.server.api import models
from drawdown.server.api.programs import Caller
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions import actions as runs
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.grouped import Change
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import grouped
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.emission import Emission
from drawdown.worker.guard.grouped import Call, End
from drawdown.worker.guard.terms import Wish
from drawdown.worker.guard.use import Ask
from drawdown.worker.sources.events.types import Bringer
from tests.interleave.of_programs import _key, _with_key
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, Stage

ACME: Final = "acme"
KEY: Final = "key:app"
WHY: Final = "explored"
_SAID: Final = Caller(ApiKey("app", ("executions:write",), None), NOW)


def _ready(stage: Stage) -> None:
    """A key, and a use that is held, whichever of two transactions is set up first."""
    _with_key(stage)
    if not stage.rows("SELECT 1 FROM guard_uses WHERE use_key = 'acme-held'"):
        wish = Wish(ACME, "spark", 2, for_ms=DAY_MS)
        write(stage.engine, lambda c: guard.reserve(c, "acme-held", wish, stage.by))


def _use(key: str, amount: int, metric: str = "spark") -> Callable[[Stage], Call]:
    return lambda stage: Ask(key, Wish(ACME, metric, amount), stage.by)


def _emits(key: str, amount: int) -> Callable[[Stage], Call]:
    """A use whose event has one key, whichever use it is."""
    event = UsageEvent("/guard", "acme-event", "launch", ACME, 3, NOW - 1)
    emission = Emission(event, True, False, Bringer(key_name="app"))
    return lambda stage: Ask(key, Wish(ACME, "spark", amount), stage.by, event=emission)


def _alone(call: Call, stage: Stage) -> Callable[[sa.Connection], object]:
    """As its route decides it."""
    if isinstance(call, Ask):
        return partial(guard.take, ask=call)
    if isinstance(call, End):
        end = guard.settle if call.state == "settled" else guard.release
        return lambda c: end(c, call.key, call.amount, stage.by)
    if isinstance(call, RequestedExecution):
        return partial(runs.accept_asked, asked=call, now_ms=NOW)
    if call.kind == "draw":
        return lambda c: runs.draw(c, call.key, call.number, call.cost or Cost(), stage.by)
    finish = runs.settle if call.kind == "settled" else runs.release
    return lambda c: finish(c, call.key, call.cost, stage.by)


def _together(name: str, *wanted: Callable[[Stage], Call]) -> Party:
    """All of them in one transaction. Where that is given up, the route has the first decided alone."""

    def ready(stage: Stage) -> Act:
        _ready(stage)
        calls = [one(stage) for one in wanted]
        proofs = [api_keys.hash_of(_key(1))] * len(calls)

        def transaction(engine: sa.Engine) -> Sequence[object]:
            try:
                return write(engine, lambda c: grouped.do_all(c, proofs, calls, NOW)[1])
            except (NotTogether, LockHeld):
                return [write(engine, _alone(calls[0], stage))]

        return Act(transaction)

    return Party(f"server.api.request_batching:_decide {name}", ready, _adds_up)


def _adds_up(stage: Stage) -> Iterator[str]:
    """Counters are sums of uses, what is held is what runs have left, and each use that is charged is drawn once."""
    for used, uses, amount, count in stage.rows(
        "SELECT c.used, c.uses, COALESCE(SUM(u.amount), 0), COUNT(u.use_key) FROM guard_counters c "
        "LEFT JOIN guard_uses u ON u.org_id = c.org_id AND u.metric = c.metric "
        "WHERE c.org_id = 'acme' AND c.period = 'month' GROUP BY c.metric, c.used, c.uses"
    ):
        if (used, uses) != (amount, count):
            yield f"acme's counter says {used} in {uses} uses, which come to {amount} in {count}"
    ((held, left, entries, drawn, charged),) = stage.rows(
        "SELECT (SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'), "
        "(SELECT COALESCE(SUM(CASE WHEN amount_micro > drawn_micro THEN amount_micro - drawn_micro ELSE 0 END), 0) "
        "FROM reservations WHERE customer_id = 'acme' AND state = 'held' AND hold = 'wallet'), "
        "(SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_entries "
        "WHERE kind = 'execution' AND from_account = 'wallet:acme'), "
        "(SELECT COALESCE(SUM(drawn_micro), 0) FROM reservations "
        "WHERE customer_id = 'acme' AND settled_by = 'receipt'), "
        "(SELECT COALESCE(SUM(charged_micro), 0) FROM guard_uses WHERE org_id = 'acme') - (SELECT "
        "COALESCE(SUM(drawn_micro), 0) FROM reservations WHERE customer_id = 'acme' AND reservation LIKE 'guard:%')"
    )
    if held != left:
        yield f"acme's wallet holds {held}, its runs have {left} left"
    if entries != drawn:
        yield f"acme's runs were charged {entries}, and have drawn {drawn}"
    ((emits, events),) = stage.rows(
        "SELECT (SELECT COUNT(*) FROM guard_uses WHERE use_key LIKE 'emits-%'), "
        "(SELECT COUNT(*) FROM usage_events WHERE event_id = 'acme-event')"
    )
    if bool(emits) != bool(events):
        yield f"{emits} of acme's uses emit an event, and {events} are there"
    if charged:
        yield f"acme's uses were charged {charged} more than their runs have drawn"


MONEY: Final = (
    _together(
        "money",
        _use("money-1", 3),
        lambda _: End("acme-held", "settled", 1, KEY, WHY),
        lambda _: RequestedExecution("money-run", Request(ACME, 4), KEY, WHY),
        lambda _: Change("acme-going", "draw", Cost(2), KEY, WHY, number=1),
    ),
    _together(
        "other money",
        lambda _: Change("acme-going", "settled", Cost(3), KEY, WHY),
        lambda _: End("acme-held", "released", 0, KEY, WHY),
        _use("money-1", 3),
        _use("money-2", 4),
    ),
    _together("money and an event", _emits("emits-1", 3), _use("money-1", 3)),
    _together("other money and the same event", _use("money-2", 4), _emits("emits-2", 2)),
    plain(
        "server.api.executions:_change",
        lambda _, c: routes._draw(c, models.DrawRequest.model_construct(number=1, credits=2), _SAID, key="acme-going"),
        _adds_up,
    ),
)
