"""Change suppliers for a person: terms, freezes, reversals and payouts.

Guarantee: each call is one transaction, under the supplier's lock, and is recorded with actor and reason. A repeated
call has no further effect, so a person who lost the response can repeat the call. Wallets do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.ledger import payouts, settlements
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.payouts import Payout
from drawdown.ledger.reservations import Denied
from drawdown.ledger.settlements import PPM, Reversal, Settlement, Supplier, Terms
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    CREDITS,
    FLAG,
    ID,
    LENGTH,
    PERCENT,
    Action,
    Fact,
    Invocation,
    Label,
    New,
    Size,
    Undo,
    Values,
)
from drawdown.schema.errors import UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import lasting, show_credits, show_percent
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS, as_credits
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.settlements.lists import (
    Run,
    SettlementRow,
    account_of_supplier,
    row_of,
    show_settlement,
    unpaid,
)
from drawdown.worker.settlements.lists import (
    Supplier as SupplierId,
)

MAX_HOLD_MS: Final = 3_650 * DAY_MS
"""Longest hold of a settlement, in milliseconds (ten years)."""


@dataclass(frozen=True)
class Change:
    """The changes of a supplier's terms (see `ledger.settlements.Terms`).

    A field that is None does not change. A new supplier needs `share_ppm`, and gets the defaults of the other fields.
    """

    share_ppm: int | None = None
    hold_ms: int | None = None
    threshold_micro: int | None = None
    takes_clawbacks: bool | None = None


@dataclass(frozen=True)
class Reversed:
    """A reversal, and its settlement as it is now.

    `repeated`: an earlier call made the same reversal.
    """

    reversal: Reversal
    repeated: bool
    settlement: Settlement


def set_supplier(
    connection: sa.Connection, supplier: str, change: Change, by: By, *, new: bool = False
) -> tuple[Supplier, Supplier | None]:
    """Set the terms of a supplier, for executions that end from now on.

    Return the supplier as it is now, and as it was (None: it is new).

    Errors: UsageError for invalid terms, or for a new supplier without a share. Unless `new`, UnknownId for an unknown
    supplier.
    """
    if not is_clean_id(supplier):
        raise UsageError(
            f"invalid supplier id {quote_value(supplier)}: expected 1 to 200 characters without control characters"
        )
    ids.require(connection, ids.SUPPLIER, supplier, new=new)

    def changed(was: Supplier | None) -> Terms:
        if was is None and change.share_ppm is None:
            raise UsageError(f"the supplier {supplier} is new. Pass its share with --share")
        terms = Terms(0) if was is None else was.terms
        terms = replace(terms, **{name: value for name, value in vars(change).items() if value is not None})
        _require_sane(terms)
        return terms

    found, was = settlements.set_terms(connection, supplier, changed, by)
    if was is None or found.revision != was.revision:
        before = None if was is None else vars(was.terms)
        record(connection, "supplier_set", supplier, {**vars(found.terms), "was": before}, by)
    return found, was


def freeze_supplier(connection: sa.Connection, supplier: str, by: By, *, undo: bool = False) -> bool:
    """Freeze a supplier, or end its freeze (`undo`).

    Return True if the call began or ended the freeze. A payout does not release the settlements of a frozen supplier.
    Executions that name the supplier continue.

    Errors: UnknownId; Denied `clock_behind`.
    """
    _held_supplier(connection, supplier)
    return _freeze(connection, supplier, None, by, undo)


def freeze(connection: sa.Connection, reservation: str, by: By, *, undo: bool = False) -> tuple[Settlement, bool]:
    """Freeze one settlement, or end its freeze (`undo`).

    Return the settlement as it is now, and True if the call began or ended the freeze.

    Errors: UnknownId; Denied `released`, `clock_behind`.
    """
    found = _hold_settlement(connection, reservation, by.now_ms)
    if found.payout is not None and not undo:
        command = f"drawdown settlement reverse {typed(reservation)} --amount CREDITS"
        then = (
            "Settle the difference with the supplier directly"
            if found.is_final
            else f"To deduct an amount from the next payout, run `{command}`"
        )
        raise Denied("released", f"cannot freeze {reservation}: {found.payout} released it. {then}")
    done = _freeze(connection, found.supplier, reservation, by, undo)
    return _read(connection, reservation, by.now_ms), done


def reverse(connection: sa.Connection, reservation: str, key: str, amount_micro: int | None, by: By) -> Reversed:
    """Reverse a settlement under the caller's key.

    Without an amount, reverse the whole rest of the settlement. A reversal does not refund the customer. To refund the
    customer, grant credit.

    Errors: as `ledger.settlements.reverse`; UnknownId; UsageError.
    """
    if not is_clean_id(key):
        raise UsageError(
            f"invalid reversal key {quote_value(key)}: expected 1 to 200 characters without control characters"
        )
    if amount_micro is not None and not 0 < amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid reversal {as_credits(amount_micro)}: expected more than 0, and at most 1,000,000,000 credits"
        )
    found = _hold_settlement(connection, reservation, by.now_ms)
    made, repeated = settlements.reverse(connection, found, key, amount_micro, by)
    if not repeated:
        details = {"key": key, "amount_micro": made.amount_micro, "is_clawback": made.is_clawback}
        record(connection, "settlement_reverse", reservation, details, by)
    return Reversed(made, repeated, _read(connection, reservation, by.now_ms))


def make_payout(
    connection: sa.Connection, supplier: str, period: str, by: By, expect_micro: int | None = None
) -> tuple[Payout, bool]:
    """Release a supplier's eligible settlements as its payout of a period.

    Return the payout, and True if an earlier call made it. `expect_micro`: the expected amount in micro-credits, as the
    dry run showed (None: any amount).

    Errors: as `ledger.payouts.release`. UnknownId. HistoryDoubted while the database is stopped, because a payout in
    lost history may have been paid, and would be paid twice (R1).
    """
    require_whole(connection)
    made, repeated = payouts.release(connection, _held_supplier(connection, supplier), period, expect_micro, by)
    if not repeated:
        names = ("released_micro", "carried_micro", "total_micro", "lines")
        record(connection, "settlement_payout", made.payout, {name: getattr(made, name) for name in names}, by)
    return made, repeated


def _freeze(connection: sa.Connection, supplier: str, reservation: str | None, by: By, undo: bool) -> bool:
    act = settlements.unfreeze if undo else settlements.freeze
    done = act(connection, supplier, reservation, by)
    if done:
        action = "settlement_unfreeze" if undo else "settlement_freeze"
        record(connection, action, reservation or supplier, {"supplier": supplier, "reservation": reservation}, by)
    return done


def _held_supplier(connection: sa.Connection, supplier: str) -> Supplier:
    found = settlements.hold_supplier(connection, supplier)
    if found is None:
        ids.require(connection, ids.SUPPLIER, supplier)
        raise UsageError(explain_race("supplier", supplier))
    return found


def _hold_settlement(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement:
    found = settlements.hold(connection, reservation, now_ms)
    if found is None:
        ids.require(connection, ids.SETTLEMENT, reservation)
        raise UsageError(explain_race("settlement", reservation))
    return found


def _read(connection: sa.Connection, reservation: str, now_ms: int) -> Settlement:
    found = settlements.read(connection, reservation, now_ms)
    assert found is not None
    return found


def _require_sane(terms: Terms) -> None:
    if not 0 <= terms.share_ppm <= PPM:
        raise UsageError(
            f"invalid share of {terms.share_ppm:,} millionths: expected 0 to 1,000,000, which is 100 per cent"
        )
    if not 0 <= terms.threshold_micro <= MAX_ENTRY_MICRO:
        raise UsageError(f"invalid threshold {as_credits(terms.threshold_micro)}: expected 0 to 1,000,000,000 credits")
    if not 0 <= terms.hold_ms <= MAX_HOLD_MS:
        raise UsageError(f"invalid hold {lasting(terms.hold_ms)}: expected 0 to 3,650 days")
    if terms.hold_ms < LATE_HORIZON_MS and not terms.takes_clawbacks:
        raise UsageError(
            f"invalid hold {lasting(terms.hold_ms)}: without clawbacks, it must be at least "
            f"{LATE_HORIZON_MS // DAY_MS} days, because an execution may be corrected until then. Pass a longer "
            "--hold, or --clawbacks"
        )


# Actions.


@dataclass(frozen=True)
class SupplierSet:
    """A supplier's terms, and its former terms (`was`, null: it is new).

    `changed`: True if the supplier is new, or the call changed its terms.
    """

    supplier: str
    share_ppm: int
    hold_ms: int
    threshold_micro: int
    takes_clawbacks: bool
    was: Terms | None
    changed: bool


def _set(
    connection: sa.Connection,
    asked: Invocation,
    supplier: SupplierId,
    *,
    share_ppm: Annotated[int | None, PERCENT, "Share of an execution's charge, in per cent"] = None,
    hold_ms: Annotated[
        int | None, LENGTH, "Hold of a settlement before it is eligible: 45d; 35d for a new supplier"
    ] = None,
    threshold_micro: Annotated[int | None, CREDITS, "Credits that a payout must exceed; 100 for a new supplier"] = None,
    clawbacks: Annotated[bool | None, FLAG, "Permission to reverse released settlements"] = None,
    new: New = False,
) -> SupplierSet:
    change = Change(share_ppm, hold_ms, threshold_micro, clawbacks)
    found, was = set_supplier(connection, supplier, change, asked.by, new=new)
    terms = found.terms
    changed = was is None or found.revision != was.revision
    return SupplierSet(
        supplier, terms.share_ppm, terms.hold_ms, terms.threshold_micro, terms.takes_clawbacks,
        None if was is None else was.terms, changed,
    )  # fmt: skip


def _terms(done: SupplierSet) -> str:
    more = f"a payout of more than {show_credits(done.threshold_micro)} credits"
    terms = f"{show_percent(done.share_ppm)}, held for {lasting(done.hold_ms)}, {more}"
    same = "" if done.changed else "nothing changes; "
    return f"supplier {done.supplier}: {same}{terms}, clawbacks: {'yes' if done.takes_clawbacks else 'no'}"


@dataclass(frozen=True)
class SupplierFrozen:
    """A supplier's freeze.

    `is_frozen`: payouts do not release the supplier's settlements now. `changed`: the call began or ended the freeze.
    """

    supplier: str
    is_frozen: bool
    changed: bool


def _freeze_supplier(
    connection: sa.Connection, asked: Invocation, supplier: SupplierId, *, undo: Undo = False
) -> SupplierFrozen:
    return SupplierFrozen(supplier, not undo, freeze_supplier(connection, supplier, asked.by, undo=undo))


@dataclass(frozen=True)
class SettlementFrozen(SettlementRow):
    """A settlement as it is now.

    `is_frozen`: the settlement itself is frozen, not only its supplier. `changed`: the call began or ended that freeze.
    """

    is_frozen: bool
    changed: bool


def _freeze_one(
    connection: sa.Connection, asked: Invocation, execution: Run, *, undo: Undo = False
) -> SettlementFrozen:
    found, changed = freeze(connection, execution, asked.by, undo=undo)
    return SettlementFrozen(**vars(row_of(found)), is_frozen=not undo, changed=changed)


def _frozen(what: str, is_frozen: bool, changed: bool) -> str:
    return f"{what}: {'frozen' if is_frozen else 'not frozen'}{'' if changed else ' before; nothing changes'}"


@dataclass(frozen=True)
class SettlementReversed(SettlementRow):
    """A settlement after a part of it was reversed under a key.

    `amount_micro`: the reversed part, in micro-credits. `is_clawback`: the settlement was released before the reversal.
    `remaining_micro`: the part that is not reversed. `repeated`: an earlier call made the same reversal under this key.
    """

    reversal: str
    amount_micro: int
    is_clawback: bool
    remaining_micro: int
    repeated: bool


def _reverse(
    connection: sa.Connection,
    asked: Invocation,
    execution: Run,
    *,
    amount_micro: Annotated[
        int | None, CREDITS, "Amount in credits; the whole settlement if omitted", Label("Credits")
    ] = None,
) -> SettlementReversed:
    done = reverse(connection, execution, asked.key, amount_micro, asked.by)
    made, found = done.reversal, done.settlement
    return SettlementReversed(
        **vars(row_of(found)), reversal=made.reversal, amount_micro=made.amount_micro, is_clawback=made.is_clawback,
        remaining_micro=found.left_micro, repeated=done.repeated,
    )  # fmt: skip


def _taken_back(done: SettlementReversed) -> str:
    how = "deducted from the next payout" if done.is_clawback else "no longer owed"
    left = (
        "the same reversal was made before, so nothing changed"
        if done.repeated
        else f"{show_credits(done.remaining_micro)} are left"
    )
    return f"{done.execution}: {show_credits(done.amount_micro)} credits are {how}; {left}"


@dataclass(frozen=True)
class PayoutMade(Payout):
    """A payout, made or planned.

    `exists`: False if a dry run only showed it. `repeated`: an earlier call made the same payout. `unpaid_micro`: the
    part of it, in micro-credits, for executions of wallets that have a negative balance now.
    """

    exists: bool
    repeated: bool
    unpaid_micro: int


def _payout(
    connection: sa.Connection,
    asked: Invocation,
    supplier: SupplierId,
    *,
    period: Annotated[str, ID, "Month, such as 2026-01; this month if omitted", Label("Month")] = "",
    expect_micro: Annotated[
        int | None,
        CREDITS,
        "Expected amount in credits, as the dry run showed; the command rejects another amount",
        Label("Amount, credits"),
    ] = None,
) -> PayoutMade:
    if expect_micro is None and not asked.dry_run:
        raise UsageError("pass --expect CREDITS, the amount that the dry run showed", at="expect")
    made, repeated = make_payout(
        connection, supplier, period or payouts.period_of(asked.by.now_ms), asked.by, expect_micro
    )
    return PayoutMade(
        **vars(made),
        exists=repeated or not asked.dry_run,
        repeated=repeated,
        unpaid_micro=unpaid(connection, made.payout),
    )


def _payout_sentences(done: PayoutMade) -> list[str]:
    line = f"{done.payout}: {show_credits(done.total_micro)} credits, {show_credits(done.released_micro)} released"
    line += f" and {show_credits(-done.carried_micro)} clawed back" if done.carried_micro else ""
    line += f", {counted(done.lines, 'line')}"
    if done.repeated:
        line += "; the same payout was made before, so nothing changed"
    file = f"`drawdown settlement export {typed(done.payout)}` exports its file"
    if not done.exists:
        file = f"to release it, pass --expect {as_credits(done.total_micro)}"
    if not done.unpaid_micro:
        return [line, file]
    owed = f"{show_credits(done.unpaid_micro)} credits of it are for executions of wallets that owe now"
    return [
        line,
        file,
        f"{owed}, so customers have not paid them yet. To exclude a settlement, run `drawdown settlement freeze "
        "EXECUTION`",
    ]


def _facts_of_supplier(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    found = account_of_supplier(connection, values["supplier"], asked.by.now_ms)
    return [
        Fact("Releases", "frozen" if found.is_frozen else "open"),
        Fact("Eligible", show_credits(found.sums.eligible_micro)),
        Fact("Frozen", show_credits(found.sums.frozen_micro)),
        Fact("On hold", show_credits(found.sums.hold_micro), fixed=False),
        Fact("Released", show_credits(found.sums.released_micro)),
        Fact("To be clawed back", show_credits(found.sums.carried_micro)),
    ]


def _facts_of_terms(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = settlements.read_supplier(connection, values["supplier"])
    if found is None:
        return [Fact("Terms", "none yet")]
    terms = found.terms
    return [
        Fact("Share", show_percent(terms.share_ppm)),
        Fact("Held for", lasting(terms.hold_ms)),
        Fact("Payout threshold", show_credits(terms.threshold_micro)),
        Fact("Clawbacks", "yes" if terms.takes_clawbacks else "no"),
    ]


def _facts_of_settlement(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    found, _, freezes = show_settlement(connection, values["execution"], asked.by.now_ms, 100)
    frozen = any(one.ended_ms is None for one in freezes)
    return [
        Fact("State", found.state),
        Fact("Frozen", "yes" if frozen else "no"),
        Fact("Owed", show_credits(found.owed_micro)),
        Fact("Clawed back", show_credits(found.clawed_back_micro)),
    ]


def _size_of_reversal(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    """Return the size of a reversal.

    The size is the amount of the reversal, or without an amount, the whole rest of the settlement.
    """
    amount: int | None = values["amount_micro"]
    if amount is None:
        amount = show_settlement(connection, values["execution"], asked.by.now_ms, 1)[0].left_micro
    return Size(taken_micro=amount)


def _size_of_payout(connection: sa.Connection, asked: Invocation, values: Values) -> Size:
    """Return the size of a payout: the eligible settlements less the clawbacks."""
    found = account_of_supplier(connection, values["supplier"], asked.by.now_ms)
    return Size(micro=max(found.sums.eligible_micro - found.sums.carried_micro, 0))


SCOPE: Final = "settlements:write"
ACTIONS: Final = (
    Action(
        "supplier set",
        "Set a supplier's terms",
        "Create or change a supplier's terms. To create the supplier, pass --new. The terms apply to executions "
        "that end from now on.",
        _set,
        _terms,
        path="/v1/suppliers/{supplier}",
        scope=SCOPE,
        role="admin",
        facts=_facts_of_terms,
        place="/console/settlements?supplier={supplier}",
    ),
    Action(
        "supplier freeze",
        "Freeze a supplier",
        "Freeze a supplier, so that it does not get a payout. --undo ends the freeze. Drawdown still accepts and "
        "settles executions that name the supplier.",
        _freeze_supplier,
        lambda done: _frozen(f"supplier {done.supplier}", done.is_frozen, done.changed),
        path="/v1/suppliers/{supplier}/freeze",
        scope=SCOPE,
        facts=_facts_of_supplier,
        place="/console/settlements?supplier={supplier}",
    ),
    Action(
        "settlement freeze",
        "Freeze a settlement",
        "Freeze a settlement, so that payouts omit it. --undo ends the freeze.",
        _freeze_one,
        lambda done: f"{_frozen(done.execution, done.is_frozen, done.changed)}; its state is {done.state}",
        path="/v1/settlements/{execution}/freeze",
        scope=SCOPE,
        facts=_facts_of_settlement,
        place="/console/settlement?key={execution}",
    ),
    Action(
        "settlement reverse",
        "Reverse a settlement",
        "Reverse a settlement, whole or in part. If the settlement was released, its terms must allow clawbacks, and "
        "the next payout is lower by the amount. Drawdown does not refund the customer. To refund, run `drawdown "
        "ledger grant CUSTOMER AMOUNT --kind refund`.",
        _reverse,
        _taken_back,
        path="/v1/settlements/{execution}/reverse",
        scope=SCOPE,
        facts=_facts_of_settlement,
        size=_size_of_reversal,
        place="/console/settlement?key={execution}",
        keyed=True,
    ),
    Action(
        "settlement payout",
        "Release a payout",
        "Release a supplier's eligible settlements as a payout. A supplier has at most one payout a month, which must "
        "exceed the threshold. Drawdown does not pay the supplier. Pay the supplier yourself.",
        _payout,
        _payout_sentences,
        path="/v1/suppliers/{supplier}/payout",
        scope=SCOPE,
        facts=_facts_of_supplier,
        size=_size_of_payout,
        place="/console/settlements?supplier={supplier}",
    ),
)
