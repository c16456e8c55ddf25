"""The only entry point for the results of providers.

All other code calls a provider through this module.

Guarantee: every returned result can be stored by every database and shown on every terminal. Text is clean and bounded,
numbers are integers or exact decimals within bounds, and lists are bounded. An invalid figure is never used. Drawdown
omits it, or the push becomes Unknown, or the read ReadFailed. So a customer's name or figure at a provider never fails
a batch of others (rule S8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeVar, cast

from drawdown.providers.protocol import (
    Accepted,
    Cancelled,
    Cancels,
    CannotTell,
    Capabilities,
    Cost,
    CustomerChanged,
    CustomerRead,
    CustomerState,
    Drawn,
    FoundPush,
    Lasting,
    LookupResult,
    ManyLookups,
    Notice,
    Outcome,
    Part,
    Provider,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    ShownCredit,
    TellsCosts,
    Totals,
    UnitCost,
    Unknown,
)
from drawdown.schema.text import clean

MAX_FIGURE: Final = 9 * 10**18
"""Largest balance in micro-credits, or quantity in base units, so that figures fit in 64 bits."""
LATEST_MS: Final = 253_402_300_799_999
"""Latest time from a provider, the last moment of the year 9999."""
MAX_REASON_CHARS: Final = 500
"""Most characters of a reason that a provider returns."""
MAX_NAME_CHARS: Final = 200
"""Most characters of the name of a plan, feature or customer from a provider.

An id has the same limit.
"""
MAX_KEY_CHARS: Final = 1_000
"""Most characters of a key or customer in a webhook."""
MAX_FEATURES: Final = 10_000
"""Most features in a customer's totals or balances, or in a provider's costs."""
MAX_PARTS: Final = 1_000
"""Most parts of the balances of one customer."""
MAX_LINES: Final = 1_000
"""Most lines of the result of a provider's check.

Drawdown drops further lines.
"""
MAX_DECIMALS: Final = 10
"""Most decimals of a cost in credits. In recorded calls, Autumn reported balances to ten decimals."""
MAX_COST: Final = 10**8
"""Most credits for one base unit. With MAX_DECIMALS, a rate fits in 64 bits."""
MOST_PLACES: Final = 400
"""Most digits after the decimal point of an amount.

A floating-point number cannot have more digits, and a message must not print a million of them.
"""
MAX_NOTICES: Final = 1_000
"""Most notices of one webhook.

Drawdown drops further notices.
"""
SAME_NAME: Final = "have the same name after Drawdown escapes or cuts it"

_Value = TypeVar("_Value")


class ValidatedProvider:
    """A provider with validated results.

    All other code uses a provider only in this form.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    @capabilities.setter
    def capabilities(self, declared: Capabilities) -> None:
        self._provider.capabilities = declared

    @property
    def dormant(self) -> str | None:
        return self._provider.dormant

    @dormant.setter
    def dormant(self, why: str | None) -> None:
        self._provider.dormant = why

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [outcome(answer) for answer in await self._provider.push(batch)]

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        found = await self._provider.customers(customer_ids)
        return {name: sound(found[name]) for name in customer_ids if name in found}

    async def lookup(self, request: PushRequest) -> LookupResult:
        return looked_up(await self._provider.lookup(request))

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        return [looked_up(answer) for answer in await cast(ManyLookups, self._provider).lookup_many(requests)]

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        return cancelled(await cast(Cancels, self._provider).cancel(request))

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        return totals(await self._provider.totals(customer_id, from_ms, to_ms))

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return drawn(await self._provider.drawn(customer_id))

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        return costs(await cast(TellsCosts, self._provider).costs(known))

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        found = await self._provider.notices(headers, body, now_ms)
        return _failed(found) if isinstance(found, ReadFailed) else [_notice(notice) for notice in found[:MAX_NOTICES]]

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        found = await self._provider.check(features, customer_ids)
        return [clean(str(line), MAX_REASON_CHARS) for line in found[:MAX_LINES]]


