"""Confirm: look up pushes with an unproven outcome at the provider.

Guarantee: Drawdown neither accepts a push with an unproven outcome nor sends it again without a lookup (P2, P3). It
voids a push only if a lookup does not find the push after the last time at which the provider could apply it (P5). If a
provider may charge without an event, the customer's balance must agree as well. If the balance shows that a push drew
on it, the push is accepted. If the balance does not prove whether the push was charged, a person decides. A push that
was never sent did not draw on a balance. After a failed lookup, a push keeps its state, and Drawdown looks it up again
later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.wallet import read_charges
from drawdown.providers.protocol import Absent, CannotTell, Capabilities, FoundPush, LookupResult, ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets, lock_charges, lock_rates
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.costs import Pools, as_text, read_pools
from drawdown.worker.catalog.terms import wire_since
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import MAX_BACKOFF_MS, LookUp, Over, Steps, Transaction, fetch_lookups
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_other, adopt_unknown
from drawdown.worker.push.claim import MOST_TOGETHER, claim_lookups
from drawdown.worker.push.evidence import (
    Accounted,
    Balances,
    CarryDoubt,
    CustomerPool,
    Level,
    ShownEvents,
    Sought,
    can_be_zero,
    carry_doubt,
    charged_among,
    drawn_of,
    is_of_cycle,
    is_only_choice,
    look_further,
    read_accounted,
    read_balances,
    read_shown,
    unknown_of,
)
from drawdown.worker.push.outcome import OTHERS, Adopt, LookedUpPush, Settlement, Void, after_lookup
from drawdown.worker.push.rows import PushRow, find_push, push_id_of, request_of, wire_key
from drawdown.worker.push.void import void_one
from drawdown.worker.push.wallet_mirror import draw, usage_of
from drawdown.worker.verdict.refresh_requests import mark_for_projection

log = structlog.get_logger()

SQL = queries(__file__)

ASKING: Final = 5
"""Eighths of a tick's time after which further lookups do not begin."""


@dataclass
class Confirmed:
    """The number of lookups, and of the pushes that they accepted, voided or adopted."""

    lookups: int = 0
    accepted: int = 0
    voided: int = 0
    adopted: int = 0

    def add(self, other: Confirmed) -> None:
        """Add the counts of a portion.

        Call this after the portion's commit, because a conflict repeats the portion.
        """
        self.lookups += other.lookups
        self.accepted += other.accepted
        self.voided += other.voided
        self.adopted += other.adopted


def confirm(context: Context, provider: str) -> Steps[Confirmed]:
    """Look up all pushes of a provider that are due for a lookup.

    This ends early if ASKING eighths of the tick's time are over, or if the provider did not answer any lookup of a
    batch.
    """
    done = Confirmed()
    capabilities = context.capabilities[provider]
    while capabilities.lookup and not context.out_of_time(ASKING):
        now, claim = context.clock.now_ms(), context.new_claim()
        asked: Sequence[Sought] = yield Transaction(
            "claim_lookups",
            partial(
                claim_lookups,
                provider=provider,
                claim=claim,
                now=now,
                capabilities=capabilities,
                shard=context.shard,
                witness=context.witness,
            ),
        )
        if not asked:
            break
        if not (yield from _look_up_batch(context, provider, asked, claim, now + LEASE_MS, done)):
            break
    return done


def _look_up_batch(
    context: Context, provider: str, asked: Sequence[Sought], claim: str, lease_end: int, done: Confirmed
) -> Steps[bool]:
    """Look up a batch, and apply each response as it arrives.

    Return True if the provider answered at least one lookup.
    """
    capabilities = context.capabilities[provider]
    looking = LookUp(
        provider,
        [request_of(sought.row, capabilities) for sought in asked],
        lambda: context.out_of_time(ASKING) or context.clock.now_ms() >= lease_end,
    )
    # A lookup proves the state at the time it was made. This process may sleep before it stores the response.
    asked_ms = context.clock.now_ms()
    left, read = set(range(len(asked))), False
    told: dict[int, LookupResult] = {}
    while left:
        told |= yield from fetch_lookups(looking, sorted(left))
        left -= told.keys()
        answers = {place: told.pop(place) for place in _ready(told, asked, left, capabilities)}
        if not answers:
            continue
        portion, found = yield from look_further(
            provider, [asked[place] for place in answers], list(answers.values()), capabilities
        )
        weighed = yield from weigh(provider, portion, found, asked_ms, capabilities, looking.over)
        came_to: Confirmed = yield Transaction(
            "confirm",
            partial(
                _apply,
                asked=portion,
                found=found,
                claim=claim,
                asked_ms=asked_ms,
                now=context.clock.now_ms(),
                capabilities=capabilities,
                witness=context.witness,
                provider=provider,
                weighed=weighed,
            ),
        )
        done.add(came_to)
        read = read or not all(isinstance(result, ReadFailed) for result in found)
    return read


