"""Reservations of executions.

An execution reserves its possible cost before it starts. Its cost is charged once, and the remaining reserved credit is
freed.

Guarantee: reserved, drawn and freed amounts change in one transaction with their entries. A repeated call returns the
first result, and the same key with different content is refused. Due changes are booked before a balance is used. All
code takes locks in one order: an execution's own key, then its sandboxes by their ids, then wallets by their ids. The
end of an execution never waits for a transaction that names its sandboxes.

Reservations of one wallet can be decided together. Then all are made as `reserve` would make them. If that is
impossible (`NotTogether`), each is requested alone. An index of the table prevents two open executions of an
organisation from naming the same sandbox. Ids belong to the organisation: an execution of another organisation with the
same id does not conflict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.accounts import read_wallets, wallet_account
from drawdown.ledger.due_changes import MATURE_AT_ONCE, expire, mature, touched
from drawdown.ledger.own_keys import strip_own_prefix
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import as_credits, counted_credits

SQL = queries(__file__)

Overage: TypeAlias = Literal["charge", "cap", "refuse"]
State: TypeAlias = Literal["held", "settled", "released", "expired"]
SettledBy: TypeAlias = Literal["receipt", "metering"]
"""The way in which an execution is charged.

Either its own draws and end charge it, or the samples of its sandboxes.
"""
NO_SANDBOXES: Final = "[]"
Hold: TypeAlias = Literal["wallet", "local", "declared"]
"""The balance that a reservation counts against.

`wallet`: a wallet of the embedded ledger. `local`: the provider's balance as last read. `declared`: no balance is
reduced.
"""
NO_END_MICRO: Final = 2**62
"""An amount larger than any wallet can have, in place of "no limit"."""
MATURE_TRIES: Final = 3
"""Most times that one transaction applies a wallet's due changes.

