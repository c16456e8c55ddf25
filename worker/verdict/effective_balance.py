"""Estimate effective balances from the provider's balance and committed rows.

An effective balance is the balance, minus sealed usage that the balance does not include yet, minus unsealed usage,
minus reserved credit.

Guarantee: an estimate uses only committed rows, at rates in force. Usage without a rate is left out and named. A push
that is on its way, or was accepted within the lag of balances, may or may not be in the balance. It is counted until
the balance has fallen by its amount, so that it is not subtracted twice permanently. If a wallet here pays for a push,
the push is counted until it is accepted. This applies between reads. If the wallet mirrors another service, it also
applies at reads. Usage that ended lots still pay for is not subtracted, because these lots are no longer in the
balance.

For a page, `read_used_now` computes the figures as of now. Its number of statements does not depend on the number of
organisations. `unbilled_micro` computes the unbilled usage of a wallet, with or without a watch. Credit that is given
back counts only once it is settled. A customer without such usage costs one lookup by the index. The result is cached
until the transaction ends. For a customer with MOST_SAMPLES samples or more it is cached for KEPT_MS, unless the
customer's watermark moved, or its first open push was sealed, or its last open push was settled.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from drawdown.ledger.entries import MOST_BALANCE_MICRO
from drawdown.ledger.rates import RateCard, rate_card
from drawdown.ledger.rates import rates_part as ledger_rates_part
from drawdown.schema.sql import Part, prepared, queries, read_together
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, MINUTE_MS, SECOND_MS
from drawdown.worker.catalog.mapping import Segment, mapping_of, mapping_part, mapping_rows, segments
from drawdown.worker.catalog.wallets import mirrors, terms_part, wallets_at, with_wallets
from drawdown.worker.verdict.holds import (
    Lapsed,
    held_of,
    held_part,
    lapsed_of,
    lapsed_part,
    metering_in,
    read_held,
    read_in_wallets,
    read_lapsed,
    used_up,
    wallets_of,
    wallets_part,
)
from drawdown.worker.verdict.org_row import Effective, Row
from drawdown.worker.verdict.rates import card_of, policies_of, policy_for, rate_card_of, rates_part

SQL = queries(__file__)

LATELY_MS: Final = 5 * MINUTE_MS
"""Age in milliseconds up to which usage counts as recent."""
JUST_NOW_MS: Final = MINUTE_MS
"""Age in milliseconds up to which usage counts as current."""
READINGS: Final = 3
UNSAMPLED_S: Final = 2 * MINUTE_MS // SECOND_MS
"""Most seconds of use assumed for a new sandbox without a sample (two one-minute intervals)."""
BEGUN_MS: Final = 3 * MINUTE_MS
"""Age in milliseconds from which a sandbox without a sample counts as unused (three one-minute intervals)."""
HOST_CLOCK_APART_MS: Final = 30 * SECOND_MS
"""Largest assumed difference between a host's clock and Drawdown's, in either direction."""
MOST_CHANGES: Final = 8
"""Latest verdicts of an organisation among which Drawdown finds its last halt.

