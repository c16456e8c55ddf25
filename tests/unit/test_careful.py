"""Whatever a provider answers, what comes in can be stored and shown, or has told nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from drawdown.providers import validated_provider
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    Cost,
    CustomerChanged,
    CustomerRead,
    CustomerState,
    Drawn,
    FoundPush,
    LookupResult,
    NoCustomer,
    Outcome,
    Part,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    ShownCredit,
    Unknown,
)
from drawdown.providers.validated_provider import ValidatedProvider
from tests.cases import cases
from tests.fake_provider import FakeProvider, capabilities

HOSTILE = ("\x00", "\ud800", "\x1b[2J", "\u202e", "a\nb", "x" * 3_000_000, "\x1b" * 100_000)
HUGE = (10**30, -(10**30), 10**400_000, 1.5, True, "7", None)
"""Figures that are none."""


def request() -> PushRequest:
    return PushRequest("key", "acme", "compute", 60, 0, 1)


def fits(text: str, most: int) -> bool:
    return text.isprintable() and len(text) <= most


@cases("text", HOSTILE)
def test_provider_text_is_cleaned_and_bounded(text: str) -> None:
    state = validated_provider.sound(CustomerState(5, text, None))
    assert isinstance(state, CustomerState) and state.plan is not None
    assert state.balance_micro == 5 and fits(state.plan, validated_provider.MAX_NAME_CHARS), (
        "its credit is known all the same"
    )
    answers = [validated_provider.outcome(kind(text)) for kind in (Rejected, Unknown)]
    answers += [validated_provider.outcome(RetryAt(7, text))]
    told = [one.reason for one in answers if isinstance(one, Rejected | Unknown | RetryAt)]
    reads = [
        validated_provider.looked_up(CannotTell(text)),
        validated_provider.looked_up(ReadFailed(text)),
        validated_provider.sound(ReadFailed(text)),
    ]
    for read in (*reads, validated_provider.totals(ReadFailed(text)), validated_provider.drawn(ReadFailed(text))):
        assert isinstance(read, CannotTell | ReadFailed)
        told.append(read.reason)
    assert len(told) == 8 and all(fits(one, validated_provider.MAX_REASON_CHARS) for one in told)
    drawn = validated_provider.drawn({text: Drawn(1, None, own={text: Decimal(1)})})
    assert isinstance(drawn, dict)
    named = [*drawn, *next(iter(drawn.values())).own]
    if isinstance(totals := validated_provider.totals({text: 1}), dict):
        named += totals
    charged = validated_provider.outcome(Accepted(ShownCredit(5, 1, text)))
    assert isinstance(charged, Accepted) and charged.shown_credit is not None
    named.append(str(charged.shown_credit.part))
    assert len(named) == 4 and all(fits(name, validated_provider.MAX_NAME_CHARS) for name in named)


@cases("figure", [*HUGE, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1e-999999"), float("nan")])
def test_provider_invalid_draw_on_own_balance_makes_balance_unread(figure: Any) -> None:
    own = {"compute": Decimal(1), "other": figure}
    assert isinstance(validated_provider.drawn({"credits": Drawn(1, None, own=own)}), ReadFailed)


@cases("figure", HUGE)
def test_provider_figure_out_of_range_is_rejected(figure: Any) -> None:
    assert isinstance(validated_provider.looked_up(FoundPush(figure)), ReadFailed)
    assert isinstance(validated_provider.totals({"compute": 1, "other": figure}), ReadFailed)
    assert isinstance(validated_provider.drawn({"compute": Drawn(figure, None)}), ReadFailed)
    assert isinstance(validated_provider.outcome(Queued(figure)), Unknown)
    assert validated_provider.outcome(RetryAt(figure, "later")) == RetryAt(0, "later"), (
        "proven unsent, and no time to wait for"
    )
    assert validated_provider.looked_up(CannotTell("no", figure)) == CannotTell("no", None)
    limited = CustomerState(1, None, None, feature_limits={"compute": 1, "other": figure})
    assert isinstance(validated_provider.sound(limited), ReadFailed)
    if figure is not None:
        assert isinstance(validated_provider.sound(CustomerState(figure, None, None)), ReadFailed)
        assert isinstance(validated_provider.sound(CustomerState(1, None, figure)), ReadFailed)


def test_provider_lists_are_bounded() -> None:
    limits = {str(n): 1 for n in range(validated_provider.MAX_FEATURES + 1)}
    assert isinstance(validated_provider.sound(CustomerState(1, None, None, feature_limits=limits)), ReadFailed)
    assert isinstance(
        validated_provider.totals({str(n): 1 for n in range(validated_provider.MAX_FEATURES + 1)}), ReadFailed
    )
    assert isinstance(
        validated_provider.drawn({str(n): Drawn(1, None) for n in range(validated_provider.MAX_FEATURES + 1)}),
        ReadFailed,
    )

    own = {str(n): Decimal(1) for n in range(validated_provider.MAX_FEATURES + 1)}
    assert isinstance(validated_provider.drawn({"credits": Drawn(1, None, own=own)}), ReadFailed)

    class Talkative(FakeProvider):
        async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
            return ["\x1b" * 10_000] * 100_000

        async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> list[Any]:
            return [CustomerChanged("\x00" * 10_000), PushRefused("\ud800", "\x1b" * 9_999)] * 100_000

        async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, Any]:
            return {str(n): NoCustomer() for n in range(100_000)} | {"acme": NoCustomer()}

    async def ask() -> None:
        provider = ValidatedProvider(Talkative(capabilities()))
        lines = await provider.check((), ())
        assert len(lines) == validated_provider.MAX_LINES and all(
            fits(one, validated_provider.MAX_REASON_CHARS) for one in lines
        )
        notices = await provider.notices({}, b"", 0)
        assert not isinstance(notices, ReadFailed) and len(notices) == validated_provider.MAX_NOTICES
        for one in notices:
            name = one.customer_id if isinstance(one, CustomerChanged) else one.key
            assert fits(name, validated_provider.MAX_KEY_CHARS)
        assert await provider.customers(["acme", "globex"]) == {"acme": NoCustomer()}, "those that were asked about"

    asyncio.run(ask())


def test_provider_valid_answers_are_unchanged() -> None:
    outcomes: list[Outcome] = [Accepted(), Queued(7), RetryAt(-5, "past"), Rejected("no"), Unknown("gone")]
    assert [validated_provider.outcome(one) for one in outcomes] == outcomes
    found: list[LookupResult] = [FoundPush(60), FoundPush(-60), Absent(), CannotTell("why", 3), ReadFailed("503")]
    assert [validated_provider.looked_up(one) for one in found] == found
    assert validated_provider.totals({"compute": 60}) == {"compute": 60}
    draws = {"compute": Drawn(60, 7), "credits": Drawn(Decimal("0.5"), None, own={"compute": Decimal(30)})}
    assert validated_provider.drawn(draws) == draws
    states: list[CustomerRead] = [CustomerState(None, None, None), CustomerState(-5, "Größe L", 0), NoCustomer()]
    states.append(CustomerState(7, None, None, feature_limits={"compute": 0}))
    assert [validated_provider.sound(one) for one in states] == states

    async def ask() -> None:
        fake = FakeProvider(capabilities())
        provider = ValidatedProvider(fake)
        assert await provider.push([request()]) == [Accepted()]
        assert await provider.lookup(request()) == FoundPush(60)
        assert await provider.totals("acme", 0, 1) == {"compute": 60}
        assert (provider.name, provider.dormant) == ("fake", None) and provider.capabilities is fake.capabilities

    asyncio.run(ask())


@cases("credits", ["1e-1999999", "1e-400", "1e18", "100000000.1", "1e400", "NaN", "sNaN", "-1", "0"])
def test_provider_cost_too_small_or_large_is_dropped(credits: str) -> None:
    good = Cost("good", "credits", Decimal("0.0000000001"))
    assert validated_provider.costs([Cost("bad", "credits", Decimal(credits)), good]) == [good]


def test_provider_feature_with_two_costs_is_dropped() -> None:
    """Each of them would be learned anew at every read, for the other was learned last."""
    told = [Cost(name, "credits", Decimal(cost)) for cost, name in enumerate(("a\x00", "a\\x00", "b"), 1)]
    assert validated_provider.costs(told) == [told[2]]


@cases("names", [("a\x00", "a\\x00"), ("x" * 300 + "a", "x" * 300 + "b")])
def test_provider_names_equal_after_cleaning_fail_the_read(names: tuple[str, str]) -> None:
    """The value of only one of them was kept, so the other's quantity was lost."""
    one, other = names
    assert isinstance(validated_provider.totals({one: 1, other: 2}), ReadFailed)
    assert isinstance(validated_provider.drawn({one: Drawn(1, None), other: Drawn(2, None)}), ReadFailed)
    own = {one: Decimal(1), other: Decimal(2)}
    assert isinstance(validated_provider.drawn({"credits": Drawn(1, None, own=own)}), ReadFailed)
    limited = CustomerState(1, None, None, feature_limits={one: 0, other: 2})
    assert isinstance(validated_provider.sound(limited), ReadFailed)


def test_provider_parts_with_same_name_are_merged() -> None:
    long = [Part("credits", "x" * 300 + end, Decimal(5)) for end in "ab"]
    state = validated_provider.sound(CustomerState(5, None, None, parts=tuple(long)))
    assert isinstance(state, CustomerState) and len(state.parts) == 1


@cases("granted", ["1e-999999", "1e-999999999999", "0e-999999999999"])
def test_provider_part_with_million_digits_is_dropped(granted: str) -> None:
    state = validated_provider.sound(CustomerState(5, None, None, parts=(Part("credits", "p", Decimal(granted)),)))
    assert isinstance(state, CustomerState) and state.parts == ()


@cases(
    "parts",
    [
        [Part("credits", f"part-{number}", Decimal(1)) for number in range(validated_provider.MAX_PARTS + 1)],
        [Part("credits", "part", Decimal(1), 10**18)],
        [Part("credits", "part", Decimal("1e30"))],
    ],
)
def test_provider_invalid_part_makes_balance_unread(parts: list[Part]) -> None:
    """Left out of what a balance shows, it would be taken for used up."""
    assert isinstance(validated_provider.drawn({"credits": Drawn(1, None, parts=tuple(parts))}), ReadFailed)
