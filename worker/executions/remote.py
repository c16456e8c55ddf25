"""Reserve and bill executions of organisations with a balance at a provider.

Drawdown reserves the credit in this database, and the provider bills the use.

Guarantee: the row in this database defines a reservation. A `local` reservation counts against the effective balance of
the last read. If the provider does not have a balance, the reservation is `declared`, and does not guarantee credit.
This module does not move credit. The transaction that charges or ends an execution stores its usage as samples, which
are sealed and sent once, as all usage is. A transaction locks the reservation, and then the organisation's row, so that
an organisation's executions are decided one after the other. It reads the facts that permitted an execution again under
that lock, because an assignment deletes the balance and may change the provider.

Autumn has its own locks (`check` with `lock`, `balances.finalize`). Drawdown does not use them: docs/providers.md
explains why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import accounts, draws, reservations
from drawdown.ledger.draws import Cost, Drawn
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.rates import RateCard
from drawdown.ledger.reservations import Ask, Denied, Hold, Reservation, State
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.errors import DatabaseBusy, UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.schema.units import EXEMPT_PROVIDERS, as_credits, counted_credits, window_of
from drawdown.worker.catalog.mapping import Segment, mapping_rows, segments
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.sources.samples.rows import NotMade, Sample, id_of, own_sample, sizes_of
from drawdown.worker.sources.samples.store import store
from drawdown.worker.verdict.effective_balance import read_used, since_read
from drawdown.worker.verdict.rates import rate_card_of, uses_ledger
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)

FINAL: Final = "final"


@dataclass(frozen=True)
class Standing:
    """The state of a provider's balance by its last read, in micro-credits.

    `balance_micro`: the usable balance, including reserved credit (None: the balance is unlimited or was never read, or
    the provider does not keep a balance). `held_micro`: the reserved part of the balance. `read_ms`: the time when the
    read began (None: never). `is_halted`: the organisation is halted now.
    """

    balance_micro: int | None
    held_micro: int
    read_ms: int | None
    provider: str
    is_halted: bool

    @property
    def wallet(self) -> accounts.Wallet | None:
        """Return the balance as a wallet; None if the balance is unlimited or unknown."""
        if self.balance_micro is None:
            return None
        return accounts.Wallet(self.balance_micro, None, None, self.held_micro)


@dataclass(frozen=True)
class Line:
    """A feature's quantity in base units, and its cost by the provider's rates."""

    feature: str
    quantity: int
    amount_micro: int


def standing(connection: sa.Connection, org_id: str, now_ms: int, *, held: bool = False) -> Standing:
    """Return the state of an organisation's balance at its provider.

    `held`: on PostgreSQL, lock the organisation's row until this transaction ends, so that two transactions do not
    reserve the same credit.
    """
    if held:
        SQL.run(connection, "hold", {"org_id": org_id})
    row = SQL.run(connection, "org", {"org_id": org_id, "now_ms": now_ms}).one_or_none()
    if row is None or row.provider is None:
        return Standing(None, 0, None, "", is_halted=False)
    used = read_used(connection, row.provider, [row], now_ms=now_ms, read_ms=now_ms, lag_ms=0)[org_id]
    found = since_read(row, used)
    if found is None:
        return Standing(row.balance_micro, used.held_micro, row.balance_read_ms, row.provider, bool(row.is_halted))
    left = found.value + found.held_micro
    return Standing(left, found.held_micro, row.balance_read_ms, row.provider, bool(row.is_halted))


def hold_at(connection: sa.Connection, org_id: str, now_ms: int, *, in_ledger: bool) -> Hold:
    """Return the kind of a reservation that is not in a wallet.

    `local`: the reservation counts against the provider's balance of the last read. `declared`: it does not count
    against a balance.

    `in_ledger`: True if the organisation's provider does not keep a balance. Errors: Denied `balance_unknown` if the
    balance was never read, because an unknown balance is not zero.
    """
    if in_ledger:
        return "declared"
    return _hold_by(standing(connection, org_id, now_ms), org_id)


def _hold_by(found: Standing, org_id: str) -> Hold:
    """Return the kind of a reservation by the state of the balance.

    Errors: Denied `balance_unknown`.
    """
    if found.read_ms is None:
        said = f"the balance of {org_id} was not read yet. Run `drawdown watch`, or wait for the next tick"
        raise Denied("balance_unknown", said, "account")
    return "declared" if found.balance_micro is None else "local"


def _keeps_balance(connection: sa.Connection, provider: str) -> bool:
    return bool(provider) and provider not in EXEMPT_PROVIDERS and provider not in wallets_at(connection)


def require_room(found: Standing, org_id: str, wanted_micro: int) -> None:
    """Refuse an amount above the unreserved balance at the provider.

    Errors: Denied `no_credit`.
    """
    if found.balance_micro is not None and wanted_micro > found.balance_micro - found.held_micro:
        left = counted_credits(found.balance_micro - found.held_micro)
        read = "" if found.read_ms is None else f" (read at {utc(found.read_ms)})"
        raise Denied(
            "no_credit",
            f"{org_id} has {left} available at {found.provider}{read}, and the execution needs "
            f"{as_credits(wanted_micro)}. Request less, or add credit at {found.provider}",
            "credits",
        )


def reserve(connection: sa.Connection, ask: Ask, provider: str, by: By) -> tuple[Reservation, bool]:
    """Reserve the cost of an execution that was permitted at `provider`.

    Return the reservation, and True if it existed before.

    Errors: Denied `other_content`, `balance_unknown`, `no_credit`; DatabaseBusy if the provider or its kind of balance
    changed meanwhile.
    """
    made, is_new = reservations.note(connection, ask, by)
    if not is_new:
        return made, True
    found = standing(connection, ask.org_id, by.now_ms, held=True)  # the reserved amount includes this reservation
    is_kept = _keeps_balance(connection, found.provider)
    if found.provider != provider or (is_kept and _hold_by(found, ask.org_id) != ask.hold):
        raise DatabaseBusy(f"the provider or balance of {ask.org_id} just changed. Try again")
    if ask.hold == "local":
        require_room(replace(found, held_micro=found.held_micro - ask.amount_micro), ask.org_id, ask.amount_micro)
    return made, False


def grow(connection: sa.Connection, found: Reservation, amount_micro: int, expires_ms: int, now_ms: int) -> Reservation:
    """Extend a reservation to at least this amount and this time of expiry.

    Errors: Denied `balance_unknown`, `no_credit`.
    """
    grown = replace(
        found, amount_micro=max(found.amount_micro, amount_micro), expires_ms=max(found.expires_ms, expires_ms)
    )
    more = grown.left_micro - found.left_micro
    if more and found.hold == "local":
        left = standing(connection, found.org_id, now_ms, held=True)
        if _keeps_balance(connection, left.provider):
            _hold_by(left, found.org_id)
        require_room(left, found.org_id, more)
    reservations.SQL.run(connection, "grow", vars(grown))
    return grown


def draw(connection: sa.Connection, found: Reservation, number: int, cost: Cost, by: By) -> Drawn:
    """Bill a part of an execution that continues.

    Errors: as `ledger.draws.draw`; Denied `needs_quantities`, `not_metered`.
    """
    quantities = _quantities(found, cost)
    before = _used(connection, found, f"d{number}")
    if before:
        if before != quantities:
            raise draws.other_draw(found, number)
        return Drawn(found, 0, 0, repeated=True)
    if found.state != "held":
        raise Denied("ended", f"{found.reservation} is {found.state}, so you cannot charge it. {instead(found)}")
    charged = _bill(connection, found, f"d{number}", _priced(connection, found, quantities), by)
    after = replace(found, drawn_micro=found.drawn_micro + charged)
    draws.SQL.run(connection, "draw", vars(after))
    return Drawn(after, charged, 0, repeated=False)


def finish(connection: sa.Connection, found: Reservation, state: State, cost: Cost | None, by: By) -> Drawn:
    """End an execution, and bill its total use.

    `cost` None: do not bill more; earlier charges stay.

    Errors: as `ledger.draws.finish`; Denied `needs_quantities`, `not_metered`.
    """
    rest = None if cost is None else _rest(connection, found, _quantities(found, cost))
    if found.state == state:
        last = _used(connection, found, FINAL)
        if (cost is not None or last) and rest != last:
            raise Denied(
                "other_content",
                f"{found.reservation} is already {found.state}, with different quantities. To repeat the call, send "
                "its first quantities",
            )
        return Drawn(found, 0, 0, repeated=True)
    if found.state != "held" and (found.state, state) != ("expired", "settled"):
        raise Denied("ended", f"{found.reservation} is {found.state}. {instead(found)}")
    lines = [] if rest is None else _priced(connection, found, rest)
    charged = _bill(connection, found, FINAL, lines, by)
    ended = {"ended_ms": by.now_ms, "ended_by": by.actor, "ended_reason": by.reason}
    after = replace(found, state=state, drawn_micro=found.drawn_micro + charged, **ended)  # type: ignore[arg-type]
    draws.SQL.run(connection, "finish", vars(after))
    return Drawn(after, charged, 0, repeated=False)


def instead(found: Reservation) -> str:
    """Return the next step for an ended execution that samples bill."""
    if found.state == "expired":
        return "Settle the execution with its quantities, even if it is late"
    return "To return usage, withdraw its samples with `drawdown sample withdraw ID`"


def moved(connection: sa.Connection, org_id: str, now_ms: int, freed_micro: int) -> Standing:
    """Return an organisation's balance after one of its executions changed.

    If the organisation's verdict may change, the function requests a refresh of it. `freed_micro`: micro-credits that
    are no longer reserved.
    """
    found = standing(connection, org_id, now_ms)
    had = None if found.balance_micro is None else found.balance_micro - found.held_micro - freed_micro
    if found.is_halted or (had is not None and had <= 0):
        mark_for_projection(connection, [org_id], now_ms)
    return found


def _quantities(found: Reservation, cost: Cost) -> dict[str, int]:
    if cost.quantities is None:
        raise Denied(
            "needs_quantities",
            f"{found.org_id} is billed by features. Send the quantities that {found.reservation} used",
        )
    return dict(cost.quantities)


def _rest(connection: sa.Connection, found: Reservation, quantities: dict[str, int]) -> dict[str, int]:
    """Return the quantities of an execution's total use that are not billed yet.

    Errors: Denied `below_drawn`.
    """
    rows = SQL.run(connection, "used_before", {"reservation": found.reservation})
    drawn = {row.feature: int(row.quantity) for row in rows}
    rest = {feature: quantities.get(feature, 0) - drawn.get(feature, 0) for feature in {*quantities, *drawn}}
    if any(quantity < 0 for quantity in rest.values()):
        said = f"cannot end {found.reservation}: it was already charged for more use. "
        said += "To return usage, run `drawdown sample withdraw ID` for its samples"
        raise Denied("below_drawn", said)
    return rest


def _used(connection: sa.Connection, found: Reservation, number: str) -> dict[str, int]:
    rows = SQL.run(connection, "used", {"reservation": found.reservation, "number": number})
    return {row.feature: int(row.quantity) for row in rows}


def price_of(connection: sa.Connection, card: RateCard, provider: str, line: tuple[str, int], at_ms: int) -> int:
    """Return the cost of a feature's quantity by a provider's rates, in micro-credits.

    Errors: Denied `no_rate`; UnknownId.
    """
    feature, quantity = line
    amount = card.price(feature, at_ms, quantity)
    if amount is None:
        ids.require(connection, ids.FEATURE, feature)
        of = f"provider rate {provider} {feature} --micro N"
        of = f"ledger rate {feature} --micro-credits N" if uses_ledger(connection, provider) else of
        raise Denied("no_rate", f"feature {feature} does not have a rate at {provider}. Run `drawdown {of}`")
    return amount


def _priced(connection: sa.Connection, found: Reservation, quantities: dict[str, int]) -> list[Line]:
    """Return the costs of quantities by the rates at the execution's acceptance.

    The rates are those of the execution's provider at that time. Errors: Denied `no_rate`; UnknownId; UsageError.
    """
    at_ms = found.accepted_ms
    provider = str(SQL.run(connection, "org", {"org_id": found.org_id, "now_ms": at_ms}).one().provider)
    card = rate_card_of(connection, provider)
    lines = []
    for line in sorted(quantities.items()):
        amount = price_of(connection, card, provider, line, at_ms) if line[1] else 0
        if amount > MAX_ENTRY_MICRO:
            of_sandboxes = "as usage of the execution's sandboxes"
            several = "in several draws before you settle" if found.state == "held" else of_sandboxes
            raise UsageError(
                f"invalid cost {as_credits(amount)} of an execution: expected 0 to 1,000,000,000 credits. "
                f"Charge the quantity of {line[0]} {several}"
            )
        lines.append(Line(*line, amount))
    return lines


def _bill(connection: sa.Connection, found: Reservation, number: str, lines: Sequence[Line], by: By) -> int:
    """Write the used quantities and the samples that bill them.

    Return their cost in micro-credits. Errors: Denied `not_metered`, `other_content`; `beyond_hold` if an execution
    with the overage `refuse` reserves less.
    """
    total = sum(line.amount_micro for line in lines)
    above = max(found.drawn_micro + total - max(found.amount_micro, found.drawn_micro), 0)
    if above and found.overage == "refuse":
        raise draws.beyond_hold(found, above)
    run: dict[str, object] = {"reservation": found.reservation, "number": number}
    SQL.run(connection, "note_usage", {"lines": [{**run, **vars(line)} for line in lines], "at_ms": by.now_ms,
                                       "actor": by.actor, "reason": by.reason})  # fmt: skip
    mapped = segments(mapping_rows(connection))
    made = [one for line in lines if line.quantity for one in _samples(found, number, line, mapped, by.now_ms)]
    if made:
        rows = [sample for sample, _ in made]
        inserted, _ = store(connection, rows, [f"run:{found.reservation}"] * len(rows))
        if inserted < len(rows):
            raise Denied(
                "other_content",
                f"cannot bill {found.reservation}: an id of its {counted(len(rows), 'sample')}, from {rows[0][0]} on, "
                "belongs to a different sample. Run `drawdown sample list --org "
                f"{typed(found.org_id)}`",
            )
        SQL.run(connection, "note_samples", {"samples": [{**run, **noted} for _, noted in made]})
    return total


def _samples(
    found: Reservation, number: str, line: Line, mapped: Sequence[Segment], now_ms: int
) -> list[tuple[Sample, dict[str, object]]]:
    """Return the samples of one line, each with its row for `note_samples`.

    Their time of use is now. Errors: Denied `not_metered` for a feature without a mapping, or a quantity that cannot be
    split into samples.
    """
    window = window_of(now_ms)
    makes = [one for one in mapped if one.feature == line.feature and one.start_ms <= window < one.end_ms]
    if not makes:
        said = (
            f"cannot bill {line.feature}: the feature is not mapped now. Run "
            f"`drawdown feature map {line.feature} --memory-mb N`"
        )
        raise Denied("not_metered", said)
    made: list[tuple[Sample, dict[str, object]]] = []
    try:
        parts = list(sizes_of(line.quantity, makes[0].unit, makes[0].lo, makes[0].hi))
    except NotMade as error:
        raise Denied("not_metered", f"{line.feature}: {error}") from error
    for at, (memory, seconds) in enumerate(parts):
        name = id_of(found.reservation, number, line.feature, at)
        units = seconds * memory if makes[0].unit == "mb_s" else seconds
        sample = own_sample(name, found.org_id, id_of(found.reservation), memory, seconds, now_ms, now_ms)
        noted = {"sample_id": name, "feature": line.feature, "org_id": found.org_id, "memory_mb": memory}
        made.append((sample, {**noted, "interval_s": seconds, "base_units": units, "ts": now_ms}))
    return made