Fewer verdicts happen within BEGUN_MS.
"""


@dataclass
class Used:
    """The use of an organisation that its balance may not show yet, in micro-credits.

    `lately`, `just_now`: the use in the last LATELY_MS and JUST_NOW_MS, for the rate of use.
    """

    unsealed: int = 0
    """Use that is not sealed, without usage that ended lots pay for."""
    unsampled: int = 0
    """Use without a sample yet. It assumes that running sandboxes run until their next sample."""
    unsent: int = 0
    """Use that is sealed, but is not sent yet or is proven not to have arrived."""
    rejected: int = 0
    """The part of `unsent` that the provider rejected. A balance does not include it until a person settles it.
    """
    sent_since: int = 0
    """Use that was first sent after the read of the stored balance."""
    held_micro: int = 0
    """The credit of its wallet that executions have reserved."""
    wallet: int | None = None
    """The credit of its wallet, if the wallet is here, because executions charge it between reads."""
    in_flight: int = 0
    """Use that is sent, but not accepted yet."""
    mirrors: bool = False
    """True if its wallet mirrors another service's bills, so that accepted pushes are drawn from it.

    So a read of the wallet never includes pushes in flight, even if executions made it fall.
    """
    maybe: int = 0
    """The part of the sent use that a balance may or may not show if it is read now."""
    lately: int = 0
    just_now: int = 0
    running: int = 0
    """The use of all running sandboxes in a minute, if hosts report their size."""
    unpriced: set[str] = field(default_factory=set)
    """Its features without a rate, which estimates leave out."""

    def keep_within(self, most: int) -> None:
        """Limit each figure to `most` in either direction, so that it can be stored."""
        for name, value in vars(self).items():
            if isinstance(value, int) and not -most <= value <= most:
                setattr(self, name, most if value > 0 else -most)

    @property
    def burn_a_minute(self) -> int:
        """Return the highest rate of use, in micro-credits a minute, at least 0.

        The rates are those of the last minute, of the last five minutes, and of the running sandboxes.

        So a sandbox that starts counts immediately, and a sandbox that pauses counts for five more minutes.
        """
        return max(self.just_now, self.lately * JUST_NOW_MS // LATELY_MS, self.running, 0)


class Balanced(Protocol):
    """An organisation with the balance that was last read: a row of `orgs`."""

    @property
    def balance_micro(self) -> int | None: ...
    @property
    def balance_read_ms(self) -> int | None: ...
    @property
    def unconfirmed_micro(self) -> int | None: ...
    @property
    def is_halted(self) -> bool: ...


class BalancedOrg(Balanced, Protocol):
    """An organisation with its id and the balance that was last read."""

    @property
    def org_id(self) -> str: ...


def unseen(before: int | None, was: int | None, balance: int, used: Used) -> int:
    """Return the sent use that a fresh balance does not show yet.

    It is the earlier unseen use (`was`), plus the use sent since, minus the fall of the balance. It is at most the use
    that may be unseen (`used.maybe`). At the first read, it is all of that use.
    """
    low, high = min(used.maybe, 0), max(used.maybe, 0)
    if before is None:
        return used.maybe
    return max(low, min((was or 0) + used.sent_since - (before - balance), high))


def effective_after(org: Balanced, balance: int, used: Used, *, paid: bool = False) -> tuple[Effective, int]:
    """Return the effective balance by a fresh read, and the unseen sent use.

    `paid`: True if a payment is known to have raised the balance.
    """
    # If a balance rose, there was a payment, or the read shows an older state. So a running organisation continues.
    before = org.balance_micro
    if before is not None and (paid or not org.is_halted):
        before = max(before, balance)
    hidden = unseen(before, org.unconfirmed_micro, balance, used)
    if used.mirrors:
        hidden = max(hidden, used.in_flight)  # pushes in flight are not charged to the wallet yet (see `mirrors`)
    return Effective(balance, hidden + used.unsent, _unsealed(org, used), used.held_micro), hidden


def since_read(org: Balanced, used: Used) -> Effective | None:
    """Return the effective balance by the last read, or by a wallet here.

    None: the customer was never read, or the balance is unlimited.
    """
    if org.balance_read_ms is None or org.balance_micro is None:
        return None
    if used.wallet is not None:
        return Effective(used.wallet, used.in_flight + used.unsent, _unsealed(org, used), used.held_micro)
    hidden = (org.unconfirmed_micro or 0) + used.sent_since
    return Effective(org.balance_micro, hidden + used.unsent, _unsealed(org, used), used.held_micro)


def _unsealed(org: Balanced, used: Used) -> int:
    return used.unsealed + (0 if org.is_halted else max(used.unsampled, 0))


def read_used(
    connection: sa.Connection, provider: str, orgs: Sequence[Row], *, now_ms: int, read_ms: int, lag_ms: int
) -> Mapping[str, Used]:
    """Return the use of a provider's organisations that their balance may not show.

    `orgs`: rows with the stored balance. `read_ms`: the start of the read to compare with. `lag_ms`: the lag of
    balances.
    """
    if not orgs:
        return defaultdict(Used)
    # If a seal makes pushes between the two statements, both include their usage. Then read both again. After READINGS
    # tries, use the smallest sum, because a seal can only make the sum too large.
    best: dict[str, Used] = {}
    for _ in range(READINGS):
        before = _last_seals(connection)
        found = _read_once(connection, provider, orgs, now_ms=now_ms, read_ms=read_ms, lag_ms=lag_ms)
        if _last_seals(connection) == before:
            return found
        best = {
            org.org_id: min(best.get(org.org_id, found[org.org_id]), found[org.org_id], key=_unseen_use) for org in orgs
        }
    return defaultdict(Used, best)


def _unseen_use(used: Used) -> int:
    return used.unsealed + used.unsent + used.sent_since


def _last_seals(connection: sa.Connection) -> Sequence[int]:
    return SQL.run(connection, "last_seals").scalars().all()


def _read_once(
    connection: sa.Connection, provider: str, orgs: Sequence[Row], *, now_ms: int, read_ms: int, lag_ms: int
) -> dict[str, Used]:
    ids = [org.org_id for org in orgs]
    held = read_held(connection, provider, ids, now_ms)
    is_here = provider in wallets_at(connection)
    lapsed = read_lapsed(connection, provider, ids, now_ms) if is_here else {}
    card = rate_card_of(connection, provider)
    rules = segments(mapping_rows(connection))
    unsealed, pushes = (
        SQL.run(connection, part.name, part.values).all()
        for part in parts_of(provider, orgs, rules, now_ms=now_ms, read_ms=read_ms, lag_ms=lag_ms)
    )
    # Read the wallets last. If a charge is made meanwhile, this estimate subtracts it twice, and does not omit it.
    wallets = read_in_wallets(connection, provider, ids, now_ms) if is_here else {}
    seen = BalanceRows(unsealed, pushes, held, lapsed, card, wallets, mirrors(provider))
    return used_by(seen, orgs, read_ms=read_ms, lag_ms=lag_ms)


def parts_of(
    provider: str, orgs: Sequence[BalancedOrg], rules: Sequence[Segment], *, now_ms: int, read_ms: int, lag_ms: int
) -> tuple[Part, Part]:
    """Return queries of unsealed usage, and of pushes that a balance may not show.

    `BalanceRows` takes their rows.
    """
    read_before = min(now_ms if org.balance_read_ms is None else org.balance_read_ms for org in orgs)
    values: dict[str, object] = {
        "org_ids": [org.org_id for org in orgs],
        "segments": [asdict(segment) for segment in rules],
        "provider": provider,
        "now_ms": now_ms,
        "lately_ms": now_ms - LATELY_MS,
        "just_now_ms": now_ms - JUST_NOW_MS,
        "begun_ms": now_ms - BEGUN_MS,
        "ahead_ms": now_ms + HOST_CLOCK_APART_MS,
        "unsampled_s": UNSAMPLED_S,
        "changes": MOST_CHANGES,
        "since_ms": max(min(read_before, read_ms - lag_ms), now_ms - DAY_MS),
    }
    return SQL.part("unsealed", values), SQL.part("unseen_pushes", values)


@dataclass(frozen=True)
class BalanceRows:
    """The rows from which the use of a provider's organisations is computed.

    `unsealed` and `pushes`: rows of `unsealed` and `unseen_pushes`. `held_micro`: the reserved credit by organisation.
    `lapsed`: the rest of ended lots by organisation. `wallets`: the credit of wallets by organisation, in
    micro-credits. `card`: the rates.
    """

    unsealed: Sequence[Any]
    pushes: Sequence[Any]
    held_micro: Mapping[str, int]
    lapsed: Mapping[str, Lapsed]
    card: RateCard
    wallets: Mapping[str, int]
    mirrors: bool
    """True if the wallets mirror charges at another provider."""

    def price(self, used: Used, row: Any, *quantities: int | Decimal) -> list[int]:
        """Return the prices of quantities of a row's feature, in micro-credits.

        If the feature does not have a rate, add it to `used.unpriced` and return zeros.
        """
        rate = self.card.rate(row.feature, row.window_ms)
        if rate is None:
            used.unpriced.add(row.feature)
            return [0] * len(quantities)
        return [rate.price(int(quantity)) for quantity in quantities]


def used_by(seen: BalanceRows, orgs: Sequence[BalancedOrg], *, read_ms: int, lag_ms: int) -> dict[str, Used]:
    """Add up the rows by organisation.

    This function is pure.
    """
    found: dict[str, Used] = defaultdict(Used)
    for org_id, held_micro in seen.held_micro.items():
        found[org_id].held_micro = held_micro
    for org_id, payable_micro in seen.wallets.items():
        found[org_id].wallet, found[org_id].mirrors = payable_micro, seen.mirrors
    in_time: dict[str, int] = defaultdict(int)
    """Uncharged use from before the end of lots, which these lots still pay for."""
    reads = {org.org_id: org.balance_read_ms for org in orgs}
    for row in seen.unsealed:
        used = found[row.org_id]
        figures = (row.owed, row.unsampled, row.lately, row.just_now, row.a_minute)
        amount, unsampled, lately, just_now, running = seen.price(used, row, *figures)
        used.unsealed += amount
        in_time[row.org_id] += amount if _is_in_time(row, seen.lapsed) else 0
        used.unsampled += unsampled
        used.lately += lately
        used.just_now += just_now
        used.running += running
    for row in seen.pushes:
        used = found[row.org_id]
        (amount,) = seen.price(used, row, row.sent_qty)
        if row.state == "rejected" or row.first_attempt_ms is None:
            used.unsent += amount
            used.rejected += amount if row.state == "rejected" else 0
            in_time[row.org_id] += amount if _is_in_time(row, seen.lapsed) else 0
            continue
        used.in_flight += amount if row.state != "accepted" else 0
        read = reads[row.org_id] or 0
        # If a push was settled in the millisecond in which the read began, that read counted it in `unseen`.
        settled_before = row.state == "accepted" and row.settled_ms is not None and row.settled_ms <= read
        used.sent_since += amount if row.first_attempt_ms >= read and not settled_before else 0
        used.maybe += amount if row.state != "accepted" or (row.settled_ms or read_ms) > read_ms - lag_ms else 0
    for org_id, over in seen.lapsed.items():
        found[org_id].unsealed -= min(over.lapsed_micro, max(in_time[org_id], 0))
    for used in found.values():
        used.keep_within(MOST_BALANCE_MICRO)
    return found


def _is_in_time(row: Any, lapsed: Mapping[str, Lapsed]) -> bool:
    return row.org_id in lapsed and bool(row.window_ms < lapsed[row.org_id].until_ms)


def read_used_now(connection: sa.Connection, orgs: Mapping[str, Sequence[BalancedOrg]], now_ms: int) -> dict[str, Used]:
    """Return the use by organisation as of now.

    The result has the organisations that used or reserved credit, or have a wallet here. `orgs`: rows by provider. The
    connection must read at one moment (`schema.database.read`).
    """
    providers = sorted(name for name, rows in orgs.items() if rows)
    if not providers:
        return {}
    rates = {f"rates{number}": rates_part(provider) for number, provider in enumerate(providers)}
    terms = read_together(connection, terms=terms_part(), mapping=mapping_part(), ledger=ledger_rates_part(), **rates)
    here, rules = with_wallets(terms["terms"]), segments(mapping_of(terms["mapping"]))
    parts: dict[str, Part] = {}
    for number, provider in enumerate(providers):
        rows, ids = orgs[provider], [org.org_id for org in orgs[provider]]
        unsealed, pushes = parts_of(provider, rows, rules, now_ms=now_ms, read_ms=now_ms, lag_ms=0)
        held = held_part(provider, ids, now_ms, in_wallets=provider in here)
        parts |= {f"unsealed{number}": unsealed, f"pushes{number}": pushes, f"held{number}": held}
        if provider in here:
            parts[f"lapsed{number}"] = lapsed_part(provider, ids, now_ms)
            parts[f"wallets{number}"] = wallets_part(provider, ids, now_ms)
    read = read_together(connection, **parts)
    metering = [one for number in range(len(providers)) for one in metering_in(read[f"held{number}"])]
    gone = used_up(connection, sorted(set(metering)), now_ms) if metering else {}
    found: dict[str, Used] = {}
    for number, provider in enumerate(providers):
        card = rate_card(terms["ledger"]) if provider in here else card_of(terms[f"rates{number}"])
        held_rows, over = held_of(read[f"held{number}"], gone), lapsed_of(read.get(f"lapsed{number}", []))
        wallets = wallets_of(read.get(f"wallets{number}", []))
        seen = BalanceRows(
            read[f"unsealed{number}"], read[f"pushes{number}"], held_rows, over, card, wallets, mirrors(provider)
        )
        found |= used_by(seen, orgs[provider], read_ms=now_ms, lag_ms=0)
    return found


MOST_SAMPLES: Final = 1_000
"""Number of unsealed samples of a customer from which on Drawdown caches their sum."""
KEPT_MS: Final = 5 * SECOND_MS
"""Milliseconds for which Drawdown caches the sum of a customer's unsealed samples."""
MOST_KEPT: Final = 10_000
"""Customers with many samples and a cached sum.

Above this number, Drawdown removes the oldest entry.
"""
_KEPT: Final = "unbilled_micro"


