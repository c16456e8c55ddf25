"""Reconcile: accepted pushes that no event of the provider shows.

Guarantee: a push is voided only where its look-up shows that nothing was charged for it and, at a provider that may
charge without an event, the customer's balance agrees (P5). A push that the balance was drawn on for stands. A push
that neither can decide, or that lies below the floor and could not be sealed anew, is left to a person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, CannotTell, Capabilities, Drawn, Found, LookupResult, ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction, Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_other
from drawdown.worker.push.balances import (
    Accounted,
    Balances,
    CustomerFeature,
    drawn_of,
    read_accounted,
    read_balances,
)
from drawdown.worker.push.outcome import UNTRACED
from drawdown.worker.push.rows import PushRow, push_id_of
from drawdown.worker.push.void import void_one
from drawdown.worker.reconcile.events import ByWindow, accepted_of, is_unclear, look_up, read_windows
from drawdown.worker.reconcile.report import Line
from drawdown.worker.reconcile.weighing import charged_of, standing

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
    def pair(self) -> CustomerFeature:
        return self.line.customer_id, self.line.feature

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

    def begin(self) -> None:
        """Forget what was found: the transaction is done again."""
        self.corrected = self.covered = self.untold = self.below = 0
        self.unseen, self.doubted = {}, set()
        self.balanced = self.explained = self.moving = False

    def still(self, connection: sa.Connection) -> list[tuple[PushRow, LookupResult]]:
        """Those that nobody settled anew since they were read as accepted, each with what its lookup found."""
        pairs = zip(self.rows, self.found, strict=True)
        return [(row, found) for row, found in pairs if _is_still(connection, row)]


def find_absent(context: Context, lines: Sequence[Line], settled_by: int, by: By) -> Steps[list[Short]]:
    """Look up each push of those days, and void those they do not have. One that was settled meanwhile may not be seen
    there yet. All days of a customer together, since one balance tells of all."""
    if not lines:
        return []
    provider = lines[0].provider
    capabilities = context.capabilities[provider]
    if not capabilities.lookup:
        return [Short(line) for line in lines]
    asked: list[Short] = []
    for line in lines:
        rows: list[PushRow] = yield Transaction("reconcile_accepted", partial(accepted_of, line=line), rollback=True)
        rows = [row for row in rows if row.settled_ms <= settled_by]
        found = yield from look_up(provider, rows, capabilities)
        short = Short(line, rows, found)
        if capabilities.drawn and short.shown_too_much:
            # Both windows are put right, or neither: else the customer would be charged twice until the next run.
            _, short.by_window = yield from read_windows(line, {})
        asked.append(short)
    by_pair: dict[CustomerFeature, list[Short]] = defaultdict(list)
    for short in asked:
        by_pair[short.pair].append(short)
    before: Mapping[CustomerFeature, Accounted] = {}
    balances: Balances = {}
    if capabilities.drawn:
        before = yield Transaction(
            "reconcile_accounted",
            partial(read_accounted, provider=provider, pairs=list(by_pair), balances={}),
            rollback=True,
        )
        balances = yield from read_balances(provider, {customer for customer, _ in by_pair})
    for pair, some in by_pair.items():
        yield Transaction(
            "reconcile_short",
            partial(
                _void_absent,
                some=some,
                pair=pair,
                before=before.get(pair),
                balances=balances,
                by=by,
                witness=context.witness,
            ),
        )
    return asked


def _void_absent(
    connection: sa.Connection,
    *,
    some: Sequence[Short],
    pair: CustomerFeature,
    before: Accounted | None,
    balances: Balances,
    by: By,
    witness: Witness | None,
) -> None:
    """One customer's feature. `before`: what stood beside its balance before that was read; None: events tell all."""
    lock_buckets(connection)
    require_same(connection, witness)
    for short in some:
        short.begin()
    absent = [(short, row) for short in some for row, found in short.still(connection) if isinstance(found, Absent)]
    quantities = [int(row.sent_qty) for _, row in absent]
    # What they have more of is taken over by window (`compare_over`).
    taken_over = sum(_take_over(connection, short, by) for short in some if short.line.verdict == "short")
    charged = _weighed(connection, some, pair, before, balances, quantities, taken_over)
    for number, (short, row) in enumerate(absent):
        window = int(row.window_ms)
        if charged is not None and number in charged:
            short.covered += quantities[number]
            short.unseen[window] = short.unseen.get(window, 0) + quantities[number]
        elif row.window_ms < row.floor_ms:
            short.below += quantities[number]
        elif charged is None:
            short.untold += quantities[number]
            short.doubted.add(window)
        else:
            evidence = f"accepted, and absent when it was looked up at {by.now_ms} under {row.wire_key or row.key}"
            evidence += "; the customer's balance agrees" if before is not None else ""
            void_one(connection, row, by, evidence, "absent", answered=False)
            short.corrected += quantities[number]


def _weighed(
    connection: sa.Connection,
    some: Sequence[Short],
    pair: CustomerFeature,
    before: Accounted | None,
    balances: Balances,
    quantities: Sequence[int],
    taken_over: int,
) -> frozenset[int] | None:
    """Which of the absent pushes the customer's balance was drawn on by; None: it does not tell."""
    drawn = drawn_of(balances, pair)
    extra = 0 if before is None else _extra(some, drawn, sum(quantities))
    if before is None or not (quantities or extra):
        return frozenset()
    unread = any(isinstance(read, ReadFailed) for short in some for read in short.by_window.values())
    now = None if unread else standing(connection, some[0].line.provider, pair, before, balances, taken_over)
    beyond = None if now is None or drawn is None else now.beyond(drawn)
    charged = None if beyond is None else charged_of(quantities, beyond, extra)
    balanced = charged is None and beyond == (0, 0)
    charged = frozenset(range(len(quantities))) if balanced else charged
    # Covered is enough to stand. What others may have drawn besides could hide that it never was, or that something of
    # a day that is not compared never was, and that what events show too much of is what was drawn in its place: that
    # is given back only where nothing else was.
    besides = beyond is not None and beyond[0] > extra and (min(quantities) > 0 if quantities else extra > 0)
    for short in some:
        short.balanced, short.explained, short.moving = balanced, charged is None or besides, now is None
    return charged


def _take_over(connection: sa.Connection, short: Short, by: By) -> int:
    """What events show at another quantity, or as nothing; returns by how much what we call accepted fell."""
    fell = 0
    for row, found in short.still(connection):
        if not isinstance(found, Found) or found.quantity == row.sent_qty or is_unclear(row, found):
            continue
        less = int(row.sent_qty) - found.quantity
        if row.window_ms < row.floor_ms:
            short.below += less
            continue
        if found.quantity == 0:
            evidence = f"accepted, and charged nothing when it was looked up at {by.now_ms}"
            void_one(connection, row, by, evidence, "absent", answered=False)
        else:
            adopt_other(connection, row, found.quantity, by)
        short.corrected += less
        fell += less
    return fell


def _extra(some: Sequence[Short], drawn: Drawn | None, absent: int) -> int:
    """What events show beyond what is accepted, where all of it lies in the balance's cycle and above the floor: it was
    drawn, and by none of the pushes that are absent. Where a list stood still, it showed neither of two pushes alike,
    and the balance may have proven the wrong one; the other's event comes late."""
    since = 0 if drawn is None else drawn.since_ms or 0
    floor = max((int(row.floor_ms) for short in some for row in short.rows), default=0)
    if any(short.line.from_ms < max(since, floor) for short in some):
        return 0
    return max(0, absent + sum(short.line.theirs - short.line.ours + short.corrected for short in some))


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
