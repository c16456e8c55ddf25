"""Every answer lost: the connection is cut before and after each statement of each transaction, its commit included.

Guarantee: what is said then is true (a commit without an answer "may or may not be stored"; everything else was not),
and whoever does what it says, the same again, ends where one who lost nothing does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from drawdown.schema.errors import AnswerLost, DatabaseBusy
from tests.interleave.cut import CutHand
from tests.interleave.explore import Explorer, is_refusal
from tests.interleave.judge import judge, settle
from tests.interleave.party import Party
from tests.interleave.registry import PARTIES
from tests.interleave.stage import Stage
from tests.interleave.walk import NothingLeft

COMMIT: Final = 0
DIGEST: Final = (
    "SELECT account_id, balance_micro, held_micro, plan FROM ledger_accounts ORDER BY 1",
    "SELECT regexp_replace(key, '^(topup:.*):[0-9]+$', '\\1'), SUM(amount_micro) FROM ledger_entries "
    "WHERE kind <> 'usage' GROUP BY 1 ORDER BY 1",
    "SELECT reservation, amount_micro, drawn_micro, state FROM reservations ORDER BY 1",
    "SELECT org_id, start_ms, end_ms, provider, customer_id FROM assignments ORDER BY 1, 2",
    "SELECT kind, memory_mb, feature, start_ms FROM mappings ORDER BY 1, 2, 4",
    "SELECT feature, start_ms, micro_credits FROM ledger_rates ORDER BY 1, 2",
    "SELECT provider, feature, start_ms, micro FROM provider_rates ORDER BY 1, 2, 3",
    "SELECT plan, max_concurrent_sandboxes FROM ledger_plans ORDER BY 1",
    "SELECT plan, number, included_micro FROM plan_terms ORDER BY 1, 2",
    "SELECT customer_id, number, plan FROM plan_stays ORDER BY 1, 2",
    "SELECT tier, at_once, price_micro FROM tiers ORDER BY 1",
    "SELECT customer_id, tier, paid_to_ms, renews, ended_reason FROM tier_holders ORDER BY 1, 2",
    "SELECT provider, terms, paused_ms FROM provider_states ORDER BY 1",
    "SELECT sample_id FROM withdrawals ORDER BY 1",
    "SELECT id FROM usage_samples ORDER BY 1",
    "SELECT org_id, is_halted, operator_halt, override_halted, override_max_concurrent, floor_ms FROM orgs ORDER BY 1",
    "SELECT org_id, window_ms, feature, SUM(CASE WHEN state = 'voided' THEN 0 ELSE sealed_qty END) FROM pushes "
    "GROUP BY 1, 2, 3 HAVING SUM(CASE WHEN state = 'voided' THEN 0 ELSE sealed_qty END) <> 0 ORDER BY 1, 2, 3",
    "SELECT sandbox_id, cell_id, state FROM sandboxes ORDER BY 1",
    "SELECT metric, reach, target, period, amount, ends_ms, state FROM guard_overrides ORDER BY number",
)
"""What somebody asked for, and what it came to; not how often it was tried, nor how many top-ups filled a wallet."""


@dataclass
class Told:
    """One cut: at which statement (0: the commit), before or after the server did it, and what was wrong."""

    party: str
    at: int
    where: str
    said: str = ""
    wrong: list[str] = field(default_factory=list)


class Lost:
    """Cuts one transaction after the other on an explorer's stage."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.hand = CutHand(explorer.postgres.url)
        self.refused: list[str] = []
        """Transactions that have nothing to lose here."""

    def close(self) -> None:
        self.hand.close()

    def party(self, name: str, *, commit_only: bool = False) -> Iterator[Told]:
        """All cuts of one transaction; none of one that is refused on this stage, or finds nothing to do."""
        party = PARTIES[name]
        try:
            wanted = self._uncut(party)
        except Exception as error:
            if not (isinstance(error, NothingLeft) or is_refusal(error, party)):
                raise
            self.refused.append(name)
            return
        last = 0 if commit_only else self.hand.statements
        for at in (*range(1, last + 1), COMMIT):
            for where in ("before", "after"):
                yield self._cut(party, Told(name, at, where), wanted)

    def _uncut(self, party: Party) -> Any:
        stage = self.explorer.stage()
        act = party.ready(stage)
        self.hand.disarm()
        act.transaction(self.hand.engine)
        statements = self.hand.statements
        act.after(stage.engine)
        settle(stage)
        self.hand.statements = statements
        return digest(stage)

    def _cut(self, party: Party, told: Told, wanted: Any) -> Told:
        stage = self.explorer.stage()
        act = party.ready(stage)
        before = digest(stage)
        self.hand.cut(told.at, told.where)
        try:
            act.transaction(self.hand.engine)
        except Exception as error:
            told.said = f"{type(error).__name__}: {error}"
            told.wrong += _untrue(error, party, told)
        finally:
            self.hand.engine.dispose()
        if self.hand.disarm() and told.at != COMMIT:  # what is undone in the end, or refused, has no commit to lose
            told.wrong.append(f"statement {told.at} never came: nothing was cut")
        if told.at != COMMIT:  # nothing was kept, so whatever comes next has happened to nobody
            told.wrong += _differences("before", before, "after a lost statement", digest(stage))
            return told
        self._again(party, stage, told)
        settle(stage)
        told.wrong += [*judge(stage), *party.check(stage)]
        told.wrong += _differences("with every answer", wanted, "with one lost", digest(stage))
        return told

    def _again(self, party: Party, stage: Stage, told: Told) -> None:
        """The same command once more."""
        try:
            act = party.ready(stage)
            act.transaction(stage.engine)
            act.after(stage.engine)
        except AssertionError:
            return  # its steps find nothing left to do
        except Exception as error:
            if not is_refusal(error, party):
                told.wrong.append(f"the same again: {type(error).__name__}: {error}")


def digest(stage: Stage) -> list[list[Any]]:
    return [[tuple(row) for row in stage.rows(text)] for text in DIGEST]


def _differences(one: str, first: Any, other: str, second: Any) -> Iterator[str]:
    for a, b in zip(first, second, strict=True):
        if a != b:
            yield f"{one}: {[row for row in a if row not in b]}; {other}: {[row for row in b if row not in a]}"


def _untrue(error: Exception, party: Party, told: Told) -> Iterator[str]:
    if party.name.startswith("host "):
        return  # another program is told by its own driver
    if not isinstance(error, DatabaseBusy):
        yield f"said: {told.said}"
    elif isinstance(error, AnswerLost) != (told.at == COMMIT):
        yield f"untrue: {told.said}"