If changes are still due afterwards, the transaction fails with DatabaseBusy.
"""
MOST_HOLDERS_SAID: Final = 3
"""Reservations of a wallet that a refusal lists."""


@dataclass(frozen=True)
class Room:
    """Bounds of a reservation in addition to the wallet's balance, in micro-credits.

    `most_held_micro`: the most that all executions of the wallet can reserve; None: unlimited. `unbilled_micro`: use
    that is not charged yet, and that the wallet pays for first.
    """

    most_held_micro: int | None = None
    unbilled_micro: int = 0

    def values(self) -> dict[str, object]:
        most = NO_END_MICRO if self.most_held_micro is None else self.most_held_micro
        return {"most_held_micro": most, "unbilled_micro": self.unbilled_micro}


@dataclass(frozen=True)
class Ask:
    """A request for a reservation. Times are milliseconds.

    `reservation`: the key of the execution. `customer_id`: the wallet to charge. `amount_micro`: the amount to reserve.
    `estimate`: the base units by feature from which the price was computed, as JSON; None: the estimate is in credits.
    `project`, `subject` and `action` are labels. `overage`: charge, cap or refuse cost above the amount. `supplier`
    None: without a supplier. `settled_by`: the way in which the execution is charged. `hold`: the balance that the
    reservation counts against. `fingerprint`: distinguishes a repetition from another request under the same key.
    `sandboxes`: ids as JSON, in order. `payer_number`: if `customer_id` is not the organisation's own, the row of
    `payers` by which it pays.
    """

    reservation: str
    org_id: str
    customer_id: str
    amount_micro: int
    expires_ms: int
    overage: Overage
    fingerprint: str
    estimate: str | None = None
    project: str | None = None
    subject: str | None = None
    action: str | None = None
    supplier: str | None = None
    settled_by: SettledBy = "receipt"
    sandboxes: str = NO_SANDBOXES
    payer_number: int | None = None
    hold: Hold = "wallet"


@dataclass(frozen=True)
class Reservation:
    """A row of `reservations`, in micro-credits and milliseconds.

    Fields of the request are as in `Ask`. `drawn_micro`: the amount charged so far. `ended_ms` to `ended_reason`: its
    end (None: it is open).

    If metering settles the execution, metering charged its draws.
    """

    reservation: str
    org_id: str
    customer_id: str
    project: str | None
    subject: str | None
    action: str | None
    estimate: str | None
    amount_micro: int
    drawn_micro: int
    state: State
    overage: Overage
    accepted_ms: int
    expires_ms: int
    ended_ms: int | None
    ended_by: str | None
    ended_reason: str | None
    fingerprint: str
    actor: str
    reason: str
    supplier: str | None
    payer_number: int | None
    settled_by: SettledBy
    hold: Hold
    sandboxes: str

    @property
    def named(self) -> list[str]:
        """Return the sandboxes that the execution names."""
        names: list[str] = json.loads(self.sandboxes)
        return names

    @property
    def left_micro(self) -> int:
        """Return the amount that the execution still reserves, in micro-credits."""
        return max(self.amount_micro - self.drawn_micro, 0) if self.state == "held" else 0


def other_content(reservation: str, differs: Sequence[str] = ("content",)) -> Denied:
    """Return the refusal of a key with different content.

    `differs`: the names of the parts that differ.
    """
    return Denied(
        "other_content",
        f"key {strip_own_prefix(reservation)} was used for an execution with another "
        f"{', another '.join(differs)}. Credit was not reserved. Run `drawdown execution "
        f"show {typed(reservation)}`. If this is another execution, use a new key",
    )


def no_credit(
    connection: sa.Connection,
    customer_id: str,
    wanted_micro: int,
    own: str = "",
    unbilled_micro: int = 0,
    available_micro: int | None = None,
) -> Denied:
    """Return the refusal of a wallet without enough credit.

    The refusal shows the wallet's uncharged use, and the largest other reservations. `available_micro`: the credit that
    a preview found, with due changes; None: that of the wallet.
    """
    values = {"customer_id": customer_id, "own": own, "at_most": MOST_HOLDERS_SAID}
    holders = SQL.run(connection, "holders", values).all()
    available = available_micro
    if available is None:
        available = read_wallets(connection, [customer_id])[customer_id].available_micro - unbilled_micro
    used = f" (usage of {as_credits(unbilled_micro)} is not charged yet)" if unbilled_micro else ""
    held = [f"{row.reservation} reserves {as_credits(row.left_micro)} until {utc(row.expires_ms)}" for row in holders]
    text = f"{customer_id} has {counted_credits(available)} available{used}, and the execution needs "
    text += (f"{as_credits(wanted_micro)}. Run `drawdown ledger grant {typed(customer_id, 'AMOUNT')}`") + (
        ", or end an execution" if held else ""
    )
    return Denied("no_credit", "; ".join((text, *held)), "credits")


def too_much_held(customer_id: str, held_micro: int, wanted_micro: int, most_micro: int) -> Denied:
    """Return the refusal of reserved credit above the plan's limit for a wallet."""
    if wanted_micro > most_micro:
        return Denied(
            "too_much_held",
            f"this execution needs {counted_credits(wanted_micro)}, and the plan allows {as_credits(most_micro)} for "
            f"all executions of {customer_id} at once. Request less, or change the plan",
            "plan",
        )
    return Denied(
        "too_much_held",
        f"executions of {customer_id} reserve {counted_credits(held_micro)}, and this "
        f"execution needs {as_credits(wanted_micro)}. The plan allows {as_credits(most_micro)} "
        "at once. Wait until an execution ends, or change the plan",
        "plan",
    )


def no_room_of_payer(customer_id: str, wanted_micro: int, *, capped: bool) -> Denied:
    """Return the refusal of a payer without enough credit.

    The organisations that the payer pays for must not learn its credit, or its other reservations.

    `capped`: True if the plan's limit refuses, and not the amount of credit.
    """
    if capped:
        text = (
            f"the plan of {customer_id} does not allow further reservations for the executions that it pays for. Wait "
            "until such an execution ends"
        )
        return Denied("too_much_held", text, "plan")
    text = (
        f"{customer_id} has less than {counted_credits(wanted_micro)} to pay with. Request less, or name another payer"
    )
    return Denied("no_credit", text, "credits")


