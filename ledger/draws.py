"""The draws, which charge an execution to its wallet.

An execution is charged in parts, at its end, or when it is released.

Guarantee: each number of an execution is drawn once, with one content. The final cost never changes. An amount in base
units is priced by the rate card at the acceptance of the execution (`card`). Rates that were set later for an earlier
time do not apply. The rule for cost above the reserved credit, the overage, is `charge`, `cap` or `refuse`. With `cap`,
a second entry writes off the cost above the reserved credit. If metering settles an execution, this module does not
charge it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.entries import MAX_ENTRY_MICRO, post
from drawdown.ledger.pools import require_limit
from drawdown.ledger.rates import RateCard
from drawdown.ledger.reservations import NO_SANDBOXES, Denied, Reservation, State, free
from drawdown.ledger.settlements import owe
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import as_credits, counted_credits

SQL = queries(__file__)

FINAL: Final = "final"
"""The number of the draw that ends an execution."""
OTHER_SIDE: Final = "revenue"
"""The other account of an amount without a feature."""


@dataclass(frozen=True)
class Cost:
    """The cost of an execution.

    Either `amount_micro` (micro-credits) or `quantities` (base units by feature) is set. The other is None.
    """

    amount_micro: int | None = None
    quantities: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Line:
    """A part of a draw: an amount in micro-credits, and the quantity of a feature.

    The quantity is None if the cost is an amount of credits.
    """

    feature: str | None
    quantity: int | None
    amount_micro: int

    @property
    def content(self) -> tuple[str | None, int]:
        """Return the content of a line, to recognise a repetition.

        The content is the feature and the quantity. Without a quantity, it has the amount in micro-credits.
        """
        return self.feature, self.amount_micro if self.quantity is None else self.quantity


@dataclass(frozen=True)
class Drawn:
    """The result of a draw: the reservation, and the amounts charged and written off.

    The amounts are those that this call charged and wrote off, in micro-credits.

    `repeated`: True if the same draw existed before. The amounts are then 0.
    """

    reservation: Reservation
    charged_micro: int
    written_off_micro: int
    repeated: bool


def other_draw(found: Reservation, number: int) -> Denied:
    """Return the refusal of a number that exists with different content.

    If the caller chose another number for the same draw, it would be charged twice.
    """
    return Denied(
        "other_content",
        f"draw {number} of {found.reservation} exists with different content. To repeat it, send its first content. "
        "If this is another draw, use another number",
    )


def draw(connection: sa.Connection, found: Reservation, number: int, cost: Cost, card: RateCard, by: By) -> Drawn:
    """Charge a part of an open execution, under a number that the caller chooses.

    This transaction must have locked `found`.

    Errors: Denied `other_content` for a number with different content, `ended`, `beyond_hold`, `payer_limit`,
    `no_rate`, `metered`. UsageError for a negative cost, or a cost above the largest entry. BeyondBalance.
    """
    _require_unmetered(found, cost)
    lines = priced(found, cost, card)
    before = _lines_of(connection, found, f"d{number}")
    if before:
        if [line.content for line in before] != [line.content for line in lines]:
            raise other_draw(found, number)
        return Drawn(found, 0, 0, repeated=True)
    if found.state != "held":
        raise Denied("ended", f"{found.reservation} is {found.state}, so you cannot charge it. {instead(found)}")
    charged, off = _charge(connection, found, f"d{number}", lines, by)
    after = replace(found, drawn_micro=found.drawn_micro + charged)
    SQL.run(connection, "draw", vars(after))
    free(connection, found, after)
    return Drawn(after, charged, off, repeated=False)


def finish(
    connection: sa.Connection, found: Reservation, state: State, cost: Cost | None, card: RateCard, by: By
) -> Drawn:
    """End an execution as `settled` or `released`.

    `cost`: the whole cost of the execution. `settled` requires it; `released` with None charges only the draws so far.

    The function frees the remaining reserved credit, and makes the supplier's settlement. An expired execution can
    still be settled. This transaction must have locked `found`.

    Errors: Denied `ended` for an execution that ended otherwise, and `other_content` for another cost. Denied
    `below_drawn` for less than was drawn before, and `other_unit` for quantities after draws in credits. Denied
    `beyond_hold`, `payer_limit` and `no_rate`. Denied `metered` for a cost of an execution that metering settles.
    UsageError for a negative cost, or a cost above the largest entry. BeyondBalance.
    """
    _require_unmetered(found, cost)
    if found.state == state:
        return _repeat_end(connection, found, cost, card)
    if found.state != "held" and (found.state, state) != ("expired", "settled"):
        raise Denied("ended", f"{found.reservation} is {found.state}, so it cannot become {state}. {instead(found)}")
    lines = [] if cost is None else _rest(connection, found, cost, card)
    if lines is None and cost is not None and cost.quantities is not None:
        raise Denied(
            "below_drawn",
            f"{found.reservation} has drawn a higher quantity of a feature. Send the execution's total quantities, "
            "including earlier draws",
        )
    if lines is None:
        raise Denied(
            "below_drawn",
            f"{found.reservation} has drawn {counted_credits(found.drawn_micro)}, so "
            "its cost cannot be lower. To return credit, run `drawdown ledger grant CUSTOMER AMOUNT --kind refund`",
        )
    charged, off = _charge(connection, found, FINAL, lines, by)
    after = replace(
        found,
        state=state,
        drawn_micro=found.drawn_micro + charged,
        ended_ms=by.now_ms,
        ended_by=by.actor,
        ended_reason=by.reason,
    )
    SQL.run(connection, "finish", vars(after))
    if found.sandboxes != NO_SANDBOXES:
        SQL.run(connection, "close", vars(after))
    free(connection, found, after)
    owe(connection, after, by.now_ms)
    return Drawn(after, charged, off, repeated=False)


def _require_unmetered(found: Reservation, cost: Cost | None) -> None:
    if cost is not None and found.settled_by == "metering":
        raise Denied(
            "metered",
            f"cannot draw on {found.reservation}: metering charges it from its sandboxes' samples. Settle or release "
            "it without a cost",
        )


def _repeat_end(connection: sa.Connection, found: Reservation, cost: Cost | None, card: RateCard) -> Drawn:
    """Return the result of a repeated end.

    The function compares the costs as if the last draw did not exist. Errors: Denied `other_content`.
    """
    last = _lines_of(connection, found, FINAL)
    if cost is not None or last:
        wanted = [] if cost is None else _rest(connection, found, cost, card, last)
        if wanted is None or [line.content for line in wanted] != [line.content for line in last]:
            drawn = counted_credits(found.drawn_micro)
            text = f"{found.reservation} is {found.state} at {drawn}, so its cost cannot change. To return credit, run "
            raise Denied("other_content", f"{text}`drawdown ledger grant CUSTOMER AMOUNT --kind refund`")
    return Drawn(found, 0, 0, repeated=True)


def instead(found: Reservation) -> str:
    """Return the next step for an execution that has ended."""
    if found.state == "expired" and found.settled_by == "metering":
        return "Settle the execution without a cost, because metering charges it"
    if found.state == "expired":
        return "Settle the execution with its cost, even if it is late"
    return "To return credit, run `drawdown ledger grant CUSTOMER AMOUNT --kind refund`"


def priced(found: Reservation, cost: Cost, card: RateCard) -> list[Line]:
    """Return the lines of a cost, by feature. Errors: Denied `no_rate`; UsageError."""
    if cost.quantities is None:
        assert cost.amount_micro is not None
        return [Line(None, None, _within(cost.amount_micro))]
    lines = []
    for feature, quantity in sorted(cost.quantities.items()):
        amount = card.price(feature, found.accepted_ms, quantity)
        if amount is None:
            raise Denied(
                "no_rate",
                f"feature {feature} did not have a rate when {found.reservation} was accepted. "
                "Later rates do not apply. Send the execution's cost in credits",
            )
        lines.append(Line(feature, quantity, _within(amount)))
    return lines


def _within(amount_micro: int) -> int:
    if not 0 <= amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid cost {as_credits(amount_micro)} of an execution: expected 0 to 1,000,000,000 credits"
        )
    return amount_micro


def _rest(
    connection: sa.Connection, found: Reservation, cost: Cost, card: RateCard, last: Sequence[Line] = ()
) -> list[Line] | None:
    """Return an execution's whole cost less the earlier draws.

    Return None if the cost is less than the earlier draws.

    Amounts drawn at its end (`last`) do not count as drawn.
    """
    if cost.quantities is None:
        assert cost.amount_micro is not None
        off = _written_off(connection, found)
        as_it_ended = off.pop(FINAL, 0) if last else 0
        charged = found.drawn_micro - sum(line.amount_micro for line in last) + as_it_ended
        wanted = _within(cost.amount_micro)
        said = charged + sum(off.values())  # an amount that was written off is not charged later
        return None if wanted < charged else [Line(None, None, max(wanted - said, 0))]
    rows = SQL.run(connection, "drawn_by_feature", vars(found)).all()
    if sum(int(row.amount_micro) for row in rows if row.feature is None):
        raise Denied("other_unit", f"earlier charges of {found.reservation} are in credits. Send its cost in credits")
    drawn = {row.feature: int(row.quantity) for row in rows if row.feature is not None}
    for line in last:
        if line.feature is not None:
            drawn[line.feature] -= line.quantity or 0
    rest_of = {feature: quantity - drawn.get(feature, 0) for feature, quantity in cost.quantities.items()}
    missing = any(drawn[feature] for feature in drawn.keys() - cost.quantities.keys())
    if missing or any(quantity < 0 for quantity in rest_of.values()):
        return None
    return priced(found, Cost(quantities=rest_of), card)


def _written_off(connection: sa.Connection, found: Reservation) -> dict[str, int]:
    """Return the written-off micro-credits of an execution, by the draw's number."""
    rows = SQL.run(connection, "written_off", vars(found))
    return {row.key.removeprefix(f"run:{found.reservation}:").removesuffix(":-"): int(row.off_micro) for row in rows}


