"""What a tick does of an order that needs a provider: its changed terms are accepted, or an organisation is assigned.

Guarantee: each is harmless twice, so that an order whose tick died is simply done again. Pushes that were voided are
open no more, and of terms in force there is nothing left to accept. An assignment that is so already is made no second
time; one that a person has changed since is left alone (`orders.take` looks).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.orders.asked import AskedAccept, AskedAssign
from drawdown.worker.orders.orders import State
from drawdown.worker.orgs import flips
from drawdown.worker.orgs.flip_rules import Flip, FlipOptions, Wish
from drawdown.worker.provider import actions as providers
from drawdown.worker.replay.replay import Replayed


@dataclass(frozen=True)
class Turn:
    """What one tick's turn at an order came to. `state` None: it goes on with the next tick, and `in_vain` says that
    this turn brought it no further. `replayed`: what a replay found, which is put in words once it is told."""

    state: State | None
    said: str = ""
    in_vain: bool = False
    replayed: Replayed | None = None


def accept(context: Context, asked: AskedAccept, by: By) -> Steps[Turn]:
    """Use a provider on the terms that whoever ordered it saw; pushes are voided portion by portion, as by hand."""
    declared = context.declared().get(asked.provider)
    if declared is None:
        return cannot_be_used(asked.provider)
    if providers.terms_of(declared) != asked.terms:
        return Turn("failed", f"ticks have other settings of {asked.provider} than those that were looked at")
    voided = 0
    while not context.out_of_time():
        work = partial(_portion, asked=asked, declared=declared, by=by, before=voided)
        try:
            some: providers.Portion | None = yield Transaction("accept_terms", work)
        except Refused as error:
            rest = f"; {providers.half_way(asked.provider, voided)}" if voided else ""
            return Turn("failed", f"{error}{rest}")
        if some is None or not some.left:
            done = "what was sealed on its old ones and never sent is sealed anew"
            return Turn("done", f"{asked.provider} is used on these settings; {done}")
        voided += some.voided
    return Turn(None)


def _portion(
    connection: sa.Connection, *, asked: AskedAccept, declared: Capabilities, by: By, before: int
) -> providers.Portion | None:
    """None where these terms are in force: a tick that died had done it, or a person."""
    lock_buckets(connection)
    if providers.terms_in_force(connection, asked.provider) == asked.terms:
        return None
    return providers.accept_some(connection, asked.provider, declared, by, before=before)


def assign(context: Context, asked: AskedAssign, by: By) -> Steps[Turn]:
    """Assign an organisation once its provider says that the customer is there, as by hand."""
    if asked.provider not in context.ready():
        return cannot_be_used(asked.provider)
    options = FlipOptions(asked.provider, asked.from_ms, allow_halt=asked.allow_halt, each_alone=True)
    flipped: list[Flip] = yield from flips.flip(context, [Wish(asked.org_id, asked.customer_id)], options, by)
    return _in_words(flipped[0], asked.provider)


def cannot_be_used(provider: str) -> Turn:
    """A turn in vain: a person may give the tick its key, or accept its settings."""
    return Turn(None, f"{provider} cannot be used by the tick: `drawdown provider list` there", in_vain=True)


def _in_words(flip: Flip, provider: str) -> Turn:
    if flip.problem is not None:
        return Turn(None if flip.away else "failed", flip.problem, in_vain=flip.away)
    customer = f" as {flip.customer_id}" if flip.customer_id else ""
    if flip.already or flip.start_ms is None:
        return Turn("done", f"{flip.org_id} is assigned to {provider}{customer} already")
    said = [f"{flip.org_id} is billed by {provider}{customer} from {show_time(flip.start_ms)} on"]
    said += [f"{flip.mended_s:,} s that waited are sealed by the next tick"] if flip.mended_s else []
    said += [f"{flip.mended_units:,} units that waited are sealed by the next tick"] if flip.mended_units else []
    return Turn("done", "; ".join([*said, *([flip.note] if flip.note else [])]))