def read(connection: sa.Connection, reservation: str) -> Reservation | None:
    """Return a reservation; None if it does not exist."""
    row = SQL.run(connection, "read", {"reservation": reservation}, held="").mappings().one_or_none()
    return None if row is None else Reservation(**row)


def hold(connection: sa.Connection, reservation: str) -> Reservation | None:
    """Return a reservation, locked; None if it does not exist.

    Other transactions cannot end or extend the reservation until this transaction is over.
    """
    row = SQL.run(connection, "read", {"reservation": reservation}, held="for_update").mappings().one_or_none()
    return None if row is None else Reservation(**row)


def reserve(
    connection: sa.Connection,
    ask: Ask,
    by: By,
    most_held_micro: int | None = None,
    make_room: Callable[[], int] = lambda: 0,
) -> tuple[Reservation, bool]:
    """Reserve the possible cost of an execution.

    Return the reservation, and True if it existed before.

    `most_held_micro`: the most that all executions of the wallet can reserve; None: unlimited. `make_room` is called
    only for a new execution, before its credit is reserved. The wallet may be locked then, because an overdue execution
    named a sandbox (`take`). It returns the micro-credits of use that the wallet pays for first.

    Errors: Denied `other_content` for a key with different content, and `no_credit` if the wallet lacks credit. Denied
    `too_much_held` above the limit, and `too_many_executions` for too many metered executions. Denied `sandbox_taken`
    if another open execution names a sandbox. DatabaseBusy if more changes are due than one transaction books.
    """
    found, is_new = note(connection, ask, by)
    if not is_new:
        return found, True
    if ask.sandboxes != NO_SANDBOXES:
        take(connection, ask.reservation, ask.org_id, ask.customer_id, json.loads(ask.sandboxes), by.now_ms)
    room = Room(most_held_micro, make_room())
    if not _hold(connection, ask.customer_id, ask.amount_micro, ask.expires_ms, by.now_ms, room):
        raise _no_room(connection, found, ask.amount_micro, room)
    if ask.settled_by == "metering":
        require_few(connection, ask.customer_id, by.now_ms, with_new=True)
    return found, False