def _ready(
    told: Mapping[int, LookupResult], asked: Sequence[Sought], left: Collection[int], capabilities: Capabilities
) -> list[int]:
    """Return the places of the responses that can be judged.

    One balance covers all absent pushes of a customer. If a response about one push is missing, all absent pushes of
    that customer wait.
    """
    unasked = {asked[place].row.customer_id for place in left} if capabilities.drawn else set()
    return [place for place in sorted(told) if told[place] != Absent() or asked[place].row.customer_id not in unasked]


def _keep_wire_key(connection: sa.Connection, row: PushRow, capabilities: Capabilities) -> PushRow:
    """Store the key under which a push was found without a known attempt of ours.

    Late refusals use that key. The key also shows that a person did not charge the push by hand.
    """
    if row.attempts or row.wire_key:
        return row
    SQL.run(connection, "keep_wire_key", {**push_id_of(row), "wire_key": wire_key(row.key, capabilities)})
    return find_push(connection, row.key)


def _apply(
    connection: sa.Connection,
    *,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    claim: str,
    asked_ms: int,
    now: int,
    capabilities: Capabilities,
    witness: Witness | None,
    provider: str,
    weighed: Weighed,
) -> Confirmed:
    done = Confirmed(lookups=len(asked))
    require_same(connection, witness)  # if history was lost meanwhile, the lookup is repeated (R1)
    if capabilities.same_database:
        found = _charged_meanwhile(connection, asked, found)
    found = _on_terms_in_force(connection, provider, asked, found)
    looked = [
        after_lookup(result, _describe_lookup(connection, sought, capabilities), asked_ms, capabilities)
        for result, sought in zip(found, asked, strict=True)
    ]
    if any(isinstance(end, Adopt | Void) or sought.others for end, sought in zip(looked, asked, strict=True)):
        lock_buckets(connection)
    if capabilities.balance_in_ledger:
        lock_rates(connection, shared=True)
    mine = partial(_still_mine, connection, claim=claim)
    ends = ends_by_balance(connection, provider, asked, found, looked, weighed, asked_ms, mine)
    by = By(now, "drawdown", "looked up")
    for sought, end in zip(asked, ends, strict=True):
        if isinstance(end, Settlement):
            if _settle(connection, sought.row, end, claim, now, asked_ms) and end.state == "accepted":
                done.accepted += 1
                if capabilities.balance_in_ledger:
                    draw(connection, [usage_of(sought.row)], now)
                _keep_wire_key(connection, sought.row, capabilities)
                done.adopted += _adopt_others(connection, sought, by)
        elif _still_mine(connection, sought.row, claim):  # if not, another process settled or claimed the push
            done.add(_replace(connection, sought, end, by, asked_ms, capabilities))
    mark_for_projection(connection, [str(sought.row.org_id) for sought in asked], now)
    return done


def _replace(
    connection: sa.Connection, sought: Sought, end: Adopt | Void, by: By, asked_ms: int, capabilities: Capabilities
) -> Confirmed:
    """Adopt the provider's push in place of ours, or void ours.

    The usage of a voided push is owed again.
    """
    row = sought.row
    _note(connection, row, asked_ms, f"found {end.quantity}" if isinstance(end, Adopt) else "absent")
    adopted = _adopt_others(connection, sought, by)
    if isinstance(end, Adopt):
        adopt_other(connection, _keep_wire_key(connection, row, capabilities), end.quantity, by, end.cost)
        log.error("push_adopted", key=row.key, ours=row.sent_qty, theirs=end.quantity)
        return Confirmed(adopted=adopted + 1)
    void_one(connection, row, by, end.evidence, "absent", answered=False)
    log.warning("push_absent", key=row.key, evidence=end.evidence)
    return Confirmed(adopted=adopted, voided=1)


