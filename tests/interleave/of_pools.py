"""Pools and payers: allotments beside each other, beside use and beside their end; runs that another wallet pays for
beside the end of that; pools beside an assignment of their name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.effects import Steps
from drawdown.worker.engine.shard import NewOrgs
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.orgs.flips import FlipOptions, Wish, flip
from drawdown.worker.tick import tick
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from tests.interleave.of_steps import WITHOUT
from tests.interleave.party import Party, plain, step
from tests.interleave.stage import NOW, Stage

POOL: Final = "kitty"
"""A pool that was given ten micro-credits and has four left, two more are held: one comes back of what cub has, and is
not booked yet. It pays for runs of cub's, up to six; one of them goes on."""
CUB: Final = "cub"
WANTED: Final = "another-kitty"
"""A pool and drifter's customer want this name."""
STRANGER: Final = "stranger"
"""A pool wants this name; a seal that assigns newcomers meets an organisation of it."""
METERED: Final = Request(CUB, 3, for_ms=DAY_MS, settled_by="metering", sandboxes=("box-cub",))


def begin(stage: Stage) -> None:
    """What every case finds."""
    hour_ago = By(NOW - 60 * MINUTE_MS, "somebody", "explored")

    def work(connection: sa.Connection) -> None:
        pools.make(connection, POOL, hour_ago)
        for customer, amount in ((POOL, 10), (CUB, 5)):
            credit.grant(connection, customer, amount, hour_ago, key=customer, plan=None, new=True)
        pools.allot(connection, POOL, CUB, 3, NOW - 30 * MINUTE_MS, hour_ago, key="over")
        executions.accept(connection, "cub-early", Request(CUB, 2), hour_ago)
        executions.settle(connection, "cub-early", Cost(2), hour_ago)
        pools.allot(connection, POOL, CUB, 1, NOW + DAY_MS, hour_ago, key="going")
        pools.allow(connection, POOL, CUB, hour_ago, limit_micro=6)
        executions.accept(connection, "cub-going", Request(CUB, 2, payer=POOL, for_ms=DAY_MS), hour_ago)
        executions.accept(connection, "cub-metered", METERED, hour_ago)

    write(stage.engine, work)


def _none_is_made_or_lost(stage: Stage) -> Iterator[str]:
    """What was given is what both have and what was used, whoever came first; and no one promised what it has not."""
    sums = {
        "given": "SELECT SUM(amount_micro) FROM ledger_entries WHERE from_account = 'source:grants' AND {to}",
        "has": "SELECT SUM(balance_micro) FROM ledger_accounts WHERE account_id IN ('wallet:kitty', 'wallet:cub')",
        "used": "SELECT SUM(amount_micro) FROM ledger_entries WHERE kind = 'execution' AND reservation LIKE 'cub-%'",
    }
    to = "to_account IN ('wallet:kitty', 'wallet:cub')"
    given, has, used = (int(str(stage.rows(text.format(to=to))[0][0] or 0)) for text in sums.values())
    if given != has + used:
        yield f"{given} were given; both have {has}, and used {used}"
    for account, left in stage.rows(
        "SELECT account_id, balance_micro - held_micro FROM ledger_accounts WHERE account_id IN "
        "('wallet:kitty', 'wallet:cub')"
    ):
        if left < 0:
            yield f"{account} has promised {-left} more than it has"


def _belongs_to_one(stage: Stage) -> Iterator[str]:
    """A name is a pool's or a customer's, whoever came first."""
    for org, name in stage.rows("SELECT a.org_id, p.pool FROM assignments a JOIN pools p ON p.pool = a.customer_id"):
        yield f"{org} is billed as the pool {name}"


def _assigns(stage: Stage) -> Steps[Any]:
    wishes, options = [Wish("drifter", WANTED)], FlipOptions("embedded", new=True)
    return flip(stage.context(WITHOUT), wishes, options, stage.by)


def _meets_stranger(stage: Stage) -> Steps[Any]:
    if not stage.rows(f"SELECT 1 FROM usage_samples WHERE id = '{STRANGER}'"):  # beside itself, it is there
        stage.sample(STRANGER, STRANGER, NOW - 2 * WINDOW_MS + 1)
    return tick(stage.context(WITHOUT, new_orgs=NewOrgs("embedded")))


def _judged(party: Party) -> Party:
    return replace(party, check=_belongs_to_one)


def _allot(amount: int, key: str) -> Callable[[Stage, sa.Connection], object]:
    return lambda s, c: pools.allot(c, POOL, CUB, amount, NOW + DAY_MS, s.by, key=key)


POOLS: Final = (
    plain("cli.declared:run pool make", lambda s, c: pools.make(c, WANTED, s.by), _belongs_to_one),
    plain("cli.declared:run pool make of a newcomer", lambda s, c: pools.make(c, STRANGER, s.by), _belongs_to_one),
    _judged(step("assign a pool's name", _assigns, ends=(Refused,))),
    _judged(step("seal a newcomer of a pool's name", _meets_stranger)),
    plain("cli.declared:run pool allot", _allot(4, "first"), _none_is_made_or_lost),
    plain("cli.declared:run pool allot the rest", _allot(5, "second"), _none_is_made_or_lost),
    plain("cli.declared:run payer allow", lambda s, c: pools.allow(c, POOL, CUB, s.by, limit_micro=4)),
    plain("cli.declared:run payer end", lambda s, c: pools.end(c, POOL, CUB, s.by)),
    plain(
        "cli.nouns.executions:accept paid by a pool",
        lambda s, c: executions.accept(c, "cub-paid", Request(CUB, 3, payer=POOL), s.by),
        _none_is_made_or_lost,
    ),
    plain(
        "cli.nouns.executions:accept paid by it, too",
        lambda s, c: executions.accept(c, "cub-other", Request(CUB, 2, payer=POOL), s.by),
        _none_is_made_or_lost,
    ),
    plain(
        "cli.nouns.executions:settle paid by a pool",
        lambda s, c: executions.settle(c, "cub-going", Cost(1), s.by),
        _none_is_made_or_lost,
    ),
    plain(
        "cli.nouns.executions:accept of an allotment",
        lambda s, c: executions.accept(c, "cub-own", Request(CUB, 3), s.by),
        _none_is_made_or_lost,
    ),
    plain(
        "cli.nouns.executions:extend a member's metered run",
        lambda s, c: executions.extend(c, "cub-metered", 5, None, s.by),
        _none_is_made_or_lost,
    ),
    plain(
        "cli.declared:run ledger take-back an allotment",
        lambda s, c: credit.take_back(c, f"allot:{POOL}:going", s.by, whole=False),
        _none_is_made_or_lost,
    ),
)
