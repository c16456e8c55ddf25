"""Runs cases: the first transaction held after a statement, the second meanwhile, then the first goes on.

Guarantee: what is reported was seen on a real PostgreSQL, with the product's own functions; a case that could not be
run as it should is an error, never a pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from drawdown.schema.database import connect
from drawdown.schema.errors import DatabaseBusy, DrawdownError
from drawdown.schema.migrate import upgrade
from tests.interleave import of_backfills, of_console, of_guard, of_plans, of_pools, of_runs, of_suppliers
from tests.interleave import stage as stages
from tests.interleave.footprint import Footprint, Spy, is_settled, points, whole
from tests.interleave.hand import Hand
from tests.interleave.judge import judge, settle
from tests.interleave.outcome import left_behind
from tests.interleave.party import Act, Party, well
from tests.interleave.postgres import Postgres
from tests.interleave.registry import PARTIES
from tests.interleave.stage import Known, Stage
from tests.interleave.walk import NothingLeft


class Case(NamedTuple):
    """The first is held after so many statements."""

    first: str
    second: str
    after: int

    def __str__(self) -> str:
        return f"{self.first} held after {self.after}, {self.second}"


@dataclass
class Seen:
    """What became of a case. `reached`: whether both could be set up, and the first had so many statements."""

    case: Case
    reached: bool = True
    waited_at: int | None = None
    """The second waited for the first, with so many statements behind it."""
    deadlocks: int = 0
    """That the product ran again."""
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Explorer:
    """One server with the stage on it; one case at a time."""

    def __init__(self) -> None:
        self.postgres = Postgres()
        self.engine = connect(self.postgres.url)
        upgrade(self.engine)
        self.known: Known = stages.build(self.engine)
        of_runs.begin(Stage(self.engine, self.known))
        of_suppliers.begin(Stage(self.engine, self.known))
        of_plans.begin(Stage(self.engine, self.known))
        of_pools.begin(Stage(self.engine, self.known))
        of_backfills.begin(Stage(self.engine, self.known))
        of_console.begin(Stage(self.engine, self.known))
        of_guard.begin(Stage(self.engine, self.known))
        self.postgres.keep()
        self.first, self.second = Hand(self.postgres.url), Hand(self.postgres.url)
        self._footprints: dict[str, list[Footprint]] = {}
        self._judged: dict[tuple[str, ...], list[str]] = {}
        """What was wrong with what cases left behind."""

    def close(self) -> None:
        for one in (self.first, self.second):
            one.close()
        self.engine.dispose()
        self.postgres.close()

    def stage(self) -> Stage:
        """As it was kept."""
        self.postgres.restore()
        return Stage(self.engine, stages.copy_of(self.known))

    def run(self, case: Case) -> Seen:
        """Run one case and judge it."""
        began = time.monotonic()
        seen, stage = Seen(case), self.stage()
        one, two = PARTIES[case.first], PARTIES[case.second]
        with _told(seen):
            acts = _ready(stage, one, two)
            self._meet(seen, acts, case.after)
            if seen.reached:
                self._end(seen, stage, acts, (one, two))
        seen.seconds = time.monotonic() - began
        return seen

    def pair(self, first: str, second: str, *, every: bool = False) -> Iterator[Seen]:
        """All cases of two transactions, but for those that are the same as another of them (see `footprint`)."""
        one, two = self.footprint(first), self.footprint(second)
        for after in range(1, len(one) + 1) if every else points(one, whole(two)):
            seen = self.run(Case(first, second, after))
            yield seen
            if seen.waited_at is not None and not every and is_settled(one[after:], two[: seen.waited_at]):
                return

    def footprint(self, name: str) -> list[Footprint]:
        """What a transaction touches where nothing is beside it, statement by statement."""
        if name not in self._footprints:
            self._footprints[name] = footprint_of(self, PARTIES[name])
        return self._footprints[name]

    def forget(self) -> None:
        """What transactions touch and leave behind: they are others by now."""
        self._footprints.clear()
        self._judged.clear()

    def _meet(self, seen: Seen, acts: tuple[Act, Act], after: int) -> None:
        self.first.start(acts[0].transaction, after)
        if not self.first.held():
            seen.reached = False
            return
        self.second.start(acts[1].transaction)
        with self.postgres.admin.connect() as watch:
            if not self.second.done_or_behind(self.first, watch):
                seen.waited_at = self.second.statements
        self.first.go_on()
        self.first.join()
        if seen.waited_at is not None:
            self.second.join()

    def _end(self, seen: Seen, stage: Stage, acts: tuple[Act, Act], parties: tuple[Party, Party]) -> None:
        seen.deadlocks = self.first.deadlocks + self.second.deadlocks
        for hand, act, party in zip((self.second, self.first), reversed(acts), reversed(parties), strict=True):
            if hand.error is None:
                act.after(stage.engine)
            elif is_refusal(hand.error, party):
                seen.refused.append(f"{party.name}: {hand.error}")
            else:
                seen.wrong.append(f"{party.name} failed: {_short(hand.error)}")
        checked = [
            party for hand, party in zip((self.first, self.second), parties, strict=True)
            if hand.error is None and party.check is not well
        ]  # fmt: skip
        outcome = (left_behind(stage), *(party.name for party in checked))
        if outcome not in self._judged:
            settle(stage)
            self._judged[outcome] = [*judge(stage), *(line for party in checked for line in party.check(stage))]
        seen.wrong += self._judged[outcome]


def _ready(stage: Stage, one: Party, two: Party) -> tuple[Act, Act]:
    if one.last:
        second = two.ready(stage)
        return one.ready(stage), second
    return one.ready(stage), two.ready(stage)


def is_refusal(error: BaseException, party: Party) -> bool:
    """Whether a transaction may end so. A host is told by the database itself which rule it would break."""
    if isinstance(error, DrawdownError):
        return not isinstance(error, DatabaseBusy)
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return party.name.startswith("host ") and state in ("23505", "23514")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


@contextmanager
def _told(seen: Seen) -> Iterator[None]:
    try:
        yield
    except NothingLeft:
        seen.reached = False
    except (Exception, AssertionError) as error:
        seen.wrong.append(f"the case broke: {_short(error)}")


def footprint_of(explorer: Explorer, party: Party) -> list[Footprint]:
    """What the party's transaction touches where nothing is beside it, statement by statement."""
    stage, spy = explorer.stage(), Spy()
    explorer.first.spy = spy
    try:
        explorer.first.start(party.ready(stage).transaction)
        explorer.first.join()
    finally:
        explorer.first.spy = None
    error = explorer.first.error
    if error is not None and not is_refusal(error, party):
        raise AssertionError(f"{party.name} alone: {_short(error)}") from error
    return spy.found