def _charged_meanwhile(
    connection: sa.Connection, asked: Sequence[Sought], found: Sequence[LookupResult]
) -> list[LookupResult]:
    """Read our own ledger again, in the transaction that applies the responses.

    A suspended process may have charged since the lookup.
    """
    lock_charges(connection)
    absent = [str(it.row.key) for it, result in zip(asked, found, strict=True) if isinstance(result, Absent)]
    charged = read_charges(connection, absent)
    keys = [str(sought.row.key) for sought in asked]
    return [FoundPush(charged[key]) if key in charged else result for key, result in zip(keys, found, strict=True)]


def _on_terms_in_force(
    connection: sa.Connection, provider: str, asked: Sequence[Sought], found: Sequence[LookupResult]
) -> list[LookupResult]:
    """Let a person decide pushes that were sent under former names or units.

    A lookup uses the provider's present place and unit. If the lookup finds no charge, the former place may have the
    charge. A lost history may have sent a push earlier than this database knows.
    """
    since_ms = wire_since(connection, provider)
    return [
        CannotTell(OTHER_TERMS)
        if sought.first_sent_ms < since_ms
        and not isinstance(result, ReadFailed)
        and result != FoundPush(int(sought.row.sent_qty))
        else result
        for sought, result in zip(asked, found, strict=True)
    ]


def _adopt_others(connection: sa.Connection, sought: Sought, by: By) -> int:
    for other in sought.others:
        adopt_unknown(connection, sought.row, other, by)
        log.error("push_adopted", key=sought.row.key, revision=other.revision, theirs=other.quantity)
    return len(sought.others)


def _describe_lookup(connection: sa.Connection, sought: Sought, capabilities: Capabilities) -> LookedUpPush:
    row, loss = sought.row, sought.loss
    lost = loss is not None and row.attempts == 0
    doubt = carry_doubt(connection, row, capabilities) if lost else CarryDoubt()
    return LookedUpPush(
        state=str(row.state),
        sent_qty=int(row.sent_qty),
        lookups=int(row.lookups),
        last_sent_ms=sought.last_sent_ms,
        first_sent_ms=sought.first_sent_ms,
        claimed=bool(row.claimed),
        may_be_sent=lost,
        others=bool(sought.others),
        arrivals=int(row.arrivals),
        stale=doubt.stale,
        waits=doubt.waits,
    )


def _settle(connection: sa.Connection, row: PushRow, end: Settlement, claim: str, now: int, asked_ms: int) -> bool:
    values = {
        **push_id_of(row),
        "claim_owner": claim,
        "now_ms": now,
        "looked_up_ms": asked_ms,
        "state": end.state,
        "due_at_ms": end.due_at_ms,
        "last_error": end.error,
        "lookup_answer": end.outcome,
        "first_sent_ms": end.first_sent_ms,
        "never_sent": int(end.never_sent),
        "credit_cost": as_text(end.cost),
    }
    return SQL.run(connection, "settle_lookup", values).rowcount == 1


def _note(connection: sa.Connection, row: PushRow, asked_ms: int, answer: str) -> None:
    """Store the response of the lookup with the push, before it is voided."""
    SQL.run(connection, "note_lookup", {**push_id_of(row), "looked_up_ms": asked_ms, "lookup_answer": answer})


def _still_mine(connection: sa.Connection, row: PushRow, claim: str) -> bool:
    return SQL.run(connection, "hold_if_claimed", {**push_id_of(row), "claim_owner": claim}).first() is not None


DRAWN: Final = "no event shows it, but the customer's balance fell by its amount"
MOST_WAITS: Final = 100
"""Most lookups for which a push waits for other pushes of its customer.

They take at least a day in all. Afterwards the push is in doubt and a person decides. The other pushes may never settle
if their organisation is stopped.
"""
UNTOLD: Final = (
    "absent, and the customer's balance does not prove a charge. Compare with the provider's console, then run "
    "`drawdown push resolve KEY --outcome OUTCOME --evidence TEXT`"
)
BELOW: Final = (
    "the provider lacks the charge or has another quantity, and the push falls below the floor. Settle it with the "
    "customer, then run `drawdown push resolve KEY --outcome accepted --evidence TEXT`"
)
OTHER_TERMS: Final = (
    "sent on earlier terms of the provider, so a lookup cannot find the charge. Compare with the "
    "provider's console, then run `drawdown push resolve KEY --outcome OUTCOME --evidence TEXT`"
)
UNSENT: Final = "the lookup found no charge, and each attempt is proven not to have arrived"

End = Settlement | Adopt | Void


