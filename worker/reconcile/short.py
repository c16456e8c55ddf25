"""One line that is compared: its pushes, what was found of each, and what became of them, in words.

Guarantee: says of a push only what a look-up or a balance told. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, CannotTell, Capabilities, LookupResult, ReadFailed
from drawdown.schema.sql import queries
from drawdown.worker.push.outcome import UNTRACED
from drawdown.worker.push.rows import PushRow, push_id_of
from drawdown.worker.reconcile.events import ByWindow, is_unclear
from drawdown.worker.reconcile.report import Line

SQL = queries(__file__)

COVERED: Final = "no event shows them, and the customer's balance was drawn on by as much: they are charged"
MEANWHILE: Final = "; meanwhile all of that balance is compared there, and not here"
UNTOLD: Final = (
    "no event shows them, and the customer's balance does not tell whether they were charged: compare with their "
    f"console{MEANWHILE}"
)
BELOW: Final = "lie below the floor, where nothing would be sealed in their place: settle them with the customer"

BY_HAND: Final = (
    "compare with their console, then `push void KEY --although-accepted` what they lost, and charge on an invoice "
    "what they gave back twice"
)


@dataclass
class Short:
    """One line, the pushes of it, and what became of them."""

    line: Line
    rows: Sequence[PushRow] = ()
    found: Sequence[LookupResult] = ()
    corrected: int = 0
    covered: int = 0
    untold: int = 0
    below: int = 0
    """In base units; below zero for what was to be given back."""
    by_window: ByWindow = field(default_factory=dict)
    """What events show of each window, where they show too much of some."""
    unseen: dict[int, int] = field(default_factory=dict)
    """By window: what is accepted by the balance alone."""
    doubted: set[int] = field(default_factory=set)
    """Windows of what nothing tells."""
    balanced: bool = False
    """Whether the balance was drawn on by just what we call accepted, and nothing tells which of it events show in
    other windows: what the customer pays is right, and to give back a part of it would not be."""
    explained: bool = False
    """Whether what events show too much of may stand for what no event shows, in other windows."""
    moving: bool = False
    """Whether the balance tells nothing yet: it was not read, or a push was on its way. The next run has it."""

    @property
    def shown_too_much(self) -> bool:
        """Whether events show more of some windows than what they show of all its pushes comes to."""
        absent = sum(int(row.sent_qty) for row, found in zip(self.rows, self.found, strict=True) if found == Absent())
        return self.line.theirs - self.line.ours + absent > 0

    @property
    def too_much(self) -> int:
        """What events show beyond all that, in other windows of the line's day."""
        explained = self.corrected + self.covered + self.below + self.untold
        return 0 if self.balanced else max(self.line.theirs - self.line.ours + explained, 0)

    @property
    def is_absent(self) -> bool:
        """Whether something that we call accepted is not there."""
        return bool(self.corrected or self.covered or self.untold or self.below)

    def begin(self) -> None:
        """Forget what was found: the transaction is done again."""
        self.corrected = self.covered = self.untold = self.below = 0
        self.unseen, self.doubted = {}, set()
        self.balanced = self.explained = self.moving = False

    def still(self, connection: sa.Connection) -> list[tuple[PushRow, LookupResult]]:
        """Those that nobody settled anew since they were read as accepted, each with what its lookup found."""
        pairs = zip(self.rows, self.found, strict=True)
        return [(row, found) for row, found in pairs if _is_still(connection, row)]


def ended_short(short: Short, capabilities: Capabilities) -> Line:
    """They have less than we call accepted: what became of it, in words."""
    if not capabilities.lookup:
        note = "one push cannot be looked up there: compare with their console, then `push void --although-accepted`"
        return replace(short.line, note=note)
    line, done = short.line, short.corrected + short.covered
    missing = line.ours - line.theirs - done
    notes = [f"{short.covered:,}: {COVERED}"] if short.covered else []
    if short.below:
        notes.append(f"{short.below:,} {BELOW}")
    if short.untold:
        notes.append(f"{short.untold:,}: {UNTOLD}")
    rest = missing - short.below - short.untold
    if rest > 0:
        pairs = list(zip(short.rows, short.found, strict=True))
        asked = sum(isinstance(found, ReadFailed | CannotTell) for found in short.found)
        silent = [f"{row.key}: {found.reason}" for row, found in pairs if isinstance(found, CannotTell)]
        unclear = [row.key for row, found in pairs if is_unclear(row, found)]
        why = f"{asked:,} pushes of that day could not be looked up" if asked else "no push of that day is"
        why += f" ({silent[0]}): {BY_HAND}" if silent else ""
        why = f"of {len(unclear):,} pushes ({unclear[0]}): {UNTRACED}" if unclear else why
        notes.append(f"{rest:,} more are missing, and {why}")
    only_covered = (not missing or (missing < 0 and short.balanced)) and not short.corrected
    return replace(
        line, corrected=done, note="; ".join(notes) or None, verdict="equal" if only_covered else line.verdict
    )


def _is_still(connection: sa.Connection, row: PushRow) -> bool:
    """Whether a push is as it was read. Accepted is not enough: refused late and billed by hand meanwhile, it is
    accepted again, and what no event shows then lies on an invoice."""
    found = SQL.run(connection, "hold_settlement", push_id_of(row)).one()
    return all(getattr(row, name) == now for name, now in found._mapping.items())
