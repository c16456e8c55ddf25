"""Plans and tiers: a month that has begun and was not looked at, what rolls into it, another plan, tiers bought and
ended, all of one wallet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.grants import Gives
from drawdown.ledger.lots import Terms
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from tests.interleave.party import Check, plain
from tests.interleave.stage import OLD, Stage

GUILD: Final = "guild"
"""A customer on the plan club since January; of February nothing is given yet, nor is its tier paid for."""

HERMIT: Final = "hermit"
"""Another, on a plan that gives nothing."""
BEHIND: Final = By(OLD + 31 * DAY_MS - 1, "somebody", "explored")
"""Who changes a plan on a host for which it is still January."""


def begin(stage: Stage) -> None:
    """What every case finds."""
    before = By(OLD + DAY_MS, "somebody", "explored")

    def work(connection: sa.Connection) -> None:
        credit.set_plan_limit(connection, "club", 3, before, gives=vars(Gives(10, 0, 6, 2)))
        credit.grant(connection, GUILD, 20, before, key=GUILD, plan="club", new=True)
        credit.set_plan_limit(connection, "quiet", 3, before)
        credit.grant(connection, HERMIT, 20, before, key=HERMIT, plan="quiet", new=True)
        for name, at_once, price in (("pro", 100, 5), ("small", 9, 4)):
            tiers.set_tier(connection, name, tiers.Change(at_once, price), before)
        tiers.buy(connection, GUILD, "pro", before)

    write(stage.engine, work)


def _given_once(stage: Stage) -> Iterator[str]:
    """Each month of a plan is given, and charged of a tier, once, whoever looks at it first."""
    for period, lots in stage.rows(
        "SELECT m.period, (SELECT COUNT(*) FROM plan_lots p WHERE p.customer_id = 'guild' AND p.plan = 'club' "
        "AND p.part = 'included' AND p.period = m.period) FROM (VALUES ('2026-01'), ('2026-02')) AS m (period)"
    ):
        if lots != 1:
            yield f"{period} was given {lots} times"
    paid = stage.rows("SELECT key FROM ledger_entries WHERE kind = 'tier' AND key LIKE 'tier:guild:pro:%' ORDER BY key")
    if [row[0][-7:] for row in paid][:1] != ["2026-01"] or len(paid) > 2:
        yield f"the tier was charged as {paid}"


def _on_plan_as_granted(stage: Stage) -> Iterator[str]:
    """A call under a key that was granted before changes nothing: the plan is that of the grant on record."""
    given = [json.loads(str(details))["plan"] for (details,) in stage.rows(
        "SELECT details FROM operator_actions WHERE action = 'ledger_grant' AND target = 'novice'"
    )]  # fmt: skip
    plans = [plan for (plan,) in stage.rows("SELECT plan FROM ledger_accounts WHERE account_id = 'wallet:novice'")]
    if given != plans:
        yield f"novice was granted the plans {given}, and is on {plans}"


def _stands(table: str, column: str, value: int, where: str) -> Check:
    """What a person said is there, whatever another one said of something else meanwhile."""

    def check(stage: Stage) -> Iterator[str]:
        for (found,) in stage.rows(f"SELECT {column} FROM {table} WHERE {where}"):
            if found != value:
                yield f"{column} of {table} is {found}, and a person said {value}"

    return check


def _gives(column: str, value: int) -> Check:
    """The same of the newest terms of the plan, and each month is given once."""
    newest = "plan = 'club' AND number = (SELECT MAX(number) FROM plan_terms WHERE plan = 'club')"
    stands = _stands("plan_terms", column, value, newest)
    return lambda stage: chain(_given_once(stage), stands(stage))


PLANS: Final = (
    plain(
        "cli.declared:run plan set gives",
        lambda s, c: credit.set_plan_limit(c, "club", None, s.by, gives={"included_micro": 30}),
        _gives("included_micro", 30),
    ),
    plain(
        "cli.declared:run plan set rollover",
        lambda s, c: credit.set_plan_limit(c, "club", None, s.by, gives={"rollover_max_micro": 8}),
        _gives("rollover_max_micro", 8),
    ),
    plain(
        "cli.declared:run plan set holds",
        lambda s, c: credit.set_plan_limit(c, "club", None, s.by, holds={"most_held_micro": 50}),
        _stands("ledger_plans", "most_held_micro", 50, "plan = 'club'"),
    ),
    plain(
        "cli.declared:run plan set factor",
        lambda s, c: credit.set_plan_limit(c, "club", None, s.by, holds={"hold_factor_ppm": 1_000_001}),
        _stands("ledger_plans", "hold_factor_ppm", 1_000_001, "plan = 'club'"),
    ),
    plain(
        "cli.declared:run plan set gives, by a clock behind",
        lambda s, c: credit.set_plan_limit(c, "quiet", None, BEHIND, gives={"included_micro": 30}),
    ),
    plain(
        "cli.declared:run plan set gives a new customer",
        lambda s, c: credit.set_plan_limit(c, "free", None, s.by, gives={"included_micro": 30, "first_micro": 5}),
    ),
    plain(
        "cli.declared:run ledger grant to a new customer",
        lambda s, c: credit.grant(c, "novice", 7, s.by, key="novice", plan="free", new=True),
    ),
    plain(
        "cli.declared:run ledger grant again to a new customer",
        lambda s, c: credit.grant(c, "novice", 7, s.by, key="novice", plan="club", new=True),
        _on_plan_as_granted,
    ),
    plain(
        "cli.declared:run ledger grant for later",
        lambda s, c: credit.grant(
            c, GUILD, 7, s.by, key="apart", plan=None, terms=Terms(begins_ms=s.by.now_ms + DAY_MS)
        ),
    ),
    plain(
        "cli.declared:run ledger grant below zero under a key for later",
        lambda s, c: credit.grant(c, HERMIT, -7, s.by, key="apart", plan=None),
    ),
    plain(
        "cli.declared:run ledger grant onto a plan",
        lambda s, c: credit.grant(c, GUILD, 7, s.by, key="onto", plan="free"),
        _given_once,
    ),
    plain(
        "cli.declared:run plan put",
        lambda s, c: credit.put_on_plan(c, GUILD, "free", s.by),
        _given_once,
    ),
    plain(
        "cli.declared:run ledger take-back a month",
        lambda s, c: credit.take_back(c, f"included:{GUILD}:club:2026-01", s.by, whole=True),
        _given_once,
    ),
    plain(
        "cli.nouns.executions:accept in a month of nothing",
        lambda s, c: executions.accept(c, "hermit-run", Request(HERMIT, 6), s.by),
    ),
    plain(
        "cli.nouns.executions:accept in a new month",
        lambda s, c: executions.accept(c, "guild-run", Request(GUILD, 6), s.by),
        _given_once,
    ),
    plain(
        "cli.declared:run tier set",
        lambda s, c: tiers.set_tier(c, "pro", tiers.Change(price_micro=6), s.by),
        _stands("tiers", "price_micro", 6, "tier = 'pro'"),
    ),
    plain(
        "cli.declared:run tier set at once",
        lambda s, c: tiers.set_tier(c, "pro", tiers.Change(at_once=101), s.by),
        _stands("tiers", "at_once", 101, "tier = 'pro'"),
    ),
    plain("cli.declared:run tier buy", lambda s, c: tiers.buy(c, GUILD, "small", s.by), _given_once),
    plain("cli.declared:run tier buy undone", lambda s, c: tiers.let_end(c, GUILD, "pro", s.by), _given_once),
)
