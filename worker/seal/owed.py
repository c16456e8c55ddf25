"""The inputs of the owed quantities: the mapping, providers' terms and lost history that a seal goes by.

Guarantee: each of these is bound as a value, and read under the seal's lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from drawdown.providers.protocol import Capabilities
from drawdown.schema.sql import queries
from drawdown.worker.catalog.mapping import mapping_rows, segments
from drawdown.worker.catalog.terms import stored_terms
from drawdown.worker.seal.statements import Sealed, SealRequest, Statements

SQL = queries(__file__)


def go_by(run: Statements, request: SealRequest) -> None:
    """Read what the statements about what is owed go by."""
    mapping = segments(mapping_rows(run.connection))
    terms = {**request.providers, **stored_terms(run.connection)}
    shadows = {name: its.live_from_ms for name, its in terms.items() if its.live_from_ms is not None}
    run.values.update(
        segments=[vars(segment) for segment in mapping],
        number_of_segments=len(mapping),
        providers=sorted(terms),
        live_from=json.dumps(shadows),
        shadow_until_ms=max(shadows.values(), default=0),
    )
    run.slots.update(
        mapped="mapped_exact" if all(segment.lo == segment.hi for segment in mapping) else "mapped_tiers",
        # None at all are given where it does not matter who bills.
        of_providers="these_providers" if request.providers else "any_provider",
        lost="not_lost",
        otherwise="due",
    )
    _ask_first_what_was_lost(run, request.providers)
    _send_whole_units(run, terms)


def _ask_first_what_was_lost(run: Statements, providers: Mapping[str, Capabilities]) -> None:
    """In windows whose history was lost (R1), pushes begin by being asked for."""
    lost = run.run("last_loss", of=SQL).one()
    if lost.until_ms is None:
        return
    untold = [name for name, its in providers.items() if not its.lookup]
    run.values.update(
        lost_until_ms=lost.until_ms,
        last_lost_seal=lost.last_seal,
        untold=untold,
        not_asked=[*untold, *(name for name, its in providers.items() if its.same_database)],
    )
    run.slots.update(lost="lost_then", otherwise="asked_for_first")


def _send_whole_units(run: Statements, terms: Mapping[str, Capabilities]) -> None:
    """All of the owed quantity is sent, unless some provider takes only whole units or no negatives (S10), or did."""
    rows = _term_rows(terms, set(run.run("carrying", of=SQL).scalars()))
    run.values.update(terms=rows, number_of_terms=len(rows))
    run.slots["sent"] = "sent_carried" if rows else "sent_whole"
    run.slots["gives_back"] = "gives_back_units" if rows else "gives_back"
    run.slots["open_of"] = "open_of_the_org" if rows else "open_of_the_window"
    run.slots["something_is_open"] = "of_the_org_is_open" if rows else "of_the_window_is_open"


def _term_rows(terms: Mapping[str, Capabilities], carrying: Collection[str]) -> list[dict[str, object]]:
    """`carrying`: providers with something left over. Terms may have changed since: what smaller units, or negatives
    that were not taken, left behind is sent with what is sealed next."""
    return [
        {"provider": name, "feature": feature, "unit": unit, "negatives": int(its.negatives)}
        for name, its in terms.items()
        if its.unit != 1 or its.units or not its.negatives or name in carrying
        for feature, unit in (("", its.unit), *its.units.items())
    ]


def write_owed(run: Statements, epoch: int, *, reached_ms: int) -> Sealed:
    """Write what is owed as pushes of a new seal."""
    cursor = run.run("oldest_cursor", of=SQL).scalar_one()
    run.values.update(oldest_cursor=cursor, epoch=epoch, reached_ms=reached_ms)
    number = int(run.run("begin_seal", of=SQL).scalar_one())
    run.values["seal_id"] = number
    if run.is_postgresql:
        run.run("sort_groups", of=SQL)
    slots = ("mapped", "prior_scope", "dirty_scope", "of_providers", "only_below", "lost", "otherwise", "sent")
    written = run.run("seal", *slots, "gives_back", of=SQL).rowcount
    if run.is_postgresql:
        run.run("hash_groups", of=SQL)
    if run.slots["sent"] != "sent_whole" and written:
        run.run("carry", of=SQL)
    return Sealed(number, written)


def write_pending(run: Statements) -> None:
    """Keep what is used and not sealable, with its reason, in place of what was kept of these windows before (S6)."""
    run.run("forget_pending", "pending_scope", "dirty_scope", of=SQL)
    run.run("pend", "mapped", "of_providers", of=SQL)


def hold_what_is_open(run: Statements) -> None:
    """Keep what is not settled of windows that may give something back as it is, until they are sealed."""
    # SQLite has one writer at a time.
    if run.is_postgresql and run.run("any_dirty", "dirty_scope", of=SQL).first():
        run.run("hold_what_is_open", "open_of", "dirty_scope", of=SQL)


def advance(run: Statements, *, whole: bool) -> None:
    """What was dirty is computed; where the `whole` shard was sealed, it has come as far as the horizon."""
    run.run("forget_dirty", "pending_scope", "something_is_open", "dirty_scope", of=SQL)
    if whole:
        run.run("advance", of=SQL)
        run.run("catch_up", "pending_scope", of=SQL)
