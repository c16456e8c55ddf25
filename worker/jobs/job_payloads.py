"""Define the payloads of jobs, in stored form, as text and as a command.

Guarantee: a payload has absolute times, because a word such as `today` would change its meaning while the job waits. It
has the settings of a provider that the person saw. An assignment or a top-up applies only to the state that the person
saw.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, TypeAlias

from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, WINDOW_MS, window_of
from drawdown.worker.replay.plan import ReplayScope

MAX_JOB_ORGS: Final = 100
"""Organisations that a job can name.

For more, name a provider or all organisations, or run `drawdown replay`.
"""


@dataclass(frozen=True)
class ReplayJob:
    """A replay of the windows of `scope` in [from_ms, to_ms).

    Errors: UsageError for more than MAX_JOB_ORGS organisations.
    """

    kind: ClassVar[str] = "replay"
    scope: ReplayScope
    from_ms: int
    to_ms: int

    def __post_init__(self) -> None:
        if len(self.scope.orgs) > MAX_JOB_ORGS:
            raise UsageError(
                f"too many organisations for a job: {len(self.scope.orgs):,}. A job names at most "
                f"{MAX_JOB_ORGS:,}. Queue the job by provider, or for all organisations"
            )

    def __str__(self) -> str:
        return f"replay of {self.scope}, {show_time(self.from_ms)} to {show_time(self.to_ms)}"

    @property
    def windows(self) -> int:
        return (self.to_ms - self.from_ms) // WINDOW_MS

    def aligned(self) -> ReplayJob:
        """Return the job with its range extended to whole windows."""
        return replace(self, from_ms=window_of(self.from_ms), to_ms=window_of(self.to_ms + WINDOW_MS - 1))

    def text(self) -> str:
        """Return the payload in its stored form. Equal jobs have equal texts."""
        return json.dumps({"scope": self.scope.text(), "from_ms": self.from_ms, "to_ms": self.to_ms}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> ReplayJob:
        kept = json.loads(text)
        return cls(ReplayScope.of(kept["scope"]), kept["from_ms"], kept["to_ms"])

    def command(self) -> list[str]:
        """Return the arguments of the command that does the same, without `drawdown`."""
        whose = ["--provider", self.scope.provider] if self.scope.provider is not None else list(self.scope.orgs)
        return ["replay", *(whose or ["--all"]), "--from", show_time(self.from_ms), "--to", show_time(self.to_ms)]


@dataclass(frozen=True)
class AcceptJob:
    """The acceptance of a provider's changed terms.

    `terms`: the terms that the person saw, which are the only ones that the job accepts.
    """

    kind: ClassVar[str] = "accept"
    provider: str
    terms: str

    def __str__(self) -> str:
        return f"changed settings of {self.provider}"

    def text(self) -> str:
        return json.dumps({"provider": self.provider, "terms": self.terms}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> AcceptJob:
        return cls(**json.loads(text))

    def command(self) -> list[str]:
        return ["provider", "accept", self.provider]


@dataclass(frozen=True)
class Biller:
    """The provider that bills an organisation by its latest assignment."""

    provider: str
    customer_id: str
    start_ms: int


@dataclass(frozen=True)
class AssignJob:
    """The assignment of an organisation to a provider that must be read first.

    `customer_id`: the customer at the provider (None: the present id, or the organisation's id for a first assignment).
    `from_ms`: the start (None: the next window at the time of the assignment). `allow_halt`: assign the organisation
    even if the assignment halts it. `new`: the organisation may be unknown. `was`: the biller when the job was queued
    (None: unassigned).
    """

    kind: ClassVar[str] = "assign"
    org_id: str
    provider: str
    customer_id: str | None = None
    from_ms: int | None = None
    allow_halt: bool = False
    new: bool = False
    was: Biller | None = None

    def __str__(self) -> str:
        whose = "" if self.customer_id is None else f" as {self.customer_id}"
        since = "the next window on" if self.from_ms is None else f"{show_time(self.from_ms)} on"
        return f"assignment of {self.org_id} to {self.provider}{whose}, from {since}"

    def text(self) -> str:
        return json.dumps({**vars(self), "was": None if self.was is None else vars(self.was)}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> AssignJob:
        kept = json.loads(text)
        was = kept.pop("was")
        return cls(**kept, was=None if was is None else Biller(**was))

    def command(self) -> list[str]:
        customer = [] if self.customer_id is None else ["--customer", self.customer_id]
        since = [] if self.from_ms is None else ["--from", show_time(self.from_ms)]
        halt = ["--allow-halt"] if self.allow_halt else []
        new = ["--new"] if self.new else []
        return ["org", "assign", self.org_id, "--provider", self.provider, *customer, *since, *halt, *new]


@dataclass(frozen=True)
class Stood:
    """The state of a wallet's top-ups.

    `terms`: the terms as JSON, without the mode. `said_ms`: the time when a person last set the terms. `declines`: the
    number of declined charges in a row. `wait_until_ms`: the end of the wait after a decline (None: the top-ups do not
    wait). `blocked_ms`: the time when the top-ups stopped until the card is replaced (None: they did not stop).
    """

    terms: str
    mode: str
    said_ms: int
    declines: int = 0
    wait_until_ms: int | None = None
    blocked_ms: int | None = None

    @property
    def stops(self) -> tuple[int, int | None, int | None]:
        return self.declines, self.wait_until_ms, self.blocked_ms


@dataclass(frozen=True)
class TopupJob:
    """A change of a wallet's top-ups, which needs a call to the payment service.

    `what`: `resume` (the card was replaced) or `start` (charge the wallet from now on). `was`: the state of the top-ups
    when the job was queued.
    """

    kind: ClassVar[str] = "topup"
    wallet: str
    what: Literal["resume", "start"]
    was: Stood | None = None

    def __str__(self) -> str:
        return f"top-ups of {self.wallet}: {'resume with another card' if self.what == 'resume' else 'start'}"

    def text(self) -> str:
        return json.dumps({**vars(self), "was": None if self.was is None else vars(self.was)}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> TopupJob:
        kept = json.loads(text)
        was = kept.pop("was")
        return cls(**kept, was=None if was is None else Stood(**was))

    def command(self) -> list[str]:
        return ["topup", self.what, self.wallet]


@dataclass(frozen=True)
class CorrectJob:
    """A correction of differences that a comparison with providers proves.

    `org_id`, `provider`: the organisation and the provider ('': all). `from_ms`, `to_ms`: the corrected days, in
    [from_ms, to_ms) (None: without that bound). If both are None, the job corrects recently settled pushes.

    Errors: UsageError for a time that is not the start of a day, or an empty range.
    """

    kind: ClassVar[str] = "correct"
    org_id: str = ""
    provider: str = ""
    from_ms: int | None = None
    to_ms: int | None = None

    def __post_init__(self) -> None:
        if any(day is not None and day % DAY_MS for day in (self.from_ms, self.to_ms)):
            wrong = next(day for day in (self.from_ms, self.to_ms) if day is not None and day % DAY_MS)
            raise UsageError(
                f"invalid day {show_time(wrong)} of a correction: expected a whole day in UTC, such as 2026-01-31"
            )
        if self.from_ms is not None and self.to_ms is not None and self.to_ms <= self.from_ms:
            raise UsageError(
                f"invalid range: its end {_day(self.to_ms)} must be later than its start {_day(self.from_ms)}. Pass "
                "the day after the last day as the end"
            )

    def __str__(self) -> str:
        since = "" if self.from_ms is None else f", from {_day(self.from_ms)}"
        until = "" if self.to_ms is None else f", up to {_day(self.to_ms)}"
        days = f"{since}{until}" or ", recently settled pushes"
        return f"correction of {self.org_id or 'all organisations'} at {self.provider or 'all providers'}{days}"

    def text(self) -> str:
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def of(cls, text: str) -> CorrectJob:
        return cls(**json.loads(text))

    def command(self) -> list[str]:
        provider = ["--provider", self.provider] if self.provider else []
        since = [] if self.from_ms is None else ["--from", _day(self.from_ms)]
        until = [] if self.to_ms is None else ["--to", _day(self.to_ms)]
        return ["reconcile", *([self.org_id] if self.org_id else []), *provider, *since, *until, "--correct"]


def _day(day_ms: int) -> str:
    return show_time(day_ms)[:10]


Asked: TypeAlias = ReplayJob | AcceptJob | AssignJob | TopupJob | CorrectJob
_KINDS: Final[dict[str, type[Asked]]] = {
    one.kind: one for one in (ReplayJob, AcceptJob, AssignJob, TopupJob, CorrectJob)
}


def read_job(kind: str, text: str) -> Asked:
    """Read the payload of a job from its stored text."""
    return _KINDS[kind].of(text)
