"""The building blocks of the conformance tests.

Each block calls the provider once and checks the form of the result.

Guarantee: the outcome of a single push is compared with the service. Outcomes, lookups and states of customers must be
of a closed type. A result must not show a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Final, TypeVar, cast, get_args

from drawdown.providers.conformance.bench import Bench, Unsupported, Wire
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    Cost,
    CustomerRead,
    Drawn,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    Provider,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    TellsCosts,
    Totals,
    WebhookRefused,
)
from drawdown.schema.units import DAY_MS, GRACE_MS, SECOND_MS, WINDOW_MS, push_key, window_of

T = TypeVar("T")

MAX_REASON_CHARS: Final = 1000


class Tools:
    """A bench for each test, and calls to its provider."""

    bench: Bench
    patience_s = 10.0

    def make_bench(self) -> Bench:
        """Return a new bench, with a new service, clock and provider."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self._runner = asyncio.Runner()
        self.start()

    def start(self) -> None:
        """Make a new bench."""
        self.bench = self.make_bench()
        self._newest = window_of(self.now_ms - GRACE_MS) - WINDOW_MS
        self._requests = 0
        if self.bench.provider.capabilities.costs:
            self.costs()  # as each tick does first

    def finish(self) -> None:
        """Close the bench that `start` made."""
        if self.bench.wire is not None:
            self.run(self.bench.wire.close())
        self.bench.close()

    def teardown_method(self) -> None:
        self.finish()
        self._runner.close()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine and return its result.

        Errors: TimeoutError after `patience_s`, because only the worker may wait.
        """
        # Runner.run replaces and restores the handler of SIGINT, which is a third of the time of a call.
        return self._runner.get_loop().run_until_complete(asyncio.wait_for(work, self.patience_s))

    @property
    def now_ms(self) -> int:
        return self.bench.clock.now_ms()

    @property
    def unit(self) -> int:
        """Return the base units of a feature in one unit of the provider."""
        return self.bench.provider.capabilities.unit_of(self.bench.feature)

    @property
    def wire(self) -> Wire:
        if self.bench.wire is None:
            raise Unsupported("the provider does not use HTTP")
        return self.bench.wire

    def request(self, quantity: int | None = None, *, customer: str = "", feature: str = "") -> PushRequest:
        """Return a new push, in its own window. The default quantity is 300 units."""
        name = feature or self.bench.feature
        window = self._newest - self._requests * WINDOW_MS
        self._requests += 1
        units = 300 * self.bench.provider.capabilities.unit_of(name) if quantity is None else quantity
        who = customer or self.bench.customer
        return PushRequest(push_key("o-1", window, name, 0), who, name, units, window, 1)

    def sign_in(self) -> None:
        """Push once, so that the provider signs in and fills its caches."""
        self.push(self.request())

    def push(self, request: PushRequest) -> Outcome:
        """Send a push, and check its outcome.

        The outcome must be true, well formed and without secrets.
        """
        before = self.bench.charged(request)
        (outcome,) = self.run(outcomes(self.bench.provider, [request]))
        after = self.bench.charged(request)
        if isinstance(outcome, Accepted):
            assert (after or 0) == request.quantity, f"reported as accepted, but charged {after} of {request.quantity}"
        if isinstance(outcome, Rejected | RetryAt):
            assert after == before, f"reported as not applied, but it was: {outcome}"
        if isinstance(outcome, Rejected) and outcome.until_credit:
            assert not after, f"reported as waiting for credit, but it was charged: {outcome}"
        if isinstance(outcome, RetryAt):
            assert self.now_ms < outcome.at_ms <= self.now_ms + DAY_MS, f"in {outcome.at_ms - self.now_ms} ms"
        if isinstance(outcome, Queued):
            assert self.now_ms < outcome.confirm_at_ms <= self.now_ms + DAY_MS
        self.clean(outcome)
        return outcome

    def charge(self, request: PushRequest) -> bool:
        """Send a push, and return True if it was charged.

        If the provider declares that its response is not proof, the lookup decides.
        """
        outcome = self.push(request)
        if self.bench.provider.capabilities.success_proves_charge:
            return outcome == Accepted()
        assert isinstance(outcome, Queued), f"a success does not prove a charge here: {outcome}"
        self.bench.advance(outcome.confirm_at_ms - self.now_ms)
        return self.look_up(request) == FoundPush(request.quantity)

    def clean(self, *said: object) -> None:
        """Check that values and the provider do not show a secret.

        Each reason must be one line of text.
        """
        for shown in (*said, self.bench.provider):
            assert not any(secret in repr(shown) + str(shown) for secret in self.bench.secrets), (
                "a response shows a secret"
            )
            reason = getattr(shown, "reason", "some")
            assert 0 < len(reason) <= MAX_REASON_CHARS and "\n" not in reason, (
                f"the reason is empty, too long or has several lines: {reason!r}"
            )

    def read(self, customer_id: str) -> CustomerRead:
        found = self.run(awaited(self.bench.provider.customers([customer_id])))
        assert list(found) == [customer_id], f"requested {customer_id}, but got {list(found)}"
        assert isinstance(found[customer_id], get_args(CustomerRead))
        self.clean(found[customer_id])
        return found[customer_id]

    def look_up(self, request: PushRequest) -> LookupResult:
        if not self.bench.provider.capabilities.lookup:
            raise Unsupported("the provider cannot look up single pushes")
        found = self.run(awaited(self.bench.provider.lookup(request)))
        assert isinstance(found, FoundPush | Absent | CannotTell | ReadFailed), found
        self.clean(found)
        return found

    def totals(self, customer_id: str, from_ms: int | None = None, to_ms: int | None = None) -> Totals | ReadFailed:
        """Return the totals; the default range includes all pushes of `request`."""
        if self.bench.provider.capabilities.totals_lag_ms is None:
            raise Unsupported("the provider does not have totals")
        start_ms = self._newest - DAY_MS if from_ms is None else from_ms
        end_ms = self._newest + WINDOW_MS if to_ms is None else to_ms
        told = self.run(awaited(self.bench.provider.totals(customer_id, start_ms, end_ms)))
        self.clean(told)
        return told

    def costs(self, known: Sequence[Cost] = ()) -> Sequence[Cost] | ReadFailed:
        told = self.run(awaited(cast(TellsCosts, self.bench.provider).costs(known)))
        self.clean(told)
        assert isinstance(told, ReadFailed) or all(isinstance(cost, Cost) for cost in told), told
        return told

    def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        told = self.run(awaited(self.bench.provider.drawn(customer_id)))
        self.clean(told)
        return told

    def lag(self) -> None:
        """Advance the clock until a lookup and totals cannot miss a charge."""
        capabilities = self.bench.provider.capabilities
        self.bench.advance(max(capabilities.lookup_lag_ms or 0, capabilities.totals_lag_ms or 0) + SECOND_MS)

    def notices(self, headers: Mapping[str, str], body: bytes) -> Sequence[Notice]:
        found = self.run(awaited(self.bench.provider.notices(headers, body, self.now_ms)))
        assert not isinstance(found, ReadFailed), found
        self.clean(*found)
        return list(found)

    def refuses(self, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            self.notices(headers, body)
        except WebhookRefused as error:
            self.clean(str(error))
            return True
        return False

    def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        lines = list(self.run(awaited(self.bench.provider.check(features, customer_ids))))
        assert all(isinstance(line, str) and line.strip() for line in lines), lines
        self.clean(*lines)
        return lines


async def awaited(work: Awaitable[T]) -> T:
    return await work


async def outcomes(provider: Provider, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
    """Push a batch and return its outcomes.

    Errors: AssertionError unless each push has one outcome of the closed type.
    """
    outcomes = await provider.push(batch)
    assert len(outcomes) == len(batch), f"outcomes: {len(outcomes)}, pushes: {len(batch)}"
    assert all(isinstance(answer, get_args(Outcome)) for answer in outcomes), outcomes
    return outcomes
