"""The check that a push is charged exactly once, even if its calls fail.

Guarantee: the check uses only the protocol and the declared capabilities, and obeys the rules of every worker (P2, P3,
P5). The faults come from a seed, so the same seed repeats the same sequence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from drawdown.providers.conformance.bench import (
    NONSENSE,
    Bench,
    Spoil,
    cut_after,
    cut_before,
    garbled,
    instead,
    refused,
)
from drawdown.providers.http import Answer
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    Accepted,
    CannotTell,
    Duplicate,
    FoundPush,
    LookupResult,
    Outcome,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS

MAX_STEPS: Final = 300
"""Steps of one push: attempts and lookups."""
FAULTY_STEPS: Final = 6
"""Steps with faults. After these steps, all calls succeed, and the outcome of the push must become known."""

OUTAGE_CHANCE: Final = 0.05
"""Probability that a day passes before the next step."""

FAULTS: Final[Sequence[Spoil | None]] = (
    None,
    refused,
    cut_before,
    cut_after,
    cut_after,
    instead(Answer(429, {"retry-after": "3"}, b"")),
    instead(NONSENSE["an error of somebody in between"]),
    garbled(NONSENSE["an error of somebody in between"]),
    garbled(NONSENSE["an error of another shape"]),
    garbled(NONSENSE["nothing"]),
    garbled(NONSENSE["JSON cut short"]),
)


@dataclass
class Course:
    """The progress of a push, as a worker would remember it."""

    request: PushRequest
    state: Literal["due", "queued", "settled"] = "due"
    attempts: int = 0
    first_ms: int = 0
    last_ms: int = 0
    """Start of the last attempt that may have arrived."""
    may_have_arrived: bool = False
    claimed: bool = False
    """True if the service reported that it has the key.

    A retry would get the same report.
    """
    revision: int = 0

    def revise(self) -> None:
        """Void the push, and make its usage due under the next revision.

        That revision is dated one minute later.
        """
        self.revision += 1
        key = f"{self.request.key.split(':r')[0]}:r{self.revision}"
        self.request = replace(self.request, key=key, ts=self.request.ts + MINUTE_MS)
        self.state, self.attempts, self.first_ms = "due", 0, 0
        self.may_have_arrived = self.claimed = False


class Law:
    """A worker that sends one push at a time, until the outcome of the push is known.

    `story` lists the steps, to explain a failure.
    """

    def __init__(
        self,
        bench: Bench,
        seed: int,
        run: Callable[[Coroutine[object, object, LookupResult]], LookupResult],
        push: Callable[[PushRequest], Outcome],
    ) -> None:
        self._bench, self._run, self._push = bench, run, push
        self._rng = random.Random(seed)  # noqa: S311 - a story that can be told again
        self.story: list[str] = []

    def units(self, count: int) -> list[int]:
        """Return random quantities, in base units."""
        unit = self._bench.provider.capabilities.unit_of(self._bench.feature)
        return [unit * self._rng.randint(1, 100_000) for _ in range(count)]

    def see_through(self, request: PushRequest) -> PushRequest:
        """Send and look up a push until its outcome is known.

        Return the push that was charged, which may be a later revision.
        """
        course = Course(request)
        for step in range(MAX_STEPS):
            faulty = step < FAULTY_STEPS
            spoil = self._rng.choice(FAULTS) if faulty else None
            if faulty and self._rng.random() < OUTAGE_CHANCE:
                self._bench.advance(DAY_MS)  # a key with a retention of 24 h must then not be resent (P2)
            if self._bench.wire is not None:
                self._bench.wire.spoil = spoil
            self._step(course)
            if course.state == "settled":
                break
        if self._bench.wire is not None:
            self._bench.wire.spoil = None
        assert course.state == "settled", f"{request.key} does not settle: {self.story[-60:]}"
        return course.request

    def _step(self, course: Course) -> None:
        if course.state == "due" and self._may_send(course):
            self._send(course)
        else:
            self._look_up(course)

    def _may_send(self, course: Course) -> bool:
        """Return True if the key is new, or the service still remembers it (rule P2)."""
        kept = self._bench.provider.capabilities.key_retention_ms
        return kept is None or not course.attempts or self._now_ms - course.first_ms < kept - min(HOUR_MS, kept // 2)

    def _send(self, course: Course) -> None:
        capabilities = self._bench.provider.capabilities
        course.attempts += 1
        course.first_ms = course.first_ms or self._now_ms
        outcome = self._push(replace(course.request, attempt=course.attempts))
        self.story.append(f"{course.request.key} {course.attempts}: {outcome}")
        match outcome:
            case Accepted():
                course.state = "settled"
            case Duplicate():
                assert course.may_have_arrived, (
                    f"the push was never sent, but the provider reported it as known: {self.story}"
                )
                course.state = "settled" if capabilities.duplicate_proves_delivery else "queued"
                course.claimed = True
                self._bench.advance(capabilities.lookup_lag_ms or 0)
            case Queued(at_ms):
                course.state, course.may_have_arrived, course.last_ms = "queued", True, self._now_ms
                self._bench.advance(at_ms - self._now_ms)
            case RetryAt(at_ms):
                self._bench.advance(at_ms - self._now_ms)
            case Rejected(reason):
                raise AssertionError(f"the provider rejected a valid push: {reason}")
            case Unknown():
                course.may_have_arrived, course.last_ms = True, self._now_ms
                course.state = "due" if capabilities.duplicate_proves_delivery or not capabilities.lookup else "queued"
                self._bench.advance(max(capabilities.lookup_lag_ms or 0, SECOND_MS))

    def _look_up(self, course: Course) -> None:
        if not self._bench.provider.capabilities.lookup:
            self._ask_a_person(course)
            return
        found = self._run(self._bench.provider.lookup(course.request))
        self.story.append(f"{course.request.key}: {found}")
        match found:
            case FoundPush(quantity):
                assert quantity == course.request.quantity, self.story
                course.state = "settled"
            case Absent():
                self._after_absent(course)
            case CannotTell():
                self._ask_a_person(course)
            case ReadFailed():
                self._bench.advance(MINUTE_MS)

    def _after_absent(self, course: Course) -> None:
        capabilities = self._bench.provider.capabilities
        waited_ms, within_ms = self._now_ms - course.last_ms, capabilities.applied_within_ms
        if within_ms is not None and waited_ms >= max(within_ms, capabilities.lookup_lag_ms or 0):
            assert not self._bench.charged(course.request), (
                f"the lookup proved the push absent, but it was charged: {self.story}"
            )
            course.revise()  # rule P5
        elif not course.claimed and self._may_send(course):
            course.state = "due"
        elif within_ms is None and waited_ms >= DAY_MS:
            self._ask_a_person(course)
        else:
            self._bench.advance(max((within_ms or DAY_MS) // 8, SECOND_MS))

    def _ask_a_person(self, course: Course) -> None:
        """Settle or revise the push, as a person who knows the charge."""
        if self._bench.charged(course.request):
            course.state = "settled"
        else:
            course.revise()

    @property
    def _now_ms(self) -> int:
        return self._bench.clock.now_ms()