def sound(state: CustomerRead) -> CustomerRead:
    """Validate and return a customer's state.

    Return ReadFailed if a figure is out of bounds, the plan is not text, or a list is too long.
    """
    if isinstance(state, ReadFailed):
        return _failed(state)
    if not isinstance(state, CustomerState):
        return state
    balance, limit, plan = state.balance_micro, state.max_concurrent, state.plan
    if balance is not None and not _is_figure(balance):
        return ReadFailed(f"the balance {_format_value(balance)} is not a number of micro-credits")
    if limit is not None and (type(limit) is not int or not 0 <= limit < 2**31):
        return ReadFailed(f"the limit {_format_value(limit)} is not a number of sandboxes")
    if plan is not None and not isinstance(plan, str):
        return ReadFailed(f"the plan {_format_value(plan)} is not a string")
    refused = frozenset(clean(feature, MAX_NAME_CHARS) for feature in state.refused)
    limits = _by_clean_name(state.feature_limits)
    if limits is None:
        return ReadFailed(f"two usage limits {SAME_NAME}")
    invalid = [units for units in limits.values() if not _is_figure(units)]
    if invalid:
        return ReadFailed(f"the remainder {_format_value(invalid[0])} of a usage limit is not a number of units")
    if max(len(refused), len(limits)) > MAX_FEATURES or max(len(state.parts), len(state.plans)) > MAX_PARTS:
        return ReadFailed(
            f"too many values (refused features: {len(refused)}, usage limits: {len(limits)}, "
            f"parts of balances: {len(state.parts)}, plans: {len(state.plans)})"
        )
    plan = None if plan is None else clean(plan, MAX_NAME_CHARS)
    return CustomerState(balance, plan, limit, refused, _parts(state.parts), _plans(state.plans), limits)


def _parts(found: Sequence[Part]) -> tuple[Part, ...]:
    """Return the valid parts, each name once.

    A part with an impossible figure is skipped, so that it never counts as used up.
    """
    named: dict[tuple[str, str], Part] = {}
    for part in filter(_is_part, found):
        balance, name = clean(part.balance, MAX_NAME_CHARS), clean(part.name, MAX_NAME_CHARS)
        plan = None if part.plan is None else clean(part.plan, MAX_NAME_CHARS)
        used = part.used if part.used is not None and _is_amount(part.used) else None
        named[balance, name] = Part(balance, name, part.granted, part.ends_ms, plan, used)
    return tuple(named.values())


def _plans(found: frozenset[str]) -> frozenset[str]:
    return frozenset(clean(plan, MAX_NAME_CHARS) for plan in found)


def _lasting(found: Lasting | None) -> Lasting | None:
    """Return the lasting part of a balance; None if a figure is invalid.

    After None, Drawdown compares the next cycle as if no read had shown this cycle.
    """
    if found is None or not _is_moment(found.ends_ms):
        return None
    return found if all(map(_is_amount, (found.used, found.lasting_left, found.cycle_left))) else None


def _by_clean_name(found: Mapping[str, _Value]) -> dict[str, _Value] | None:
    """Return the values by clean name, or None if two names are then equal.

    Otherwise one of the two values would be lost.
    """
    named = {clean(name, MAX_NAME_CHARS): value for name, value in found.items()}
    return named if len(named) == len(found) else None


def _is_part(part: Part) -> bool:
    return _is_amount(part.granted) and (part.ends_ms is None or _is_moment(part.ends_ms))


def outcome(found: Outcome) -> Outcome:
    """Validate and return the outcome of one push."""
    match found:
        case Accepted(left, cost, parts):
            return Accepted(_shown_credit(left), _cost_or_none(cost), _parts(parts) if len(parts) <= MAX_PARTS else ())
        case Queued(at_ms) if not _is_moment(at_ms):
            return Unknown(f"queued, with an invalid time of confirmation {_format_value(at_ms)}")
        case RetryAt(at_ms, reason, too_many, by_person):
            # The push was provably not applied. If its time to retry is invalid, do not wait for it.
            return RetryAt(at_ms if _is_moment(at_ms) else 0, _reason(reason), too_many is True, by_person is True)
        case Rejected(reason, until_credit):
            return Rejected(_reason(reason), until_credit is True)
        case Unknown(reason):
            return Unknown(_reason(reason))
    return found


def _shown_credit(found: ShownCredit | None) -> ShownCredit | None:
    """Return the credit that a response shows; None if it is invalid.

    If the credit is invalid, the push still counts as charged, and Drawdown reads the balance.
    """
    if found is None or not isinstance(found.part, str | None):
        return None
    figures = [found.charged_micro] if found.balance_micro is None else [found.charged_micro, found.balance_micro]
    part = None if found.part is None else clean(found.part, MAX_NAME_CHARS)
    return replace(found, part=part) if all(map(_is_figure, figures)) else None


def looked_up(found: LookupResult) -> LookupResult:
    """Validate and return the result of a lookup."""
    match found:
        case FoundPush(quantity) if not _is_figure(quantity):
            return ReadFailed(f"invalid quantity {_format_value(quantity)}")
        case FoundPush(quantity, cost):
            return FoundPush(quantity, _cost_or_none(cost))
        case CannotTell(reason, holds, may_have):
            return CannotTell(_reason(reason), holds if _is_figure(holds) else None, may_have is not False)
        case ReadFailed():
            return _failed(found)
    return found


def cancelled(found: Cancelled | ReadFailed) -> Cancelled | ReadFailed:
    """Validate and return the result of a cancellation, with its evidence."""
    return Cancelled(_reason(found.evidence)) if isinstance(found, Cancelled) else _failed(found)