@dataclass(frozen=True)
class Weighed:
    """The balances of a batch, and the figures to compare them with.

    `before`: the accepted pushes, read before the balances. `shown_events`: the provider's events in spans of lost
    history.
    """

    pools: Pools = field(default_factory=lambda: Pools(()))
    before: Mapping[CustomerPool, Accounted] = field(default_factory=dict)
    balances: Balances = field(default_factory=dict)
    shown_events: Mapping[CustomerPool, ShownEvents] = field(default_factory=dict)


def weigh(
    provider: str,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    asked_ms: int,
    capabilities: Capabilities,
    over: Over,
) -> Steps[Weighed]:
    """Read the balances for absent pushes that may be charged without an event.

    The provider reported the key of such a push, or can no longer apply it. A push that was never sent is left out.
    """
    untold = [
        sought
        for sought, result in zip(asked, found, strict=True)
        if capabilities.drawn and isinstance(result, Absent) and sought.row.sent_qty and not sought.is_unsent
        if sought.row.claimed or asked_ms - sought.last_sent_ms >= (capabilities.applied_within_ms or 0)
    ]
    if not untold:
        return Weighed()
    pools: Pools = yield Transaction("known_costs", partial(read_pools, provider=provider), rollback=True)
    pairs = {_pair(sought, pools) for sought in untold}
    before: dict[CustomerPool, Accounted] = yield Transaction(
        "confirm_accounted",
        partial(read_accounted, provider=provider, pairs=sorted(pairs), balances={}),
        rollback=True,
    )
    balances = yield from read_balances(provider, {customer for customer, _ in pairs}, asked_ms, over)
    shown = yield from read_shown(provider, asked, pairs, pools, balances, capabilities, over)
    return Weighed(pools, before, balances, shown)


def _pair(sought: Sought, pools: Pools) -> CustomerPool:
    return str(sought.row.customer_id), pools.of(str(sought.row.feature))


def _drew(sought: Sought, pools: Pools, now_ms: int) -> int | None:
    """Return the draw of a push if the provider charged it.

    The draw is in quantities of the push's balance. None: the cost has changed since the first send of the push.
    """
    pool = pools.of(str(sought.row.feature))
    least, most = pools.weight_between(pool, str(sought.row.feature), sought.first_sent_ms, now_ms)
    return int(sought.row.sent_qty) * most if least == most else None


def ends_by_balance(
    connection: sa.Connection,
    provider: str,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    ends: Sequence[End],
    weighed: Weighed,
    asked_ms: int,
    is_mine: Callable[[PushRow], bool],
) -> list[End]:
    """Return the decisions about a batch, after balances decided its absent pushes.

    The decisions about other pushes do not change.

    `is_mine`: a function that returns True and locks the push, if it is still claimed for this lookup.

    If all pushes of a balance are decided together, to be voided or sent for the first time, the balance must prove
    only their sum. Some pushes will be sent again, may still be applied, or belong to another worker. The balance must
    distinguish each of these from all other pushes. If a lost history may have drawn a push, the push is not sent for
    the first time before the balance is conclusive.
    """
    decided, groups = _grouped(asked, found, ends, weighed)
    pools = weighed.pools
    now = read_accounted(connection, provider=provider, pairs=list(groups), balances=weighed.balances)
    # Read the costs after the statements above, which may use newer costs.
    latest = read_pools(connection, provider) if groups else pools
    for pair, absent in groups.items():
        drawn = drawn_of(weighed.balances, pair)
        numbers = [number for number in absent if drawn is None or _tells_of(asked[number], drawn, now[pair])]
        drew = [_drew(asked[number], pools, asked_ms) for number in numbers]
        some = [quantity for quantity in drew if quantity is not None]
        # The provider may have later revisions of these windows, from a lost history. Their charges are drawn, but this
        # database has not accepted them yet (R1).
        lost = sum(
            other.quantity * pools.weight_between(pair[1], str(sought.row.feature), asked_ms, asked_ms)[1]
            for sought in asked
            if _pair(sought, pools) == pair
            for other in sought.others
        )
        unknown = unknown_of(connection, provider, pair, pools, weighed.shown_events.get(pair), lost)
        charged = None
        is_same_scale = latest.scale(pair[1]) == pools.scale(pair[1])  # a finer cost since the reads changes the scale
        if drawn is not None and some and len(some) == len(drew) and is_same_scale:
            fits = partial(can_be_zero, connection, provider, pair, drawn, now[pair])
            charged = _charged(some, now[pair], weighed.before[pair], drawn, lost, unknown, fits)
        together = all(_is_last_word(decided[number]) and is_mine(asked[number].row) for number in absent)
        if charged is not None and not together and not is_only_choice(some, charged):
            charged = None  # the sum does not decide each push, and some may still be sent or charged
        unread = unknown is None or isinstance(weighed.balances.get(pair[0]), ReadFailed)
        whole = now[pair].open == len(absent) or len(absent) >= MOST_TOGETHER
        alone = whole and not unread and together and is_same_scale
        drawn_on = set() if charged is None else {numbers[at] for at in charged}
        beyond_it = set(absent) - set(numbers)
        for number in absent:
            if number in drawn_on:
                decided[number] = Settlement("accepted", asked_ms, "drawn", DRAWN)
            elif _is_last_word(end := decided[number]):
                if charged is None or number in beyond_it:
                    decided[number] = _wait_longer(asked[number].row, asked_ms, alone=alone or number in beyond_it)
                elif isinstance(end, Void):
                    decided[number] = replace(end, evidence=f"{end.evidence}. The customer's balance agrees")
    return _above_floor([sought.row for sought in asked], decided, asked_ms)


