"""Decide several calls one after another, and write their changes together.

The decisions use rows of wallets that were read before.

Guarantee: the decisions are written only if each wallet has credit for all decisions at that moment, and is not due for
another change. Otherwise the whole transaction is rolled back (`NotTogether`), and each call is decided alone. Locks
are taken in the ledger's order: executions by their keys, then wallets by their ids. A wallet is excluded if a change
is due in it, or if some of its lots ended. It is also excluded if the end of an execution may expire its lots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import draws, entries
from drawdown.ledger.accounts import Wallet, wallet_account
from drawdown.ledger.entries import MOST_BALANCE_MICRO
from drawdown.ledger.reservations import NO_END_MICRO, NotTogether, Reservation
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import EVER_MS

SQL = queries(__file__)

_ANY: Final = -NO_END_MICRO
"""Marks a change that does not need available credit, because it draws or frees credit that was reserved before."""


@dataclass(frozen=True)
class Standing:
    """A wallet as it was read, with its uncharged use and its pending changes.

    `next_due_ms`: the time of the next due change (None: all changes are applied). `lots_over_ms`: the end of the last
    ended lot (None: no lot has ended). Use dated earlier may change the remaining credit of ended lots.
    `deferred_micro`: credit of ended lots that waits for the end of executions.
    """

    customer_id: str
    wallet: Wallet
    next_due_ms: int | None
    lots_over_ms: int | None
    deferred_micro: int

    def is_still(self, now_ms: int) -> bool:
        """Return True if the wallet does not have a pending change."""
        is_due = self.next_due_ms is not None and self.next_due_ms <= now_ms
        return not (is_due or self.deferred_micro or self.wallet.over_micro)


@dataclass
class _Move:
    """A wallet as it was read, and as it will be. Amounts are micro-credits.

    `needed`: the available credit that all changes need. `peak`: the largest increase of reserved credit at any moment.
    `freed`: the most that one call frees.
    """

    before: Standing
    now: Wallet
    needed: int = _ANY
    peak: int = _ANY
    most_held: int = NO_END_MICRO
    ends_ms: int | None = None
    first_ms: int = EVER_MS
    freed: int = 0

    @property
    def dropped(self) -> int:
        return self.before.wallet.available_micro - self.now.available_micro


@dataclass(frozen=True)
class Moved:
    """A wallet after all changes.

    `shift`: the credit (micro-credits) that other transactions added to the wallet meanwhile. `may_halt`: True if the
    wallet's last credit may have been reserved or used.
    """

    wallet: Wallet
    shift: int
    may_halt: bool


@dataclass
class Moves:
    """The decisions on wallets in one transaction."""

    now_ms: int
    _wallets: dict[str, _Move] = field(default_factory=dict)
    _new_reservations: list[Reservation] = field(default_factory=list)
    _changed: list[Reservation] = field(default_factory=list)
    _entries: list[dict[str, object]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._wallets)

    def wallet(self, standing: Standing) -> Wallet | None:
        """Return a wallet after the decisions so far; None if it has a pending change."""
        if not standing.is_still(self.now_ms):
            return None
        move = self._wallets.get(standing.customer_id)
        return standing.wallet if move is None else move.now

    def accept(self, standing: Standing, made: Reservation, most_held_micro: int | None) -> Wallet | None:
        """Reserve the credit of a new execution, and return its wallet after that.

        `most_held_micro`: the most that executions of the wallet can reserve; None: unlimited. If the wallet lacks the
        credit, exceeds that limit or has a pending change, return None and do not reserve credit.
        """
        wallet, amount = self.wallet(standing), made.amount_micro
        most = NO_END_MICRO if most_held_micro is None else most_held_micro
        if wallet is None or amount > wallet.available_micro or wallet.held_micro + amount > most:
            return None
        move = self._move(standing)
        move.needed = max(move.needed, move.dropped + amount)
        move.peak = max(move.peak, wallet.held_micro + amount - standing.wallet.held_micro)
        move.most_held = min(move.most_held, most)
        move.now = replace(wallet, held_micro=wallet.held_micro + amount)
        self._new_reservations.append(made)
        return move.now

    def lasts(self, made: Reservation) -> None:
        """Keep a new execution open. Its wallet is due when its reservation expires."""
        move = self._wallets[made.customer_id]
        move.ends_ms = made.expires_ms if move.ends_ms is None else min(move.ends_ms, made.expires_ms)

    def ends(self, made: Reservation, ended: Reservation) -> None:
        """Replace a new execution by its ended state."""
        self._new_reservations[self._new_reservations.index(made)] = ended

    def change(self, after: Reservation) -> None:
        """Add a changed execution that this transaction has locked."""
        self._changed.append(after)

    def charge(
        self, standing: Standing, before: Reservation, after: Reservation, drawn: Sequence[dict[str, object]]
    ) -> Wallet:
        """Post the draws of an execution, and free its reserved credit.

        Return the wallet afterwards.
        """
        move = self._move(standing)
        amount = sum(int(str(one["amount_micro"])) for one in drawn)
        freed = before.left_micro - after.left_micro
        move.first_ms = min([move.first_ms, *(int(str(one["ts"])) for one in drawn)])
        if after.state != "held":
            move.freed = max(move.freed, freed)
        move.now = replace(
            move.now, balance_micro=move.now.balance_micro - amount, held_micro=move.now.held_micro - freed
        )
        self._entries.extend(drawn)
        return move.now

    def _move(self, standing: Standing) -> _Move:
        return self._wallets.setdefault(standing.customer_id, _Move(standing, standing.wallet))

    def write(self, connection: sa.Connection) -> Mapping[str, Moved]:
        """Write all changes, and return the changed wallets by customer.

        Errors: NotTogether if a key was used meanwhile, or a wallet lacks the credit. NotTogether also if a wallet has
        a due change, or would exceed the largest balance or debt. Then roll the transaction back.
        """
        if self._new_reservations:
            rows = [vars(one) for one in sorted(self._new_reservations, key=lambda one: one.reservation)]
            if SQL.run(connection, "insert_runs", {"runs": rows}).rowcount < len(rows):
                raise NotTogether("a concurrent request used one of the keys")
        if self._changed:
            draws.SQL.run(connection, "finish", [vars(one) for one in self._changed])
        found = self._moved(connection)
        if self._entries:
            ordered = sorted(self._entries, key=lambda entry: str(entry["key"]))
            if len(entries.SQL.run(connection, "post", {"entries": ordered}).all()) < len(ordered):
                raise NotTogether("an entry of the ledger exists already")
        return found

    def _moved(self, connection: sa.Connection) -> dict[str, Moved]:
        if not self._wallets:
            return {}
        rows = [_row(self._wallets[customer]) for customer in sorted(self._wallets)]
        moved = {row.account_id: row for row in SQL.run(connection, "move", {"moves": rows, "now_ms": self.now_ms})}
        if len(moved) < len(rows):
            raise NotTogether("a wallet lacks credit for all requests of the group, or has changes that are due")
        found = {}
        for customer, move in self._wallets.items():
            row = moved[wallet_account(customer)]
            now = replace(
                move.now,
                balance_micro=int(row.balance_micro),
                held_micro=int(row.held_micro),
                overdraft_micro=int(row.overdraft_micro),
            )
            if abs(now.balance_micro) > MOST_BALANCE_MICRO:
                raise NotTogether("a wallet would exceed the largest balance or debt")
            shift = now.available_micro - move.now.available_micro
            at_peak = move.before.wallet.available_micro + shift - max(move.needed, 0)
            found[customer] = Moved(now, shift, now.available_micro <= move.freed or at_peak <= 0)
        return found


def _row(move: _Move) -> dict[str, object]:
    before, now = move.before.wallet, move.now
    return {
        "name": wallet_account(move.before.customer_id),
        "moved": now.balance_micro - before.balance_micro,
        "more_held": now.held_micro - before.held_micro,
        "needed": _ANY if move.needed == _ANY else move.needed + before.unbilled_micro,
        "peak": 0 if move.peak == _ANY else move.peak,
        "most_held": NO_END_MICRO if move.peak == _ANY else move.most_held,
        "ends_ms": move.ends_ms,
        "first_ms": move.first_ms,
    }


def hold_part(runs: Sequence[tuple[str, str]]) -> Part:
    """Return the query of executions by name, each with its organisation ('': any).

    Pass its rows to `held`.

    The query locks the executions, so that other transactions cannot end or extend them until this transaction is over.
    """
    return SQL.part("hold_runs", {"runs": [{"name": name, "of_org": org} for name, org in sorted(set(runs))]})


def among_part(names: Sequence[str]) -> Part:
    """Return the query that finds which of these executions exist.

    Each row has the key of an execution, `reservation`.
    """
    return SQL.part("among", {"names": sorted(set(names))})


def entries_part(spans: Sequence[Mapping[str, object]]) -> Part:
    """Return the query of entries under numbers of executions.

    `spans`: from `draws.span`.
    """
    return SQL.part("entries_of", {"spans": list(spans)})