def totals(found: Totals | ReadFailed) -> Totals | ReadFailed:
    """Validate and return the charges by feature."""
    if isinstance(found, ReadFailed):
        return _failed(found)
    if len(found) > MAX_FEATURES:
        return ReadFailed(f"too many features in the totals: {len(found)}")
    wrong = [value for value in found.values() if not _is_figure(value)]
    if wrong:
        return ReadFailed(f"invalid quantity {_format_value(wrong[0])} in a total")
    named = _by_clean_name(found)
    return ReadFailed(f"two features in the totals {SAME_NAME}") if named is None else named


def drawn(found: Mapping[str, Drawn] | ReadFailed) -> Mapping[str, Drawn] | ReadFailed:
    """Validate and return the draws that balances show, by feature."""
    if isinstance(found, ReadFailed):
        return _failed(found)
    if len(found) > MAX_FEATURES:
        return ReadFailed(f"too many features in the balances: {len(found)}")
    for balance in found.values():
        moments = [one for one in (balance.since_ms, balance.earliest_ms) if one is not None]
        if not _is_amount(balance.quantity) or not all(map(_is_moment, moments)):
            return ReadFailed(
                f"{_format_value(balance.quantity)} since {_format_value(balance.since_ms)} is not a drawn quantity"
            )
        # If a part were omitted here, Drawdown would take it for a part that was used up.
        if max(len(balance.parts), len(balance.plans)) > MAX_PARTS or not all(map(_is_part, balance.parts)):
            return ReadFailed(f"a balance has too many parts ({len(balance.parts)}), or a part without an amount")
        if len(balance.own) > MAX_FEATURES or not all(map(_is_amount, balance.own.values())):
            return ReadFailed(f"a balance has too many own balances ({len(balance.own)}), or one without an amount")
    checked: dict[str, Drawn] = {}
    for feature, balance in found.items():
        own = _by_clean_name(balance.own)
        if own is None:
            return ReadFailed(f"two own balances {SAME_NAME}")
        checked[feature] = replace(
            balance,
            parts=_parts(balance.parts),
            lasting=_lasting(balance.lasting),
            plans=_plans(balance.plans),
            own=own,
        )
    named = _by_clean_name(checked)
    return ReadFailed(f"two features in the balances {SAME_NAME}") if named is None else named


def costs(found: Sequence[Cost] | ReadFailed) -> Sequence[Cost] | ReadFailed:
    """Validate and return the costs of units.

    The result omits a cost that is not positive, exceeds MAX_COST, or has more than MAX_DECIMALS decimals. It also
    omits several costs of the same feature. `check` reports them.
    """
    if isinstance(found, ReadFailed):
        return _failed(found)
    if len(found) > MAX_FEATURES:
        return ReadFailed(f"too many features in the costs: {len(found)}")
    told = [
        Cost(clean(one.feature, MAX_NAME_CHARS), clean(one.balance, MAX_NAME_CHARS), one.credits, one.unread is True)
        for one in found
        if _is_cost(one.credits)
    ]
    times = Counter(one.feature for one in told)
    return [one for one in told if times[one.feature] == 1]


def _cost_or_none(value: UnitCost | None) -> UnitCost | None:
    """Return a valid cost, or None.

    Without a cost, the amount of a charge has only bounds while the cost changes.
    """
    if isinstance(value, Fraction):
        return value if 0 < value <= MAX_COST and value.denominator <= MAX_FIGURE * 10**MAX_DECIMALS else None
    return value if isinstance(value, Decimal) and _is_cost(value) else None


def _is_cost(value: Decimal) -> bool:
    return _is_amount(value) and 0 < value <= MAX_COST and 10**MAX_DECIMALS % value.as_integer_ratio()[1] == 0


def _notice(found: Notice) -> Notice:
    if isinstance(found, CustomerChanged):
        return CustomerChanged(clean(found.customer_id, MAX_KEY_CHARS))
    return PushRefused(clean(found.key, MAX_KEY_CHARS), _reason(found.reason))


def _failed(found: ReadFailed) -> ReadFailed:
    return ReadFailed(_reason(found.reason), found.too_many is True)


def _reason(text: object) -> str:
    return clean(str(text), MAX_REASON_CHARS)


def _is_figure(value: object) -> bool:
    return type(value) is int and abs(value) <= MAX_FIGURE


def _is_amount(value: object) -> bool:
    """Return True if a value can be a quantity, or an amount of credits."""
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return isinstance(exponent, int) and exponent >= -MOST_PLACES and abs(value) <= MAX_FIGURE
    return _is_figure(value)


def _is_moment(value: object) -> bool:
    return type(value) is int and abs(value) <= LATEST_MS


def _format_value(value: object) -> str:
    """Return a value as text for a message.

    A very large integer is shown by its number of bits.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_FIGURE:
        return f"of {value.bit_length()} bits"
    return repr(clean(str(value), 40))
