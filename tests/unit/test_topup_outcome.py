"""What a payment service's answer means for the wait of a top-up."""

from __future__ import annotations

from drawdown.providers.payments.protocol import NotSent
from drawdown.schema.units import DAY_MS
from drawdown.worker.topup.outcome import LEAST_WAIT_MS, MOST_WAIT_MS, of_not_sent
from tests.cases import cases

NOW = 1_767_225_600_000


@cases(("asked_ms", "waits_ms"), [(-5, LEAST_WAIT_MS), (60_000, 60_000), (400 * DAY_MS, MOST_WAIT_MS)])
def test_charge_retry_time_is_limited_to_a_second_and_a_day(asked_ms: int, waits_ms: int) -> None:
    end = of_not_sent(NotSent("busy", NOW + asked_ms), 0, NOW, arrived=False)
    assert (end.state, end.due_at_ms) == ("due", NOW + waits_ms)