class _Unread(NamedTuple):
    """An organisation that `read_used_now` treats as read now.

    The function then ignores earlier pushes.
    """

    org_id: str
    balance_read_ms: int
    balance_micro: int | None = None
    unconfirmed_micro: int | None = None
    is_halted: bool = False


class _CachedCost(NamedTuple):
    """The cached cost of a customer's samples.

    `at_ms`: when the cost was read. `mark`: the state of the database for which the cost holds.
    """

    at_ms: int
    mark: Sequence[object]
    micro: int


_FOUND: Final[WeakKeyDictionary[sa.Engine, OrderedDict[str, _CachedCost]]] = WeakKeyDictionary()
"""The cached costs of customers with many samples, by database."""


def unbilled_micro(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """Return the cost of unbilled usage of a customer's organisations.

    The cost is in micro-credits, of all organisations that are billed as this customer now. It includes only usage that
    a wallet of the embedded ledger pays for.
    """
    kept: dict[tuple[str, int], int] = _transaction_cache(connection)
    key = (customer_id, now_ms)
    if key not in kept:
        kept[key] = _read(connection, customer_id, now_ms)
    return kept[key]


def _transaction_cache(connection: sa.Connection) -> dict[tuple[str, int], int]:
    """Return the results that this transaction has cached."""
    now = connection.get_transaction()
    kept: tuple[object, dict[tuple[str, int], int]] = connection.info.get(_KEPT, (None, {}))
    if kept[0] is not now or now is None:
        kept = (now, {})
        connection.info[_KEPT] = kept
    return kept[1]


def _read(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    values = {"customer_id": customer_id, "now_ms": now_ms, "many": MOST_SAMPLES}
    with prepared(connection):
        rows = SQL.run(connection, "used_by", values).all()
    if sum(row.samples for row in rows) < MOST_SAMPLES:
        return _added_up(connection, rows, now_ms)
    known = _FOUND.setdefault(connection.engine, OrderedDict())
    mark, found = [(row.provider, row.org_id, row.sealed_to, row.has_open) for row in rows], known.get(customer_id)
    if found is not None and found.mark == mark and found.at_ms <= now_ms < found.at_ms + KEPT_MS:
        return found.micro
    if found is not None and found.mark == mark:
        known[customer_id] = found._replace(at_ms=now_ms)  # other threads use the old cost while this thread adds up
    micro = _added_up(connection, rows, now_ms)
    known[customer_id] = _CachedCost(now_ms, mark, micro)
    if len(known) > MOST_KEPT:
        known.popitem(last=False)
    return micro


def _added_up(connection: sa.Connection, rows: Sequence[Any], now_ms: int) -> int:
    with prepared(connection):
        orgs: dict[str, list[_Unread]] = defaultdict(list)
        for row in rows:
            orgs[row.provider].append(_Unread(row.org_id, now_ms))
        here = wallets_at(connection) if rows else ()
        used = read_used_now(connection, {name: some for name, some in orgs.items() if name in here}, now_ms)
    return max(sum(one.unsealed + one.unsent + one.in_flight for one in used.values()), 0)


MOST_HOLDERS: Final = 10
"""Most executions with reserved credit that `org show` lists."""


@dataclass(frozen=True)
class Holder:
    """An execution that reserves credit (micro-credits) until a time."""

    reservation: str
    left_micro: int
    expires_ms: int


@dataclass(frozen=True)
class Credit:
    """The effective balance with its parts, in millionths of the provider's credits.

    `unaccepted_micro`: sealed use, sent or not, that the balance may not show. `unsealed_micro`, `not_sampled_micro`:
    use that is not sealed, or not sampled yet. `burn_a_minute_micro`: the present use a minute. `no_estimate_for`:
    features without a rate. `unread_since_ms`: the start of failing reads (None: the last read succeeded). `when_down`:
    the policy while the provider is unreadable. `holders`: the executions with the most reserved credit, at most
    MOST_HOLDERS. If another field is None, the balance was not read yet, or is unlimited.
    """

    provider: str
    balance_micro: int | None
    read_ms: int | None
    unaccepted_micro: int | None
    unsealed_micro: int
    not_sampled_micro: int
    held_micro: int
    effective_micro: int | None
    burn_a_minute_micro: int
    no_estimate_for: list[str]
    unread_since_ms: int | None
    when_down: str
    holders: list[Holder]


@dataclass(frozen=True)
class VerdictChange:
    """A change of the verdict, with its reason and figures (micro-credits).

    A figure is None if it is unknown or unlimited. `read_ms`: the start of the read. The figures are as in `Effective`:
    unless the organisation was halted, `unsealed_micro` includes use that is not sampled yet.
    """

    at_ms: int
    read_ms: int
    is_halted: bool
    reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    unaccepted_micro: int | None
    unsealed_micro: int | None
    held_micro: int | None


def credit_status(connection: sa.Connection, org: sa.Row[tuple[object, ...]], now_ms: int) -> Credit | None:
    """Return the parts of an organisation's effective balance.

    They are by the last read, or by a wallet of the embedded ledger. `org`: the organisation's row. None: the
    organisation is not billed.
    """
    provider = SQL.run(connection, "biller", {"org_id": org.org_id, "now_ms": now_ms}).scalar_one_or_none()
    if provider is None or provider in EXEMPT_PROVIDERS:
        return None
    used = read_used(connection, provider, [org], now_ms=now_ms, read_ms=now_ms, lag_ms=0)[org.org_id]
    found = since_read(org, used)
    return Credit(
        provider=provider,
        balance_micro=org.balance_micro if found is None else found.balance,
        read_ms=org.balance_read_ms if found is None or used.wallet is None else now_ms,
        unaccepted_micro=None if found is None else found.unaccepted,
        unsealed_micro=used.unsealed,
        not_sampled_micro=0 if org.is_halted else used.unsampled,
        held_micro=used.held_micro,
        effective_micro=None if found is None else found.value,
        burn_a_minute_micro=used.burn_a_minute,
        no_estimate_for=sorted(used.unpriced),
        unread_since_ms=org.unread_since_ms,
        when_down=policy_for(policies_of(connection, provider), org.plan),
        holders=_holders(connection, str(org.org_id), provider, now_ms) if used.held_micro else [],
    )


def _holders(connection: sa.Connection, org_id: str, provider: str, now_ms: int) -> list[Holder]:
    elsewhere = provider not in wallets_at(connection)
    values = {"org_id": org_id, "now_ms": now_ms, "at_most": MOST_HOLDERS, "elsewhere": elsewhere}
    return [Holder(**row._mapping) for row in SQL.run(connection, "holders", values)]


def verdict_history(connection: sa.Connection, org_id: str) -> list[VerdictChange]:
    """Return the last ten changes of an organisation's verdict, newest first."""
    rows = SQL.run(connection, "verdicts", {"org_id": org_id}).mappings()
    return [VerdictChange(**{**row, "is_halted": bool(row["is_halted"])}) for row in rows]