def _tells_of(sought: Sought, drawn: Level, now: Accounted) -> bool:
    """Return True if a balance can show a push.

    A balance cannot show a push that may have been drawn in the cycle before. It also cannot show a lost push (R1) if
    Drawdown has since reported the draw to a person, as use by another system.
    """
    was_told = sought.loss is not None and bool(now.apart) and now.marked_ms >= sought.loss.from_ms
    return is_of_cycle(sought.first_sent_ms, drawn) and not was_told


def _is_last_word(end: End) -> bool:
    """Return True if a decision without the balance proves that a push never arrived."""
    return isinstance(end, Void) or (isinstance(end, Settlement) and end.never_sent)


def _grouped(
    asked: Sequence[Sought], found: Sequence[LookupResult], ends: Sequence[End], weighed: Weighed
) -> tuple[list[End], dict[CustomerPool, list[int]]]:
    """Return the decisions so far, and the pushes that balances must decide.

    These pushes are grouped by customer and balance, as places in the batch.
    """
    decided = list(ends)
    groups: dict[CustomerPool, list[int]] = defaultdict(list)
    for number, (sought, result) in enumerate(zip(asked, found, strict=True)):
        if not isinstance(result, Absent) or not sought.row.sent_qty:
            continue
        if sought.is_unsent:
            if isinstance(end := decided[number], Void):
                decided[number] = replace(end, evidence=UNSENT)
        elif _pair(sought, weighed.pools) in weighed.before:
            groups[_pair(sought, weighed.pools)].append(number)
    return decided, groups


def _above_floor(rows: Sequence[PushRow], ends: Sequence[End], asked_ms: int) -> list[End]:
    """Put pushes below the floor in doubt instead of voiding or adopting them.

    Below the floor, a seal would not replace these pushes, so a person settles them.
    """
    below = Settlement("in_doubt", asked_ms + DAY_MS, "absent", BELOW)
    return [
        below if isinstance(end, Void | Adopt) and row.window_ms < row.floor_ms else end
        for row, end in zip(rows, ends, strict=True)
    ]


def _wait_longer(row: PushRow, asked_ms: int, *, alone: bool) -> Settlement:
    if alone:
        return Settlement("in_doubt", asked_ms + DAY_MS, "absent", UNTOLD)
    # Pushes that wait for one another are due at the same moment, so that one balance can decide them together.
    together_ms = asked_ms - asked_ms % MAX_BACKOFF_MS + MAX_BACKOFF_MS
    state = str(row.state) if row.lookups < MOST_WAITS else "in_doubt"
    return Settlement(state, together_ms, "absent", OTHERS)


def _charged(
    drew: Sequence[int],
    now: Accounted,
    before: Accounted,
    drawn: Level,
    lost: int,
    unknown: int | None,
    fits: Callable[[int], bool],
) -> frozenset[int] | None:
    """Return the places of the pushes that drew on a balance; None if unknown.

    If other pushes are open, a balance is conclusive only if it does not show any draw. A draw may belong to the other
    pushes or to these, and the provider may have lost another draw.
    """
    if (now.send_counts, now.accepted) != (before.send_counts, before.accepted):
        return None
    found = now.beyond(drawn)
    if found is None:
        return None
    beyond = found[0] - lost, found[1] - lost
    if now.open > len(drew):
        cancels = now.open_above != 0 and now.open_below != 0
        return frozenset() if beyond == (0, 0) and not cancels else None
    return None if unknown is None else charged_among(drew, beyond[0] - unknown, beyond[1] - unknown, fits)
