"""The part of the suite about credits and cancelling: what a provider declares beyond charging, it does exactly.

Guarantee: a provider that declares neither is not held to it. What it tells is compared with the service's own truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import cast

from drawdown.providers.careful import MAX_DECIMALS, MAX_FEATURES
from drawdown.providers.conformance.bench import Unsupported, cut_after, cut_before
from drawdown.providers.conformance.tools import Tools, awaited
from drawdown.providers.protocol import (
    Cancelled,
    Cancels,
    Cost,
    Found,
    PushRequest,
    ReadFailed,
    Rejected,
)


class CreditTests(Tools):
    """Costs in credits, and charges that took nothing for want of credit."""

    def test_costs_are_exact_and_the_same_again(self) -> None:
        told = self.told_costs()
        assert len(told) <= MAX_FEATURES and len({cost.feature for cost in told}) == len(told), told
        for cost in told:
            assert type(cost.credits) is Decimal and cost.credits.is_finite() and cost.credits > 0, cost
            assert -int(cost.credits.normalize().as_tuple().exponent) <= MAX_DECIMALS, cost
            assert cost.feature and cost.balance, cost
        of = {cost.feature: (cost.balance, cost.credits) for cost in told}
        assert of.get(self.bench.feature) == self.bench.cost(self.bench.feature), told
        older = [replace(cost, credits=cost.credits * 2) for cost in told]
        assert self.told_costs([*older, *told]) == told, "what was known before changes nothing of what holds now"

    def test_what_is_not_given_back_waits_for_no_credit(self) -> None:
        """Credit would not mend it: `push` finds a rejection that says so."""
        if not self.bench.provider.capabilities.negatives:
            raise Unsupported("it takes no negative quantities: they are carried")
        request = self.request(customer=self.bench.charging_nothing())
        self.push(replace(request, quantity=-request.quantity))

    def test_what_waits_for_credit_took_nothing(self) -> None:
        request = self.request(customer=self.bench.charging_nothing())
        outcome = self.push(request)
        if not (isinstance(outcome, Rejected) and outcome.until_credit):
            raise Unsupported("it does not tell that credit is missing")
        assert not self.bench.charged(request)

    def told_costs(self, known: Sequence[Cost] = ()) -> list[Cost]:
        if not self.bench.provider.capabilities.costs:
            raise Unsupported("it tells no costs in credits")
        told = self.costs(known)
        assert not isinstance(told, ReadFailed), told
        return list(told)


class CancelTests(Tools):
    """Pushes that were accepted, and are wrong."""

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
            assert not isinstance(found := self.look_up(wrong), Found) or found.quantity == 0, found

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
        """One to keep, and a wrong one."""
        if self.bench.provider.capabilities.cancel_within_ms is None:
            raise Unsupported("it cannot cancel what it charged")
        kept, wrong = self.request(), self.request()
        assert self.charge(kept) and self.charge(wrong)
        return kept, wrong

    def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        said = self.run(awaited(cast(Cancels, self.bench.provider).cancel(request)))
        assert isinstance(said, Cancelled | ReadFailed), said
        self.clean(said)
        return said