def span(reservation: str, number: str) -> dict[str, object]:
    """Return the range of keys of the entries of one number.

    The range is from `first` up to `beyond`, which is excluded.
    """
    head = f"run:{reservation}:{number}"
    return {"reservation": reservation, "first": f"{head}:", "beyond": f"{head};"}


def _lines_of(connection: sa.Connection, found: Reservation, number: str) -> list[Line]:
    rows = SQL.run(connection, "entries_of", span(found.reservation, number)).all()
    return lines_of(rows)


def lines_of(rows: Iterable[Any]) -> list[Line]:
    """Return the lines of the entries of one number, without written-off amounts."""
    lines = [Line(row.feature, row.quantity, int(row.amount_micro)) for row in rows if not row.key.endswith(":-")]
    return sorted(lines, key=lambda line: line.feature or "")


def _charge(
    connection: sa.Connection, found: Reservation, number: str, lines: Sequence[Line], by: By
) -> tuple[int, int]:
    """Post the lines, and return the charged and the written-off micro-credits.

    Errors: Denied `beyond_hold`, `payer_limit`; UsageError; BeyondBalance.
    """
    entries, charged, off = entries_for(found, number, lines, by)
    post(connection, entries)
    above = _above(found, charged + off)
    more = charged if found.state != "held" else above - off  # the limit already counts credit that is reserved
    require_limit(connection, found, more)
    return charged, off


