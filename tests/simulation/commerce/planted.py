"""Bugs of money planted on purpose, one at a time: each has to be seen by what people were told, not by `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import draws, grants, lots, payouts, reservations, tiers
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.draws import Line
from drawdown.ledger.entries import post
from drawdown.ledger.reservations import Reservation
from drawdown.ledger.settlements import owe
from drawdown.schema.audit import By
from drawdown.worker.executions import remote as remote_runs
from tests.simulation.mutants_remote import Patches


def _a_month_is_given_anew(patches: Patches) -> None:
    """Its key is of the moment, and whoever lost the answer looks again."""
    right = grants._begun

    def wrong(customer_id: str, stay: Any, of_plan: Any, begins_ms: int, now_ms: int) -> Iterator[Any]:
        for lot in right(customer_id, stay, of_plan, begins_ms, now_ms):
            yield replace(lot, lot=f"{lot.lot}:{now_ms}")

    patches.put(grants, "_begun", wrong)
    patches.put(grants, "caught_up", lambda *given: None)


def _a_tier_is_charged_anew(patches: Patches) -> None:
    right = tiers._entry

    def wrong(customer_id: str, tier: str, price_micro: int, ts: int, by: By) -> dict[str, object]:
        entry = right(customer_id, tier, price_micro, ts, by)
        return {**entry, "key": f"{entry['key']}:{by.now_ms}"}

    patches.put(tiers, "_entry", wrong)


def _a_metered_run_has_a_receipt_too(patches: Patches) -> None:
    def wrong(connection: sa.Connection, after: Reservation, now_ms: int) -> None:
        if after.settled_by == "metering" and after.drawn_micro:
            line = Line(None, None, after.drawn_micro)
            post(connection, [draws._entry(after, "final:*", line, By(now_ms, "planted", "planted"))])
        owe(connection, after, now_ms)

    patches.put(draws, "owe", wrong)


def _an_allotment_does_not_come_back(patches: Patches) -> None:
    right = lots._expiry
    patches.put(lots, "_expiry", lambda *given: {**right(*given), "to_account": lots.BREAKAGE})


def _samples_are_written_twice(patches: Patches) -> None:
    right = remote_runs._samples

    def wrong(found: Reservation, number: str, *given: Any) -> list[Any]:
        made = right(found, number, *given)
        again = [((f"{sample[0]}+", *sample[1:]), {**noted, "sample_id": f"{sample[0]}+"}) for sample, noted in made]
        return made + again

    patches.put(remote_runs, "_samples", wrong)


def _the_wrong_wallet_pays(patches: Patches) -> None:
    right = draws._entry

    def wrong(found: Reservation, *given: Any) -> dict[str, object]:
        return {**right(found, *given), "from_account": wallet_account(found.org_id)}

    patches.put(draws, "_entry", wrong)


def _a_draw_counts_again(patches: Patches) -> None:
    right = draws._entry

    def wrong(found: Reservation, name: str, line: Line, by: By) -> dict[str, object]:
        entry = right(found, name, line, by)
        return {**entry, "key": f"{entry['key']}:{found.drawn_micro}"}

    patches.put(draws, "_entry", wrong)
    patches.put(draws, "_lines_of", lambda *given: [])


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], str]]] = {
    "a month is given twice after a lost answer": (_a_month_is_given_anew, "times, and should be 1"),
    "a tier is charged twice a month": (_a_tier_is_charged_anew, "was charged"),
    "a run that metering settles is charged by a receipt, too": (_a_metered_run_has_a_receipt_too, "by 1 receipts"),
    "a receipt of a run that metering settles is taken": (
        lambda p: p.put(draws, "_require_unmetered", lambda found, cost: None),
        "took a receipt",
    ),
    "an allotment is not returned": (_an_allotment_does_not_come_back, "kitty has"),
    "a reversal is forgotten in the batch": (
        lambda p: p.query(payouts, "release", "x.owed_micro", "x.net_micro"),
        "are to be released",
    ),
    "what is frozen is released": (
        lambda p: p.query(payouts, "release", "= 'eligible'", "IN ('eligible', 'frozen')"),
        "are to be released",
    ),
    "samples of a provider's run are written twice": (_samples_are_written_twice, "used"),
    "a run is charged to its organisation instead of its payer": (_the_wrong_wallet_pays, "was charged"),
    "a draw that was given again counts again": (_a_draw_counts_again, "is no repetition"),
    "what a run that ended held stays held": (lambda p: p.put(draws, "free", lambda *given: None), " keeps "),
    "more is held than there is": (
        lambda p: p.query(
            reservations, "hold", "AND {available_micro} - :unbilled_micro >= :amount_micro", "AND :amount_micro > 0"
        ),
        "was let hold",
    ),
}
"""Each bug, and a part of what is said of it."""
