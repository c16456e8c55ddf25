"""What a tick does of an order to correct: compare with providers, and correct what is proven, as on the command line.

Guarantee: it is harmless twice. What was corrected is sealed anew, and compared again only once that is settled. What
is not reached before the turn's time is up is left to the next one, which begins anew: such a turn is one in vain, so
that an order of more than a turn can compare fails in words after some. What it corrected by then stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from drawdown.schema.audit import By
from drawdown.schema.units import show_quantity
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps
from drawdown.worker.orders.asked import AskedCorrect
from drawdown.worker.orders.asking import Turn, cannot_be_used
from drawdown.worker.reconcile.reconcile import Line, Reconciled, ReconcileScope, reconcile

SAID: Final = 3
"""Lines that are left to a person; the command shows all."""


def correct(context: Context, asked: AskedCorrect, by: By) -> Steps[Turn]:
    """Errors: HistoryDoubted, where the tick began on another history."""
    if asked.provider and asked.provider not in context.ready():
        return cannot_be_used(asked.provider)
    # A copy: what it begins on is no witness for the orders after it.
    found: Reconciled = yield from reconcile(replace(context), scope_of(asked), by)
    if found.unfinished or found.unread:
        return Turn(None, in_words(found), in_vain=True)
    left = found.exit_status == 1 or asked.provider in found.skipped
    return Turn("failed" if left else "done", in_words(found))


def scope_of(asked: AskedCorrect) -> ReconcileScope:
    """As `drawdown reconcile --correct` compares."""
    return ReconcileScope(
        from_ms=asked.from_ms or 0,
        to_ms=2**53 if asked.to_ms is None else asked.to_ms,
        org_id=asked.org_id,
        provider=asked.provider,
        correct=True,
        recent=asked.from_ms is None and asked.to_ms is None,
    )


def in_words(found: Reconciled) -> str:
    """What a comparison came to."""
    corrected = [line for line in found.differing if line.corrected]
    rest = [line for line in found.differing if abs(line.theirs - line.ours) != line.corrected]
    said = [f"{found.compared:,} compared, {len(found.differing):,} differ"]
    if corrected:
        said += [f"{len(corrected):,} corrected{_by(corrected)}"]
    said += [f"left to a person: {_left(line)}" for line in rest[:SAID]]
    said += [f"and {len(rest) - SAID:,} more"] if len(rest) > SAID else []
    said += [f"{found.waiting:,} wait: unsettled, or fresher than the provider's lag"] if found.waiting else []
    said += [f"{found.unread:,} could not be read: {'; '.join(found.reasons)}"] if found.unread else []
    said += ["time was up before all was compared: order less at once"] if found.unfinished else []
    return "; ".join([*said, *(f"{name}: not compared: {why}" for name, why in sorted(found.skipped.items()))])


def _by(corrected: Sequence[Line]) -> str:
    """By how much, where one unit measures all of it: seconds and credits are never added up."""
    scales = {(line.feature if line.balance else "", line.scale) for line in corrected}
    if len(scales) > 1:
        return ""
    amount = show_quantity(sum(line.corrected for line in corrected), corrected[0].scale)
    return f", by {amount} {corrected[0].feature if corrected[0].scale > 1 else 'units'}"


def _left(line: Line) -> str:
    note = line.note or "what is apart was not proven"
    return (
        f"{line.org_id}, {line.feature}: ours {show_quantity(line.ours, line.scale)}, "
        f"theirs {show_quantity(line.theirs, line.scale)}: {note}"
    )
