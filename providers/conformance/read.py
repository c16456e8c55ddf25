"""The part of the suite that reads and accepts webhooks.

An unreadable response must never become a figure. A provider must accept a webhook only from the service and in time.
It must use a webhook only to read the customer again, or to report a late refusal.

Guarantee: each test has its own service, and each read is compared with the charges of that service. Each webhook is
signed as the service signs it. If a test changes a webhook afterwards, the test states the change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal

from drawdown.providers.conformance.bench import (
    FOREIGN,
    LOST,
    NONSENSE,
    WRONG_TYPES,
    Secret,
    Unsupported,
    changed,
    cut_after,
    cut_before,
    fields,
    instead,
    paths,
    retyped,
    same_words,
)
from drawdown.providers.conformance.tools import Tools, awaited, outcomes
from drawdown.providers.http import HttpResult
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    CannotTell,
    CustomerChanged,
    CustomerState,
    FoundPush,
    NoCustomer,
    Notice,
    Part,
    PushRefused,
    PushRequest,
    ReadFailed,
    RetryAt,
    Unknown,
    WebhookRefused,
)
from drawdown.schema.units import DAY_MS, SECOND_MS, WINDOW_MS


class ReadTests(Tools):
    """Tests of lookups, totals, balances and customers."""

    def test_charged_push_is_found_by_lookup(self) -> None:
        request, never = self.request(123_457 * self.unit), self.request()
        assert self.charge(request)
        self.lag()
        assert self.look_up(request) == FoundPush(request.quantity)
        assert self.look_up(never) == Absent()

    def test_charge_taken_without_answer_is_found_by_lookup(self) -> None:
        self.sign_in()
        request, never = self.request(), self.request()
        with self.wire.spoiled(cut_after):
            self.push(request)
        with self.wire.spoiled(cut_before):
            self.push(never)
        self.lag()
        assert self.look_up(request) == FoundPush(request.quantity)
        assert self.look_up(never) == Absent()

    def test_totals_are_of_the_range_that_is_asked_for(self) -> None:
        first, second = self.request(), self.request()
        assert self.charge(first) and self.charge(second)
        self.lag()
        assert second.ts < first.ts
        cases = ((second.ts, 0, 2), (second.ts + WINDOW_MS, 0, 1), (second.ts, first.ts, 1), (0, second.ts, 0))
        for from_ms, to_ms, pushes in cases:
            told = self.totals(first.customer_id, from_ms or second.ts - HOUR_MS, to_ms or first.ts + WINDOW_MS)
            assert not isinstance(told, ReadFailed), told
            assert told.get(first.feature, 0) == pushes * first.quantity, (from_ms, to_ms)

    def test_balances_tell_what_was_drawn(self) -> None:
        if not self.bench.provider.capabilities.drawn:
            raise Unsupported("the provider's balances lack the drawn quantity")
        balance, cost = self.bench.cost(self.bench.feature) or (self.bench.feature, Decimal(1))
        for number, request in enumerate((self.request(), self.request(7 * self.unit)), 1):
            assert self.charge(request)
            self.lag()
            drawn = self.drawn(request.customer_id)
            assert not isinstance(drawn, ReadFailed)
            charged = self.bench.charged_total(request.customer_id, request.feature)
            assert drawn[balance].quantity == charged * cost, f"after charge {number}: {drawn}"

    def test_customers_are_read_and_the_unknown_is_no_failure(self) -> None:
        assert isinstance(self.read(self.bench.customer), CustomerState)
        assert isinstance(self.read(self.bench.unknown_customer), NoCustomer | CustomerState)

    def test_invalid_response_is_not_read(self) -> None:
        request = self.request()
        self.push(request)
        self.lag()
        if self.bench.provider.capabilities.lookup:
            self.look_up(self.request())
        absent = self.wire.last
        strange = {name: instead(answer) for name, answer in {**NONSENSE, **FOREIGN}.items()}
        for name, spoil in {**LOST, **strange}.items():
            with self.wire.spoiled(spoil):
                self._reads_nothing(name, request, absent)

    def _reads_nothing(self, name: str, request: PushRequest, absent: HttpResult | None) -> None:
        """Check that read calls do not return a figure of an invalid response.

        A provider that does not send a call may know the response.

        `absent`: the service's response for a push that it does not have, such as an empty list. If an invalid response
        equals `absent`, the provider may believe the response.
        """
        capabilities, asked = self.bench.provider.capabilities, self.wire.calls
        state = self.read(request.customer_id)
        assert isinstance(state, ReadFailed) or self.wire.calls == asked, f"{name}: {state}"
        if capabilities.lookup:
            found = self.look_up(request)
            is_absent = found == Absent() and same_words(self.wire.last, absent)
            assert isinstance(found, ReadFailed | CannotTell) or is_absent, f"{name}: {found}"
        if capabilities.totals_lag_ms is not None:
            assert isinstance(told := self.totals(request.customer_id), ReadFailed), f"{name}: {told}"
        if capabilities.drawn:
            assert isinstance(drawn := self.drawn(request.customer_id), ReadFailed), f"{name}: {drawn}"
        if capabilities.costs:
            assert isinstance(costs := self.costs(), ReadFailed), f"{name}: {costs}"
        lines = self.check([request.feature], [request.customer_id])
        assert lines or self.wire.calls == asked, f"{name}: the check reported no fault"

    def test_a_read_field_of_another_type_is_no_crash(self) -> None:
        request = self.request()
        self.push(request)
        self.lag()
        for ask in (self._customer, self._lookup, self._totals, self._drawn, self._costs, self._check):
            self.wire.last = None
            ask(request)
            for path in paths(fields(self.wire.last)):
                for value in WRONG_TYPES:
                    with self.wire.spoiled(retyped(path, value)):
                        ask(request)

    def _customer(self, request: PushRequest) -> None:
        found = self.read(request.customer_id)
        if isinstance(found, CustomerState):
            assert found.balance_micro is None or type(found.balance_micro) is int, found
            assert found.max_concurrent is None or type(found.max_concurrent) is int, found
            assert found.plan is None or isinstance(found.plan, str), found
            assert all(isinstance(feature, str) for feature in (*found.refused, *found.feature_limits)), found
            assert all(type(units) is int for units in found.feature_limits.values()), found
            assert all(_is_sound(part) for part in found.parts), found
            assert len({(part.balance, part.name) for part in found.parts}) == len(found.parts), found

    def _lookup(self, request: PushRequest) -> None:
        if self.bench.provider.capabilities.lookup:
            found = self.look_up(request)
            assert not isinstance(found, FoundPush) or type(found.quantity) is int, found

    def _totals(self, request: PushRequest) -> None:
        if self.bench.provider.capabilities.totals_lag_ms is not None:
            told = self.totals(request.customer_id)
            assert isinstance(told, ReadFailed) or all(type(total) is int for total in told.values()), told

    def _drawn(self, request: PushRequest) -> None:
        if self.bench.provider.capabilities.drawn:
            told = self.drawn(request.customer_id)
            kinds = (int, Decimal) if self.bench.provider.capabilities.costs else (int,)
            assert isinstance(told, ReadFailed) or all(type(one.quantity) in kinds for one in told.values()), told

    def _costs(self, request: PushRequest) -> None:
        if self.bench.provider.capabilities.costs:
            told = self.costs()
            assert isinstance(told, ReadFailed) or all(type(cost.credits) is Decimal for cost in told), told

    def _check(self, request: PushRequest) -> None:
        self.check([request.feature], [request.customer_id])


def _is_sound(part: Part) -> bool:
    granted = type(part.granted) is Decimal and part.granted.is_finite()
    return granted and bool(part.name) and (part.ends_ms is None or type(part.ends_ms) is int)


class CheckTests(Tools):
    """Tests of the configuration: `check` reports each fault and does not charge."""

    def test_check_finds_nothing_wrong_where_all_is_well(self) -> None:
        assert self.check([self.bench.feature], [self.bench.customer]) == []
        assert self.bench.charged_total(self.bench.customer, self.bench.feature) == 0, "a check must not charge"

    def test_check_names_an_unknown_feature(self) -> None:
        lines = self.check([self.bench.feature, self.bench.unknown_feature], [])
        assert any(self.bench.unknown_feature in line for line in lines), lines

    def test_check_names_an_unknown_customer(self) -> None:
        if isinstance(self.read(self.bench.unknown_customer), CustomerState):
            raise Unsupported("the provider accepts charges for any customer, so it cannot report an unknown customer")
        lines = self.check([], [self.bench.customer, self.bench.unknown_customer])
        assert any(self.bench.unknown_customer in line for line in lines), lines

    def test_a_bad_key_charges_nothing_and_is_told(self) -> None:
        self.bench.provider = self.bench.with_bad_key()
        assert self.check([self.bench.feature], [self.bench.customer]), "the check reported no fault"
        assert self.check([], []), "a check must test the key, even without features and customers"
        request = self.request()
        # A person can fix a key, so the provider must not reject its pushes.
        assert isinstance(outcome := self.push(request), RetryAt | Unknown), outcome
        assert self.bench.charged(request) is None
        asked = self.wire.calls
        assert isinstance(self.read(self.bench.customer), ReadFailed) or self.wire.calls == asked

    def test_without_a_key_it_sleeps_and_says_so(self) -> None:
        self.bench.provider = self.bench.without_key()
        assert self.bench.provider.dormant, "`dormant` must have the reason"
        assert self.check([self.bench.feature], [self.bench.customer]), "the check reported no fault"


class WebhookTests(Tools):
    """Tests of webhooks."""

    def webhook(self, by: Secret = "current") -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of a signed webhook that reports a changed customer."""
        body = self.bench.change_of(self.bench.customer)
        return self.bench.signed(body, by), body

    def test_a_webhook_names_who_changed_by_the_old_secret_and_the_new(self) -> None:
        secrets: tuple[Secret, ...] = ("current", "previous")
        for secret in secrets:
            headers, body = self.webhook(secret)
            assert self.notices(headers, body) == [CustomerChanged(self.bench.customer)], secret

    def test_a_webhook_that_comes_twice_says_the_same_or_is_refused(self) -> None:
        headers, body = self.webhook()
        first = self.notices(headers, body)
        self.bench.advance(SECOND_MS)
        assert self.refuses(headers, body) or self.notices(headers, body) == first

    def test_forged_webhook_is_refused(self) -> None:
        assert self.refuses(*self.webhook("strange"))
        headers, body = self.webhook()
        for forged in (body + b" ", body.replace(self.bench.customer.encode(), b"someone"), b"{}", b"", b"\xff\xfe"):
            assert self.refuses(headers, forged), forged[:40]
        assert self.refuses(headers, self.bench.change_of(self.bench.unknown_customer)), "signed for another body"

    def test_a_webhook_without_its_signature_is_refused(self) -> None:
        headers, body = self.webhook()
        unsigned = [name for name in headers if self.refuses({k: v for k, v in headers.items() if k != name}, body)]
        assert unsigned, "the provider accepted a webhook without its headers"
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
        headers, body = self.webhook()
        self.bench.advance(DAY_MS)
        assert self.refuses(headers, body)

    def test_a_genuine_webhook_may_say_anything(self) -> None:
        """Test genuine webhooks with any content, as from a later version of the service."""
        texts = [b"", b"{}", b"[]", b"null", b"7", b'{"type"', b'"\xff"', b"[" * 100_000, b'{"type": "news.of.2030"}']
        for body in texts:
            assert self.harmless(body) == [], body[:30]
        genuine = self.bench.change_of(self.bench.customer)
        for path in paths(json.loads(genuine)):
            for value in WRONG_TYPES:
                self.harmless(json.dumps(changed(json.loads(genuine), path, value)).encode())

    def test_a_late_refusal_is_told_once_it_can_be_read(self) -> None:
        request = self.request(customer=self.bench.unknown_customer)
        self.run(outcomes(self.bench.provider, [request]))
        headers, body = self.bench.late_refusal(request)
        strange = {name: instead(answer) for name, answer in {**NONSENSE, **FOREIGN}.items()}
        for name, spoil in {**LOST, **strange}.items():
            calls = self.wire.calls
            with self.wire.spoiled(spoil):
                found = self.run(awaited(self.bench.provider.notices(headers, body, self.now_ms)))
            assert isinstance(found, ReadFailed) or self.wire.calls == calls, (
                f"{name}: the provider must request the webhook again"
            )
            self.clean(found)
        self.wire.last = None
        (refusal,) = self.notices(headers, body)
        assert isinstance(refusal, PushRefused) and refusal.key == request.key
        for path in paths(fields(self.wire.last)):
            for value in WRONG_TYPES:
                with self.wire.spoiled(retyped(path, value)):
                    self.read_notices(headers, body)

    def harmless(self, body: bytes) -> Sequence[Notice]:
        return self.read_notices(self.bench.signed(body, "current"), body)

    def read_notices(self, headers: Mapping[str, str], body: bytes) -> Sequence[Notice]:
        """Return the notices of a webhook.

        Return an empty list if the provider refuses it or cannot read its content.
        """
        try:
            found = self.run(awaited(self.bench.provider.notices(headers, body, self.now_ms)))
        except WebhookRefused as error:
            self.clean(str(error))
            return []
        told = [] if isinstance(found, ReadFailed) else list(found)
        assert all(isinstance(notice, CustomerChanged | PushRefused) for notice in told), told
        names = [notice.customer_id if isinstance(notice, CustomerChanged) else notice.key for notice in told]
        assert all(isinstance(name, str) for name in names), told
        self.clean(*told)
        return told
