"""Bugs planted on purpose, one at a time, in the running process: each has to be caught, and the report says by what.

Guarantee: a mutant that no longer fits the code fails loudly, and everything is put back afterwards.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.ledger import entries as ledger_entries
from drawdown.ledger import wallet
from drawdown.providers.protocol import Duplicate, PushRequest, RetryAt, Unknown
from drawdown.worker.catalog.mapping import FOREVER_MS, segments
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.halts import dispatch
from drawdown.worker.push import push, rows, void
from drawdown.worker.seal import seal
from drawdown.worker.verdict import org_row, project
from tests.sent import nothing_in_place
from tests.simulation.mutants_credits import CREDITS
from tests.simulation.mutants_jobs import JOBS
from tests.simulation.mutants_need import NEED
from tests.simulation.mutants_remote import REMOTE, Patches, settles_as
from tests.simulation.mutants_restore import RESTORE
from tests.simulation.mutants_seconds import SECONDS
from tests.simulation.mutants_stream import STREAM
from tests.simulation.mutants_worlds import LONGER, SEEDS, SEEN_AT, TICKS, world_of
from tests.simulation.scheduler import simulate

MISFIT: Final = ("wrong()", "TypeError", "AttributeError", "NameError")
"""What a breach names where the planted code itself is wrong."""


def _keys(patches: Patches, change: Callable[[str, int], str]) -> None:
    def wrong(key: str, customer: str, feature: str, quantity: int, ts: int, attempt: int) -> PushRequest:
        return PushRequest(change(key, attempt), customer, feature, quantity, ts, attempt)

    patches.put(rows, "PushRequest", wrong)


def _claim_not_committed(patches: Patches) -> None:
    patches.put(push, "Transaction", lambda name, work: Transaction(name, work, rollback=name == "claim"))


def _dirty_deleted_before_sealing(patches: Patches) -> None:
    right = seal.Statements.run

    def wrong(self: seal.Statements, name: str, *slots: str, **chosen: Any) -> Any:
        if name == "scan_dirty":
            right(self, "forget_dirty", "pending_scope", of=seal.SQL)
        return right(self, name, *slots, **chosen)

    patches.put(seal.Statements, "run", wrong)


def _mapping_of_today(patches: Patches) -> None:
    right = segments
    patches.put(
        seal,
        "segments",
        lambda rows: [replace(one, start_ms=0) for one in right(rows) if one.end_ms == FOREVER_MS],
    )


def _no_arrivals(patches: Patches) -> None:
    patches.query(seal, "late", "AND +s.ts", "AND 1 = 0 AND +s.ts")


def _revision_reused(patches: Patches) -> None:
    patches.query(seal, "owed", "MAX(revision) + 1 AS revision", "0 AS revision")
    patches.query(seal, "seal", "FROM ({sent}) sized", "FROM ({sent}) sized WHERE 1 = 1 ON CONFLICT DO NOTHING")


def _pending_never_cleared(patches: Patches) -> None:
    patches.query(
        seal, "forget_pending", "DELETE FROM pending_usage WHERE", "DELETE FROM pending_usage WHERE 1 = 0 AND"
    )
    again = "DO UPDATE SET reason = excluded.reason, seconds = excluded.seconds, samples = excluded.samples"
    whole = "HAVING SUM(w.samples) <> 0"
    patches.query(seal, "pend", whole, f"{whole} ON CONFLICT (window_ms, org_id, memory_mb) {again}")


def _halted_at_rewritten(patches: Patches) -> None:
    right = org_row.state_of

    def wrong(org: Any, new: Any, at: Any, due: Any) -> Any:
        return replace(right(org, new, at, due), halted_at=at.now_ms if new.is_halted else None)

    patches.put(project, "state_of", wrong)


def _older_read_overwrites(patches: Patches) -> None:
    right = project._apply

    def now_of(connection: Any, one: Any) -> Any:
        """Of both fences: a read is held to the read before it, and to the balance that an answer left."""
        asked = sa.text("SELECT projection_read_ms, balance_read_ms FROM orgs WHERE org_id = :org")
        found = connection.execute(asked, {"org": one.org_id}).one()
        return replace(one, read_before_ms=found[0], balance_before_ms=found[1])

    def wrong(connection: Any, *, due: Any, **rest: Any) -> Any:
        return right(connection, due=[now_of(connection, one) for one in due], **rest)

    patches.put(project, "_apply", wrong)


def _charged_again(patches: Patches) -> None:
    right = ledger_entries.post

    def wrong(connection: Any, entries: Any) -> set[str]:
        new = right(connection, entries)
        again = [{**one, "key": f"{one['key']} "} for one in entries if one["key"] not in new]
        right(connection, again)
        return {str(one["key"]) for one in entries}

    patches.put(wallet, "post", wrong)
    patches.put(push, "charge_in_place", nothing_in_place)


def _acknowledged_on_failure(patches: Patches) -> None:
    right = dispatch._settle
    patches.put(dispatch, "_settle", lambda c, *, errors, **rest: right(c, errors=[None for _ in errors], **rest))


def _answers_mixed_up(patches: Patches) -> None:
    right = push._settled
    patches.put(push, "_settled", lambda a, b, batch, outcomes: right(a, b, batch, list(reversed(outcomes))))


def _watermark_runs_ahead(patches: Patches) -> None:
    patches.query(seal, "advance", ":horizon_ms", ":horizon_ms + 300000")


_BILLER = "JOIN assignments a ON {assigned_then}"
_OPEN = "JOIN assignments a ON a.org_id = w.org_id AND a.end_ms IS NULL"
MUTANTS: Final[dict[str, Callable[[Patches], None]]] = {
    "watermark advanced without sealing": _watermark_runs_ahead,
    "cursor advanced without scanning late arrivals": _no_arrivals,
    "fresh key on retry": lambda p: _keys(p, lambda key, n: key if n == 1 else f"{key}:again"),
    "key holds the attempt": lambda p: _keys(p, lambda key, n: f"{key}:a{n}"),
    "429 taken as a rejection": lambda p: settles_as(p, RetryAt, "rejected"),
    "unknown taken as accepted": lambda p: settles_as(p, Unknown, "accepted"),
    "unknown taken as rejected, voided and sealed again": lambda p: settles_as(p, Unknown, "rejected"),
    "duplicate taken as a failure": lambda p: settles_as(p, Duplicate, "rejected"),
    "voided pushes still count as sealed": lambda p: p.query(
        seal, "owed", "CASE WHEN state = 'voided' THEN 0 ELSE -sealed_qty END", "-sealed_qty"
    ),
    "revision reused, conflict ignored": _revision_reused,
    "inner join drops usage without mapping": lambda p: p.query(seal, "pend", "LEFT JOIN mapped m", "JOIN mapped m"),
    "inner join drops usage without assignment": lambda p: p.query(seal, "pend", "LEFT JOIN assign", "JOIN assign"),
    "claim and attempt committed after the send": _claim_not_committed,
    "late windows forgotten before they are sealed": _dirty_deleted_before_sealing,
    "partial sums of late windows kept": lambda p: p.query(
        seal, "drop_partial", "window_ms < :watermark_ms", "window_ms < 0"
    ),
    "withdrawals of sealed windows ignored": lambda p: p.query(
        seal, "withdrawn_dirty", "-SUM(s.interval_s), -COUNT(*)", "0, 0"
    ),
    "mapping of today used for old windows": _mapping_of_today,
    "assignment of now used for old windows": lambda p: p.query(seal, "owed", _BILLER, _OPEN),
    "pending usage never cleared": _pending_never_cleared,
    "carry forgotten by the seal": lambda p: p.query(
        seal, "carry", "HAVING SUM(sealed_qty - sent_qty) <> 0", "HAVING 0"
    ),
    "carry forgotten by a void": lambda p: p.put(void, "void_many", _void_without_carry(void.void_many)),
    "arrivals of a stopped organisation lost": lambda p: p.query(seal, "stopped_is_dirty", "WHERE ", "WHERE 0 AND "),
    "strangers in a bucket behind the watermark lost": lambda p: p.query(
        seal, "strangers_behind", "WHERE s.ts", "WHERE 0 AND s.ts"
    ),
    "answers given to the wrong pushes": _answers_mixed_up,
    "ledger charges a known key again": _charged_again,
    "ledger does not move the balance": lambda p: p.put(ledger_entries, "_move", lambda connection, moved, dated: {}),
    "charged in place, and no balance moves": lambda p: p.query(
        push, "move_charged", "balance_micro - r.amount", "balance_micro"
    ),
    "charged in place, and nobody is asked about": lambda p: p.put(push, "mark_for_projection", lambda *rest: None),
    "given back before it is known what was charged": lambda p: p.query(
        seal, "gives_back_units", "MAX(is_open) = 0", "1 = 1"
    ),
    "what is given back is charged in place": lambda p: p.query(
        push, "pick_charges", "WHEN p.sent_qty < 0 THEN -1", "WHEN p.sent_qty < 0 THEN 1"
    ),
    "halted_at rewritten by every projection": _halted_at_rewritten,
    "older read overwrites a newer one": _older_read_overwrites,
    "halt acknowledged on failure": _acknowledged_on_failure,
    "a halt acknowledged once is never told again": lambda p: p.query(
        dispatch, "make_ignored_due", "WHERE due_at_ms", "WHERE 0 AND due_at_ms"
    ),
    **CREDITS,
    **NEED,
    **JOBS,
    **REMOTE,
    **RESTORE,
    **SECONDS,
    **STREAM,
}


def _void_without_carry(right: Any) -> Any:
    def without(row: Any) -> Any:
        before = {name: getattr(row, name) for name in row._fields}
        before["sent_qty"] = before["sealed_qty"]
        return type("Row", (), before)()

    def wrong(connection: Any, chosen: Any, *rest: Any, **more: Any) -> None:
        right(connection, [without(row) for row in chosen], *rest, **more)

    return wrong


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug, for as long as the block runs."""
    patches = Patches()
    with patches.kept():
        MUTANTS[name](patches)
        yield