def entries_for(
    found: Reservation, number: str, lines: Sequence[Line], by: By
) -> tuple[list[dict[str, object]], int, int]:
    """Return the entries that charge these lines.

    Return also the amounts charged and written off, in micro-credits.

    Errors: Denied `beyond_hold`; UsageError.
    """
    total = sum(line.amount_micro for line in lines)
    _within(found.drawn_micro + total)
    above = _above(found, total)
    if above and found.overage == "refuse":
        raise beyond_hold(found, above)
    off = above if found.overage == "cap" else 0
    entries = [_entry(found, f"{number}:{line.feature or '*'}", line, by) for line in lines]
    if off:
        entries.append(_entry(found, f"{number}:-", Line(None, None, -off), by))
    return entries, total - off, off


def _above(found: Reservation, total_micro: int) -> int:
    """Return the micro-credits of an additional cost above the reservation."""
    return max(found.drawn_micro + total_micro - max(found.amount_micro, found.drawn_micro), 0)


def beyond_hold(found: Reservation, above_micro: int) -> Denied:
    """Return the refusal of a draw above the reserved credit."""
    more = f"the draw exceeds the reservation of {found.reservation} by {counted_credits(above_micro)}"
    then = "Extend the execution first, or draw less"
    if found.state == "expired":
        then = (
            "An expired execution cannot be extended. Settle it with at most its reservation, and charge the rest by "
            "another execution"
        )
    return Denied("beyond_hold", f"{more}. {then}")


def _entry(found: Reservation, name: str, line: Line, by: By) -> dict[str, object]:
    return {
        "key": f"run:{found.reservation}:{name}",
        "kind": "execution",
        "from_account": wallet_account(found.customer_id),
        "to_account": OTHER_SIDE if line.feature is None else f"{OTHER_SIDE}:{line.feature}",
        "amount_micro": line.amount_micro,
        "feature": line.feature,
        "quantity": line.quantity,
        "ts": found.accepted_ms,
        "at_ms": by.now_ms,
        "actor": by.actor,
        "reason": by.reason,
        "reservation": found.reservation,
    }
