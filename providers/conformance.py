"""What every provider has to prove: a suite for pytest, for our own providers and for anybody's.

Guarantee: what a provider says is compared with the service's own truth, which the bench tells. Accepted means charged,
Rejected and RetryAt mean not charged, and a push is charged exactly once whatever was cut, lost or answered with
nonsense in between. Nothing here imports pytest or the worker, or reads the machine's clock.

    class TestTally(ProviderConformance):
        def make_bench(self) -> Bench:
            return TallyBench()  # as in tests/contract/third_party

A hook that a service cannot serve raises `Unsupported` with the reason: its tests are skipped, and pytest says why.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

from drawdown.providers.conformance_bench import (
    LOST,
    NONSENSE,
    THROTTLED,
    Bench,
    Unsupported,
    Wire,
    cut_after,
    cut_before,
    fields,
    garbled,
    instead,
    refused,
    retyped,
)
from drawdown.providers.conformance_law import Law
from drawdown.providers.conformance_tools import Tools, awaited, outcomes
from drawdown.providers.http import Answer
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    Accepted,
    CannotTell,
    CustomerChanged,
    CustomerState,
    Duplicate,
    Found,
    NoCustomer,
    Provider,
    PushRefused,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.units import DAY_MS, GRACE_MS, MINUTE_MS, SECOND_MS, WINDOW_MS, push_key, window_of

__all__ = ["Bench", "ProviderConformance", "Unsupported", "Wire"]


class ProviderConformance(Tools):
    """Subclass it in a test module and say how a bench is made."""

    seeds = 20
    """Sequences of faults that the law is tried with."""

    # What it declares.

    def test_what_it_declares_agrees_with_itself(self) -> None:
        can = self.bench.provider.capabilities
        assert min(can.batch_size, can.in_flight, can.reads_a_call, can.unit, *can.units.values(), 1) == 1
        assert can.duplicate_proves_delivery or can.lookup, "a duplicate that proves nothing has to be looked up"
        assert can.key_retention_ms is None or can.key_retention_ms >= HOUR_MS
        assert all(rate is None or rate > 0 for rate in (can.calls_per_s, can.reads_per_s))
        assert all(lag is None or lag >= 0 for lag in (can.lookup_lag_ms, can.totals_lag_ms, can.applied_within_ms))
        assert can.max_quantity is None or can.max_quantity >= can.unit_of(self.bench.feature)
        assert can.oldest_ms is None or can.oldest_ms > WINDOW_MS + GRACE_MS, "a window is older once it is sealed"
        assert can.max_key_chars is None or can.max_key_chars >= 40, "no room for a hash"
        assert isinstance(self.bench.provider, Provider) and self.bench.provider.dormant is None
        self.clean()

    # Charging once.

    def test_a_push_is_charged(self) -> None:
        first, second = self.request(), self.request()
        assert self.push(first) == Accepted() and self.push(second) == Accepted()
        assert self.bench.charged_total(first.customer_id, first.feature) == first.quantity + second.quantity

    def test_the_same_key_twice_is_charged_once(self) -> None:
        request = self.request()
        assert self.push(request) == Accepted()
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
        assert self.push(request) == Accepted()
        other = replace(request, quantity=2 * request.quantity, attempt=2)
        assert not isinstance(self.run(outcomes(self.bench.provider, [other]))[0], Accepted)
        assert self.bench.charged(request) == request.quantity

    def test_of_a_batch_each_is_told_apart(self) -> None:
        most = self.bench.provider.capabilities.batch_size
        batch = [self.request() for _ in range(min(most, 20))]
        batch[len(batch) // 2] = wrong = self.request(feature=self.bench.unknown_feature)
        told = self.run(outcomes(self.bench.provider, batch))
        self.clean(*told)
        for request, outcome in zip(batch, told, strict=True):
            assert isinstance(outcome, Accepted) == (request is not wrong), f"{request.feature}: {outcome}"
            assert self.bench.charged(request) == (None if request is wrong else request.quantity)

    def test_an_unknown_customer_is_told(self) -> None:
        request = self.request(customer=self.bench.unknown_customer)
        (outcome,) = self.run(outcomes(self.bench.provider, [request]))
        assert not isinstance(outcome, Duplicate | RetryAt), f"waiting does not mend it: {outcome}"
        if isinstance(outcome, Accepted) and not self.bench.charged(request):
            notices = self.notices(*self.bench.late_refusal(request))
            assert [one.key for one in notices if isinstance(one, PushRefused)] == [request.key], notices

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
                assert not isinstance(outcome, Duplicate), f"{units} units: {outcome}"
                assert self.bench.charged(request) in (None, 0, request.quantity), f"{units} units"

    def test_a_negative_quantity_gives_back(self) -> None:
        if not self.bench.provider.capabilities.negatives:
            raise Unsupported("it takes no negative quantities: they are carried")
        first, back = self.request(), self.request()
        back = replace(back, quantity=-back.quantity)
        assert self.push(first) == Accepted() and self.push(back) == Accepted()
        assert self.bench.charged_total(first.customer_id, first.feature) == 0

    def test_a_push_may_be_as_old_as_is_declared(self) -> None:
        oldest_ms = self.bench.provider.capabilities.oldest_ms or 30 * DAY_MS
        window = window_of(self.now_ms - oldest_ms) + 2 * WINDOW_MS
        key = push_key("o-1", window, self.bench.feature, 0)
        assert self.push(replace(self.request(), ts=window, key=key)) == Accepted()

    def test_a_time_out_of_bounds_is_answered_truly(self) -> None:
        for ts in (1, self.now_ms - 400 * DAY_MS, self.now_ms + 2 * HOUR_MS, self.now_ms + 400 * DAY_MS):
            outcome = self.push(replace(self.request(), ts=ts - ts % WINDOW_MS))
            assert not isinstance(outcome, Duplicate), f"at {ts}: {outcome}"

    # A service that cannot be reached, or says strange things.

    def test_what_was_not_sent_may_be_sent_again(self) -> None:
        request = self.request()
        with self.wire.spoiled(refused):
            assert isinstance(outcome := self.push(request), RetryAt), outcome
        assert self.push(replace(request, attempt=2)) == Accepted()

    def test_a_connection_that_was_cut_proves_nothing(self) -> None:
        self.push(self.request())  # whoever has to sign in first has done so now
        for spoil in (cut_before, cut_after):
            with self.wire.spoiled(spoil):
                outcome = self.push(self.request())
            assert isinstance(outcome, Unknown), f"{spoil.__name__}: {outcome}"

    def test_after_a_timeout_the_same_push_is_not_charged_twice(self) -> None:
        request = self.request()
        with self.wire.spoiled(cut_after):
            self.push(request)
        self.bench.advance(MINUTE_MS)
        assert not isinstance(self.push(replace(request, attempt=2)), Rejected | RetryAt)
        assert self.bench.charged(request) == request.quantity

    def test_too_many_calls_means_later(self) -> None:
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
        for name, answer in NONSENSE.items():
            for spoil in (garbled(answer), instead(answer)):
                with self.wire.spoiled(spoil):
                    outcome = self.push(self.request())
                assert isinstance(outcome, Unknown | Queued), f"{name}: {outcome}"

    def test_a_field_of_another_type_is_no_proof_and_no_crash(self) -> None:
        self.wire.last = None
        self.push(self.request())
        for name in fields(self.wire.last):
            for value in (None, "x", -7, True, [None], {"x": [None]}):
                with self.wire.spoiled(retyped(name, value)):
                    self.push(self.request())

    def test_what_cannot_be_read_is_not_read(self) -> None:
        request = self.request()
        self.push(request)
        self.lag()
        for name, spoil in {**LOST, **{name: instead(answer) for name, answer in NONSENSE.items()}}.items():
            with self.wire.spoiled(spoil):
                self._reads_nothing(name, request)

    def _reads_nothing(self, name: str, request: PushRequest) -> None:
        """No reading call makes a figure of what was no answer; one that does not ask may know by itself."""
        can, asked = self.bench.provider.capabilities, self.wire.calls
        state = self.read(request.customer_id)
        assert isinstance(state, ReadFailed) or self.wire.calls == asked, f"{name}: {state}"
        if can.lookup:
            assert isinstance(found := self.look_up(request), ReadFailed | CannotTell), f"{name}: {found}"
        if can.totals_lag_ms is not None:
            assert isinstance(told := self.totals(request.customer_id), ReadFailed), f"{name}: {told}"
        if can.drawn:
            drawn = self.run(awaited(self.bench.provider.drawn(request.customer_id)))
            assert isinstance(drawn, ReadFailed), f"{name}: {drawn}"
        lines = self.check([request.feature], [request.customer_id])
        assert lines or self.wire.calls == asked, f"{name}: no trouble is told"

    # Reading.

    def test_what_was_charged_is_found(self) -> None:
        request, never = self.request(123_457 * self.unit), self.request()
        assert self.push(request) == Accepted()
        self.lag()
        assert self.look_up(request) == Found(request.quantity)
        assert self.look_up(never) == Absent()

    def test_what_was_charged_without_an_answer_is_found(self) -> None:
        request, never = self.request(), self.request()
        with self.wire.spoiled(cut_after):
            self.push(request)
        with self.wire.spoiled(cut_before):
            self.push(never)
        self.lag()
        assert self.look_up(request) == Found(request.quantity)
        assert self.look_up(never) == Absent()

    def test_totals_are_of_the_range_that_is_asked_for(self) -> None:
        first, second = self.request(), self.request()
        assert self.push(first) == Accepted() and self.push(second) == Accepted()
        self.lag()
        assert second.ts < first.ts
        cases = ((second.ts, 0, 2), (second.ts + WINDOW_MS, 0, 1), (second.ts, first.ts, 1), (0, second.ts, 0))
        for from_ms, to_ms, pushes in cases:
            told = self.totals(first.customer_id, from_ms or second.ts - HOUR_MS, to_ms or first.ts + WINDOW_MS)
            assert not isinstance(told, ReadFailed), told
            assert told.get(first.feature, 0) == pushes * first.quantity, (from_ms, to_ms)

    def test_balances_tell_what_was_drawn(self) -> None:
        if not self.bench.provider.capabilities.drawn:
            raise Unsupported("its balances do not say what was drawn")
        for request in (self.request(), self.request()):
            assert self.push(request) == Accepted()
        self.lag()
        drawn = self.run(awaited(self.bench.provider.drawn(request.customer_id)))
        assert not isinstance(drawn, ReadFailed)
        assert drawn[request.feature].quantity == self.bench.charged_total(request.customer_id, request.feature)

    def test_customers_are_read_and_the_unknown_is_no_failure(self) -> None:
        assert isinstance(self.read(self.bench.customer), CustomerState)
        assert isinstance(self.read(self.bench.unknown_customer), NoCustomer | CustomerState)

    # Webhooks.

    def test_a_webhook_names_who_changed_by_the_old_secret_and_the_new(self) -> None:
        for secret in ("current", "previous"):
            headers, body = self.bench.webhook(self.bench.customer, secret)
            assert self.notices(headers, body) == [CustomerChanged(self.bench.customer)], secret

    def test_a_webhook_that_comes_twice_says_the_same_or_is_refused(self) -> None:
        headers, body = self.bench.webhook(self.bench.customer, "current")
        first = self.notices(headers, body)
        self.bench.advance(SECOND_MS)
        assert self.refuses(headers, body) or self.notices(headers, body) == first

    def test_a_forged_webhook_is_refused(self) -> None:
        assert self.refuses(*self.bench.webhook(self.bench.customer, "strange"))
        headers, body = self.bench.webhook(self.bench.customer, "current")
        for forged in (body + b" ", body.replace(self.bench.customer.encode(), b"someone"), b"{}", b"", b"\xff\xfe"):
            assert self.refuses(headers, forged), forged[:40]
        _, other = self.bench.webhook(self.bench.unknown_customer, "current")
        assert self.refuses(headers, other), "signed for another body"

    def test_a_webhook_without_its_signature_is_refused(self) -> None:
        headers, body = self.bench.webhook(self.bench.customer, "current")
        unsigned = [name for name in headers if self.refuses({k: v for k, v in headers.items() if k != name}, body)]
        assert unsigned, "no header is missed"
        for name in unsigned:
            own = headers[name]
            for value in (
                "",
                own[:-1],
                own[: len(own) // 2],
                own + "\N{SNOWMAN}",
                "v1=",
                "v1,",
                "t=1,v1=00",
                "0" * 9999,
            ):
                assert self.refuses({**headers, name: value}, body), (name, value[:20])
        assert self.refuses({}, body)

    def test_a_stale_webhook_is_refused(self) -> None:
        headers, body = self.bench.webhook(self.bench.customer, "current")
        self.bench.advance(DAY_MS)
        assert self.refuses(headers, body)

    # Its configuration.

    def test_check_finds_nothing_wrong_where_all_is_well(self) -> None:
        assert self.check([self.bench.feature], [self.bench.customer]) == []
        assert self.bench.charged_total(self.bench.customer, self.bench.feature) == 0, "a check charges nothing"

    def test_check_names_an_unknown_feature(self) -> None:
        lines = self.check([self.bench.feature, self.bench.unknown_feature], [])
        assert any(self.bench.unknown_feature in line for line in lines), lines

    def test_check_names_an_unknown_customer(self) -> None:
        if isinstance(self.read(self.bench.unknown_customer), CustomerState):
            raise Unsupported("any customer may be charged: there is no unknown one")
        lines = self.check([], [self.bench.customer, self.bench.unknown_customer])
        assert any(self.bench.unknown_customer in line for line in lines), lines

    def test_a_bad_key_charges_nothing_and_is_told(self) -> None:
        self.bench.provider = self.bench.with_bad_key()
        assert self.check([self.bench.feature], [self.bench.customer]), "no trouble is told"
        request = self.request()
        # A key can be mended, so its pushes must not be given up.
        assert isinstance(outcome := self.push(request), RetryAt | Unknown), outcome
        assert self.bench.charged(request) is None
        asked = self.wire.calls
        assert isinstance(self.read(self.bench.customer), ReadFailed) or self.wire.calls == asked

    # The law.

    def test_whatever_goes_wrong_each_push_is_charged_once(self) -> None:
        for seed in range(self.seeds):
            self.finish()
            self.start()
            self.keeps_the_law(seed)

    def keeps_the_law(self, seed: int) -> None:
        """Of a bench on which nothing was charged yet."""
        law = Law(self.bench, seed, self.run, self.push)
        requests = [law.see_through(self.request(units)) for units in law.units(8)]
        for request in requests:
            charged = self.bench.charged(request)
            assert charged == request.quantity, f"seed {seed}: {charged} of {request.quantity}; {law.story}"
        total = self.bench.charged_total(self.bench.customer, self.bench.feature)
        assert total == sum(request.quantity for request in requests), f"seed {seed}: {total}; {law.story}"
