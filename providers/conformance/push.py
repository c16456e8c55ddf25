"""The part of the suite that charges and cancels.

A charge must be exact, happen once, and equal the charge that the service shows.

Guarantee: each test has its own service, and each outcome is compared with the charges of that service. The suite skips
the tests of costs and of cancelling for a provider that does not declare them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import cast

from drawdown.providers.conformance.bench import (
    FOREIGN,
    NONSENSE,
    THROTTLED,
    WRONG_TYPES,
    Unsupported,
    cut_after,
    cut_before,
    fields,
    garbled,
    instead,
    paths,
    refused,
    retyped,
)
from drawdown.providers.conformance.tools import Tools, awaited, outcomes
from drawdown.providers.http import Answer
from drawdown.providers.protocol import (
    HOUR_MS,
    Accepted,
    Cancelled,
    Cancels,
    Cost,
    Duplicate,
    FoundPush,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.providers.validated_provider import MAX_DECIMALS, MAX_FEATURES
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS, push_key, window_of


class ChargeTests(Tools):
    """Tests with a service that works."""

    def test_a_push_is_charged(self) -> None:
        first, second = self.request(), self.request()
        assert self.charge(first) and self.charge(second)
        assert self.bench.charged_total(first.customer_id, first.feature) == first.quantity + second.quantity

    def test_the_same_key_twice_is_charged_once(self) -> None:
        request = self.request()
        assert self.charge(request)
        for attempt, wait_ms in ((2, 0), (3, SECOND_MS), (4, HOUR_MS // 2)):
            self.bench.advance(wait_ms)
            assert isinstance(self.push(replace(request, attempt=attempt)), Accepted | Duplicate | Queued | Unknown)
        assert self.bench.charged(request) == request.quantity

    def test_two_workers_at_once_are_charged_once(self) -> None:
        request = self.request()

        async def both() -> None:
            await asyncio.gather(*(outcomes(self.bench.provider, [request]) for _ in range(2)))

        self.run(both())
        assert self.bench.charged(request) == request.quantity

    def test_the_same_key_with_another_quantity_charges_nothing_more(self) -> None:
        request = self.request()
        assert self.charge(request)
        other = replace(request, quantity=2 * request.quantity, attempt=2)
        (outcome,) = self.run(outcomes(self.bench.provider, [other]))
        assert not (self.bench.tells_duplicates and isinstance(outcome, Accepted)), outcome
        assert self.bench.charged(request) == request.quantity

    def test_of_a_batch_each_is_told_apart(self) -> None:
        most = self.bench.provider.capabilities.batch_size
        batch = [self.request() for _ in range(min(most, 20))]
        batch[len(batch) // 2] = wrong = self.request(feature=self.bench.unknown_feature)
        told = self.run(outcomes(self.bench.provider, batch))
        self.clean(*told)
        taken = Accepted if self.bench.provider.capabilities.success_proves_charge else Queued
        for request, outcome in zip(batch, told, strict=True):
            assert isinstance(outcome, taken) == (request is not wrong), f"{request.feature}: {outcome}"
            assert self.bench.charged(request) == (None if request is wrong else request.quantity)

    def test_an_unknown_customer_is_told(self) -> None:
        request = self.request(customer=self.bench.unknown_customer)
        (outcome,) = self.run(outcomes(self.bench.provider, [request]))
        assert not isinstance(outcome, Duplicate | RetryAt), f"a retry does not fix it: {outcome}"
        if isinstance(outcome, Accepted) and not self.bench.charged(request):
            notices = self.notices(*self.bench.late_refusal(request))
            assert [notice.key for notice in notices if isinstance(notice, PushRefused)] == [request.key], notices

    def test_success_that_charged_nothing_is_not_accepted(self) -> None:
        outcome = self.push(self.request(customer=self.bench.charging_nothing()))
        assert isinstance(outcome, Rejected | Queued), outcome

    # Quantities and times.

    def test_every_quantity_is_charged_exactly_or_not_at_all(self) -> None:
        most = self.bench.provider.capabilities.max_quantity
        for units in (0, 1, 7, 2**31, 999_999_999_999_999, 2**53 - 1, 2**53 + 1, 10**18):
            request = self.request(units * self.unit)
            if most is None or request.quantity <= most:
                outcome = self.push(request)
                assert not isinstance(outcome, Duplicate), f"units: {units}; {outcome}"
                assert self.bench.charged(request) in (None, 0, request.quantity), f"units: {units}"

    def test_a_negative_quantity_gives_back(self) -> None:
        if not self.bench.provider.capabilities.negatives:
            raise Unsupported("the provider does not accept negative quantities, so Drawdown carries them")
        first, back = self.request(), self.request()
        back = replace(back, quantity=-back.quantity)
        assert self.charge(first) and self.charge(back)
        assert self.bench.charged_total(first.customer_id, first.feature) == 0

    def test_a_push_may_be_as_old_as_is_declared(self) -> None:
        oldest_ms = self.bench.provider.capabilities.oldest_ms or 30 * DAY_MS
        window = window_of(self.now_ms - oldest_ms) + 2 * WINDOW_MS
        key = push_key("o-1", window, self.bench.feature, 0)
        assert self.charge(replace(self.request(), ts=window, key=key))

    def test_a_time_out_of_bounds_is_answered_truly(self) -> None:
        for ts in (1, self.now_ms - 400 * DAY_MS, self.now_ms + 2 * HOUR_MS, self.now_ms + 400 * DAY_MS):
            outcome = self.push(replace(self.request(), ts=ts - ts % WINDOW_MS))
            assert not isinstance(outcome, Duplicate), f"at {ts}: {outcome}"


class TroubleTests(Tools):
    """Tests with a service that cannot be reached, or sends invalid responses."""

    def test_push_not_sent_is_charged_when_sent_again(self) -> None:
        request = self.request()
        with self.wire.spoiled(refused):
            assert isinstance(outcome := self.push(request), RetryAt), outcome
        assert self.charge(replace(request, attempt=2))

    def test_a_connection_that_was_cut_proves_nothing(self) -> None:
        self.sign_in()
        for spoil in (cut_before, cut_after):
            calls = self.wire.calls
            with self.wire.spoiled(spoil):
                outcome = self.push(self.request())
            assert isinstance(outcome, Unknown), f"{spoil.__name__}: {outcome}"
            assert self.wire.calls == calls + 1, "a push must be one call: only the worker sends it again"

    def test_after_a_timeout_the_same_push_is_not_charged_twice(self) -> None:
        request = self.request()
        with self.wire.spoiled(cut_after):
            self.push(request)
        self.bench.advance(MINUTE_MS)
        assert not isinstance(self.push(replace(request, attempt=2)), Rejected | RetryAt)
        assert self.bench.charged(request) == request.quantity

    def test_too_many_calls_means_later(self) -> None:
        self.sign_in()
        date = format_datetime(datetime.fromtimestamp(self.now_ms / 1000 + 60, UTC), usegmt=True)
        for name, headers in {**THROTTLED, "a date": {"retry-after": date}}.items():
            for body in (b"", b"Too Many Requests", b'{"message": "slow down", "code": "rate_limited"}'):
                with self.wire.spoiled(instead(Answer(429, headers, body))):
                    outcome = self.push(self.request())
                assert isinstance(outcome, RetryAt), f"{name}: {outcome}"
                wait_ms = outcome.at_ms - self.now_ms
                assert name != "seconds" or 7 * SECOND_MS <= wait_ms <= MINUTE_MS, wait_ms
                assert name != "a date" or 59 * SECOND_MS <= wait_ms <= 2 * MINUTE_MS, wait_ms

    def test_nonsense_proves_nothing(self) -> None:
        self.sign_in()
        for name, answer in NONSENSE.items():
            for spoil in (garbled(answer), instead(answer)):
                with self.wire.spoiled(spoil):
                    outcome = self.push(self.request())
                assert isinstance(outcome, Unknown | Queued), f"{name}: {outcome}"

    def test_a_no_that_is_not_the_services_own_refuses_nothing(self) -> None:
        """Test that the error of another host is not a rejection.

        Behind a gateway, a proxy or a firewall, the call may have arrived. `push` checks that it did not, if the
        provider reports so.
        """
        for name, answer in FOREIGN.items():
            for spoil in (garbled(answer), instead(answer)):
                self.sign_in()  # such an error may end a session
                with self.wire.spoiled(spoil):
                    outcome = self.push(self.request())
                assert isinstance(outcome, Unknown | Queued | RetryAt), f"{name}: {outcome}"

    def test_a_field_of_another_type_is_no_proof_and_no_crash(self) -> None:
        self.wire.last = None
        self.push(self.request())
        for path in paths(fields(self.wire.last)):
            for value in WRONG_TYPES:
                with self.wire.spoiled(retyped(path, value)):
                    self.push(self.request())


class CreditTests(Tools):
    """Tests of costs in credits, and of charges without credit."""

    def test_costs_are_exact_and_the_same_again(self) -> None:
        told = self.told_costs()
        assert len(told) <= MAX_FEATURES and len({cost.feature for cost in told}) == len(told), told
        for cost in told:
            assert type(cost.credits) is Decimal and cost.credits.is_finite() and cost.credits > 0, cost
            assert 10**MAX_DECIMALS % cost.credits.as_integer_ratio()[1] == 0, f"too many decimals: {cost}"
            assert cost.feature and cost.balance, cost
        of = {cost.feature: (cost.balance, cost.credits) for cost in told}
        assert of.get(self.bench.feature) == self.bench.cost(self.bench.feature), told
        older = [replace(cost, credits=cost.credits * 2) for cost in told]
        assert self.told_costs([*older, *told]) == told, "earlier costs must not change the current costs"

    def test_negative_push_without_balance_is_rejected_or_waits(self) -> None:
        """Test that the outcome of a negative push without a balance is true.

        `push` compares the outcome with the charge.
        """
        if not self.bench.provider.capabilities.negatives:
            raise Unsupported("the provider does not accept negative quantities, so Drawdown carries them")
        request = self.request(customer=self.bench.charging_nothing())
        self.push(replace(request, quantity=-request.quantity))

    def test_push_that_waits_for_credit_charges_nothing(self) -> None:
        request = self.request(customer=self.bench.charging_nothing())
        outcome = self.push(request)
        if not (isinstance(outcome, Rejected) and outcome.until_credit):
            raise Unsupported("the provider does not report missing credit")
        assert not self.bench.charged(request)

    def told_costs(self, known: Sequence[Cost] = ()) -> list[Cost]:
        if not self.bench.provider.capabilities.costs:
            raise Unsupported("the provider does not report costs in credits")
        told = self.costs(known)
        assert not isinstance(told, ReadFailed), told
        return list(told)


class CancelTests(Tools):
    """Tests that cancel an accepted push."""

    def test_a_cancelled_push_counts_nowhere(self) -> None:
        kept, wrong = self._two()
        assert isinstance(said := self.cancel(wrong), Cancelled) and said.evidence, said
        assert self.bench.charged_total(wrong.customer_id, wrong.feature) == kept.quantity
        assert not self.bench.charged(wrong) and self.bench.charged(kept) == kept.quantity
        self.lag()
        if self.bench.provider.capabilities.totals_lag_ms is not None:
            told = self.totals(wrong.customer_id)
            assert isinstance(told, ReadFailed) or told.get(wrong.feature, 0) == kept.quantity, told
        if self.bench.provider.capabilities.lookup:
            assert not isinstance(found := self.look_up(wrong), FoundPush) or found.quantity == 0, found

    def test_a_second_cancel_is_harmless(self) -> None:
        kept, wrong = self._two()
        for _ in range(3):
            self.cancel(wrong)
        assert self.bench.charged_total(wrong.customer_id, wrong.feature) == kept.quantity

    def test_a_cancel_that_was_cut_confirms_nothing(self) -> None:
        kept, wrong = self._two()
        for spoil in (cut_before, cut_after):
            with self.wire.spoiled(spoil):
                assert isinstance(said := self.cancel(wrong), ReadFailed), said
        self.cancel(wrong)
        assert self.bench.charged_total(wrong.customer_id, wrong.feature) == kept.quantity

    def test_a_cancel_of_what_never_was_takes_nothing(self) -> None:
        kept, _ = self._two()
        never, before = self.request(), self.bench.charged_total(kept.customer_id, kept.feature)
        self.cancel(never)
        assert self.bench.charged_total(kept.customer_id, kept.feature) == before

    def _two(self) -> tuple[PushRequest, PushRequest]:
        """Charge two pushes: one to keep, and one to cancel."""
        if self.bench.provider.capabilities.cancel_within_ms is None:
            raise Unsupported("the provider cannot cancel a charge")
        kept, wrong = self.request(), self.request()
        assert self.charge(kept) and self.charge(wrong)
        return kept, wrong

    def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        said = self.run(awaited(cast(Cancels, self.bench.provider).cancel(request)))
        assert isinstance(said, Cancelled | ReadFailed), said
        self.clean(said)
        return said