def note(connection: sa.Connection, ask: Ask, by: By) -> tuple[Reservation, bool]:
    """Record the request of an execution.

    Return the reservation, and True if it is new.

    The call does not reserve credit yet. Errors: Denied `other_content`.
    """
    values = {**vars(ask), "accepted_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    if SQL.run(connection, "insert", values).first() is not None:
        return noted(ask, by), True
    found = read(connection, ask.reservation)
    assert found is not None
    if found.fingerprint != ask.fingerprint:
        raise other_content(ask.reservation)
    return found, False


def noted(ask: Ask, by: By) -> Reservation:
    """Return a new reservation with the values of its row."""
    return Reservation(
        **vars(ask),
        drawn_micro=0,
        state="held",
        accepted_ms=by.now_ms,
        ended_ms=None,
        ended_by=None,
        ended_reason=None,
        actor=by.actor,
        reason=by.reason,
    )


def grow(
    connection: sa.Connection,
    found: Reservation,
    amount_micro: int,
    expires_ms: int,
    now_ms: int,
    room: Room = Room(),
) -> Reservation:
    """Extend a reservation to at least `amount_micro` and `expires_ms`.

    The call never reduces the amount or the time.

    Errors: Denied `no_credit` or `too_much_held` if the additional amount exceeds the credit or the limit. DatabaseBusy
    if more changes are due than one transaction books.
    """
    grown = replace(
        found,
        amount_micro=max(found.amount_micro, amount_micro),
        expires_ms=max(found.expires_ms, expires_ms),
    )
    more = grown.left_micro - found.left_micro
    if more and not _hold(connection, found.customer_id, more, grown.expires_ms, now_ms, room):
        raise _no_room(connection, found, more, room)
    SQL.run(connection, "grow", vars(grown))
    return grown


def _no_room(connection: sa.Connection, found: Reservation, wanted_micro: int, room: Room) -> Denied:
    customer_id, most_held_micro = found.customer_id, room.most_held_micro
    held_micro = read_wallets(connection, [customer_id])[customer_id].held_micro
    capped = most_held_micro is not None and held_micro + wanted_micro > most_held_micro
    if found.payer_number is not None:
        return no_room_of_payer(customer_id, wanted_micro, capped=capped)
    if most_held_micro is not None and capped:
        return too_much_held(customer_id, held_micro, wanted_micro, most_held_micro)
    return no_credit(connection, customer_id, wanted_micro, found.reservation, room.unbilled_micro)


def _hold(
    connection: sa.Connection,
    customer_id: str,
    amount_micro: int,
    expires_ms: int,
    now_ms: int,
    room: Room,
) -> bool:
    """Reserve an amount in a wallet, and return True if the credit sufficed.

    If a change is due, the statement does not reserve credit. It may still take the wallet's lock, because another
    transaction may have made the wallet due meanwhile. Maturing then takes the lock of a pool, too. A transaction that
    allots from the pool at the same time may wait for this one. The database then ends one of the two, and `write` runs
    it again.
    """
    values = {
        "account_id": wallet_account(customer_id),
        "amount_micro": amount_micro,
        "expires_ms": expires_ms,
        "now_ms": now_ms,
        **room.values(),
    }
    for _ in range(MATURE_TRIES):
        if SQL.run(connection, "hold", values).first() is not None:
            return True
        if mature(connection, [customer_id], now_ms):
            return SQL.run(connection, "hold", values).first() is not None
    raise DatabaseBusy(f"too many changes are due in the wallet of {customer_id} for one transaction. Try again")


def expire_one(connection: sa.Connection, found: Reservation, now_ms: int) -> Reservation:
    """Expire a due reservation that this transaction has locked, and free its credit.

    Return the expired reservation.
    """
    expire(connection, [found.reservation], now_ms)
    after = read(connection, found.reservation)
    assert after is not None
    free(connection, found, after)
    return after


def free(connection: sa.Connection, before: Reservation, after: Reservation) -> None:
    """Free the credit in the wallet that a reservation no longer needs.

    Credit outside a wallet is free at the end of the reservation.
    """
    freed_micro = before.left_micro - after.left_micro
    if freed_micro and before.hold == "wallet":
        values = {"account_id": wallet_account(before.customer_id), "freed_micro": freed_micro}
        SQL.run(connection, "free", values)


class NotTogether(Refused):
    """Raised if one transaction cannot make all changes of several requests.

    A key was used before, or a wallet lacks credit for all requests, has a due change, or would exceed the largest
    balance or debt. Roll the transaction back.
    """


def reserve_all(
    connection: sa.Connection, asked: Sequence[tuple[Ask, By]], now_ms: int, room: Room
) -> list[Reservation]:
    """Reserve the possible cost of several executions of one wallet, within `room`.

    Return the new reservations, in the order of the requests. Errors: NotTogether.
    """
    (customer_id,) = {ask.customer_id for ask, _ in asked}
    made = [noted(ask, by) for ask, by in asked]
    if _insert(connection, made) < len(made):
        raise NotTogether("a key was used before, or occurs twice")
    values = {
        "account_id": wallet_account(customer_id),
        "amount_micro": sum(ask.amount_micro for ask, _ in asked),
        "expires_ms": min(ask.expires_ms for ask, _ in asked),
        "now_ms": now_ms,
        **room.values(),
    }
    if SQL.run(connection, "hold", values).first() is None:
        raise NotTogether(f"the wallet of {customer_id} lacks credit for all executions, or has changes that are due")
    return made


_SAID: Final = attrgetter(
    "reservation", "org_id", "customer_id", "project", "subject", "action", "estimate", "amount_micro", "overage",
    "accepted_ms", "expires_ms", "fingerprint", "actor", "reason", "supplier",
)  # fmt: skip


def _insert(connection: sa.Connection, made: Sequence[Reservation]) -> int:
    """Insert reservations, and return the number of new ones."""
    if connection.dialect.name == "postgresql":
        return SQL.run(connection, "insert_together", {"asks": [vars(one) for one in made]}).rowcount
    # Use the driver directly, because a mapping for each row would double the time.
    return connection.exec_driver_sql(SQL.text("insert_together", "sqlite"), list(map(_SAID, made))).rowcount


MOST_METERED: Final = 1_000
"""Open executions of one wallet that metering settles.

Drawdown reads all these executions if the wallet lacks credit.
"""


def require_few(connection: sa.Connection, customer_id: str, now_ms: int, *, with_new: bool) -> None:
    """Refuse another metered execution if its wallet has too many.

    `with_new`: True if the execution is already written. This transaction has locked the wallet, so it reads the
    executions of all earlier transactions. Errors: Denied `too_many_executions`, at step `account`.
    """
    most = MOST_METERED if with_new else MOST_METERED - 1
    values = {"customer_id": customer_id, "now_ms": now_ms, "at_most": most + 1}
    if int(SQL.run(connection, "metered", values).scalar_one()) > most:
        text = f"{customer_id} has {MOST_METERED:,} open executions that metering settles, which is the maximum"
        raise Denied(
            "too_many_executions", f"{text}. Settle an execution, or name more sandboxes in each execution", "account"
        )


def require_free(connection: sa.Connection, org_id: str, names: Sequence[str], now_ms: int) -> None:
    """Check that open executions do not name these sandboxes.

    The final check is in `take`.

    Errors: Denied `sandbox_taken`.
    """
    values = {"org_id": org_id, "names": list(names), "now_ms": now_ms}
    row = SQL.run(connection, "takers", values).first() if names else None
    if row is not None:
        until = utc(row.expires_ms)
        raise Denied(
            "sandbox_taken",
            f"execution {row.reservation} names {row.sandbox_id} until {until}. End that execution first",
        )


def payers_over(connection: sa.Connection, org_id: str, names: Sequence[str], now_ms: int) -> list[str]:
    """Return the payers of overdue executions that name these sandboxes.

    An execution is overdue if it is past its end, and not marked as expired yet. `take` matures the payers' wallets.
    """
    if not names:
        return []
    return list(SQL.run(connection, "over", {"org_id": org_id, "names": list(names), "now_ms": now_ms}).scalars())


def take(
    connection: sa.Connection, reservation: str, org_id: str, customer_id: str, names: Sequence[str], now_ms: int
) -> None:
    """Let a new execution name its sandboxes.

    If overdue executions still name these sandboxes, expire these executions first.

    Errors: Denied `sandbox_taken`.
    """
    named = [{"reservation": reservation, "sandbox_id": name, "org_id": org_id} for name in sorted(names)]
    new = set(SQL.run(connection, "take", {"named": named}).scalars())
    if len(new) == len(named):
        return
    over = payers_over(connection, org_id, names, now_ms)
    if over:
        whose = sorted({customer_id, *over})
        due_of, _ = touched(connection, whose, now_ms)
        values = {"customers": whose, "due_of": due_of, "now_ms": now_ms, "at_most": MATURE_AT_ONCE}
        SQL.run(connection, "hold_runs", values).all()  # take the locks that must come before a wallet's lock
        mature(connection, whose, now_ms)
        new |= set(SQL.run(connection, "take", {"named": named}).scalars())
    if len(new) < len(named):
        missing = [name for name in names if name not in new]
        require_free(connection, org_id, missing, now_ms)
        raise Denied(
            "sandbox_taken", f"another execution named the sandbox {missing[0]} a moment ago. Send the request again"
        )


class Denied(Refused):
    """Raised if an execution, or a step of an execution, is refused.

    `code`: the code for programs. `step`: the step of the permission order that refused; None if the refusal is not
    part of that order.
    """

    def __init__(self, code: str, text: str, step: str | None = None) -> None:
        super().__init__(text)
        self.code, self.step = code, step