@dataclass
class Caught:
    """How a mutant ended: `seeds` tried, and what the last of them said."""

    name: str
    seeds: int
    by: str | None = None
    seed: int | None = None
    unclean: list[int] = field(default_factory=list)
    """Seeds that breach without the bug too: they show nothing of it, and something of the product or the oracle."""


def hunt(name: str, seeds: int = SEEDS, ticks: int | None = None, first: tuple[int, int] | None = None) -> Caught:
    """Run seeds until the bug shows: in their order, or the one (seed, ticks) that showed it before as the `first`. It
    shows where a seed breaches with it, and does not without it."""
    unclean: list[int] = []
    lives = [(seed, ticks or LONGER.get(name, TICKS)) for seed in range(seeds)]
    for tried, (seed, length) in enumerate([*([] if first is None else [first]), *lives], 1):
        life = partial(simulate, seed, length, **world_of(name, seed))
        with planted(name):
            breaches = life().breaches
        if not breaches:
            continue
        misfit = any(one in breaches[0] for one in MISFIT)
        assert not misfit, f"{name} does not fit the code: {breaches[0]}"
        if not life().breaches:
            return Caught(name, tried, breaches[0], seed, unclean)
        unclean.append(seed)
    return Caught(name, seeds, unclean=unclean)


def main() -> int:
    """Hunt all mutants, or those whose name holds a word, each at the life that showed it last before all others; exit
    status 1 if one survived, or a seed breaches without."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("word", nargs="?", default="")
    asked.add_argument("--seeds", type=int, default=SEEDS)
    asked.add_argument("--ticks", type=int, help=f"{TICKS} by default, or as many as a bug takes")
    options = asked.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, survived, unclean = time.perf_counter(), 0, 0
    for name in (one for one in MUTANTS if options.word in one):
        found = hunt(name, options.seeds, options.ticks, first=SEEN_AT.get(name))
        survived += found.by is None
        unclean += len(found.unclean)
        print(f"{name}: {'SURVIVED' if found.by is None else f'seed {found.seed}'}: {found.by}"[:220], flush=True)
        for seed in found.unclean:
            print(f"  seed {seed} breaches without the bug, in {world_of(name, seed)}", flush=True)
    print(f"{survived} survived, {time.perf_counter() - began:.0f} s")
    return 1 if survived or unclean else 0


if __name__ == "__main__":
    sys.exit(main())
