"""The conformance suite for providers.

Every provider must pass these pytest tests, Drawdown's own providers and yours.

Guarantee: a provider's results are compared with the service's own charges, which the bench reports. Accepted means
charged. Rejected and RetryAt mean not charged. A push is charged exactly once, even if calls are cut, lost or answered
with nonsense in between. The suite does not import pytest or the worker, and does not read the machine's clock.

    class TestTally(ProviderConformance):
        def make_bench(self) -> Bench:
            return TallyBench()  # see tests/contract/third_party/tally_bench.py

If a hook is impossible for your service, raise `Unsupported` with the reason. Pytest skips its tests and shows why.
"""

from __future__ import annotations

from drawdown.providers.conformance.bench import Bench, Unsupported, Wire
from drawdown.providers.conformance.charge_once import Law
from drawdown.providers.conformance.push import CancelTests, ChargeTests, CreditTests, TroubleTests
from drawdown.providers.conformance.read import CheckTests, ReadTests, WebhookTests
from drawdown.providers.protocol import HOUR_MS, Provider
from drawdown.schema.units import GRACE_MS, WINDOW_MS

__all__ = ["Bench", "ProviderConformance", "Unsupported", "Wire"]


class ProviderConformance(ChargeTests, TroubleTests, ReadTests, CreditTests, CancelTests, CheckTests, WebhookTests):
    """The whole suite. Subclass it in a test module and define `make_bench`."""

    seeds = 20
    """Number of sequences of faults with which to check that a push is charged once."""

    def test_declared_capabilities_agree_with_each_other(self) -> None:
        capabilities = self.bench.provider.capabilities
        assert list(capabilities.faults()) == []
        kept_ms = capabilities.key_retention_ms
        assert kept_ms is None or kept_ms >= HOUR_MS, (
            "key_retention_ms must be at least an hour, or None for an unlimited time"
        )
        assert all(
            rate is None or rate > 0
            for rate in (capabilities.calls_per_s, capabilities.reads_per_s, capabilities.lookups_per_s)
        )
        assert all(
            lag is None or lag >= 0
            for lag in (capabilities.lookup_lag_ms, capabilities.totals_lag_ms, capabilities.applied_within_ms)
        )
        unit = capabilities.unit_of(self.bench.feature)
        assert capabilities.max_quantity is None or capabilities.max_quantity >= unit
        oldest_ms = capabilities.oldest_ms
        assert oldest_ms is None or oldest_ms > WINDOW_MS + GRACE_MS, (
            "oldest_ms is shorter than the age of a window when it is sealed"
        )
        assert capabilities.max_key_chars is None or capabilities.max_key_chars >= 40, (
            "max_key_chars must be at least 40, the length of a hash"
        )
        cancel_ms = capabilities.cancel_within_ms
        assert cancel_ms is None or (cancel_ms > 0 and hasattr(self.bench.provider, "cancel")), (
            "the provider does not have `cancel`"
        )
        assert not capabilities.costs or hasattr(self.bench.provider, "costs"), "the provider does not have `costs`"
        assert isinstance(self.bench.provider, Provider) and self.bench.provider.dormant is None
        self.clean()

    def test_push_under_any_fault_is_charged_once(self) -> None:
        for seed in range(self.seeds):
            self.finish()
            self.start()
            self.keeps_the_law(seed)

    def keeps_the_law(self, seed: int) -> None:
        """Check `charge_once` on a bench without charges, with faults from a seed."""
        law = Law(self.bench, seed, self.run, self.push)
        requests = [law.see_through(self.request(units)) for units in law.units(8)]
        for request in requests:
            charged = self.bench.charged(request)
            assert charged == request.quantity, f"seed {seed}: {charged} of {request.quantity}; {law.story}"
        total = self.bench.charged_total(self.bench.customer, self.bench.feature)
        assert total == sum(request.quantity for request in requests), f"seed {seed}: {total}; {law.story}"
