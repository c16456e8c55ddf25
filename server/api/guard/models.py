"""The bodies and answers of the guard."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from drawdown.server.api.models import EpochMs
from drawdown.server.api.run_models import MOST_ROWS, Id, LifeMs, Why
from drawdown.worker.guard.terms import MAX_UNITS

Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
NUMBER_DIGITS: Final = 18
"""Of an override's number in a path."""
UsedUnits = Annotated[int, Field(ge=0, le=MAX_UNITS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CheckOrder(_Body):
    """As `drawdown guard check`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"org": "acme", "metric": "idea.create"}]})

    org: Id | None = None
    """Whose use it is; a key that is bound to an organisation may leave it out."""
    metric: Id
    amount: Units = 1
    payer: Id | None = None


class ConsumeOrder(CheckOrder):
    """As `drawdown guard consume`. The key is yours to choose: once it is let through, the same again is the first
    answer. A block keeps no key: the same again is decided anew."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "idea-1", "org": "acme", "metric": "idea.create", "subject": "ann"}]}
    )

    key: Id
    project: Id | None = None
    subject: Id | None = None
    reason: Why = "not given"
    let_through: bool = False
    """It was let through while nobody could be asked: it is counted whatever the limit. Of metrics that fail open."""


class ReserveOrder(ConsumeOrder):
    """As `drawdown guard reserve`: `amount` is the estimate, held for an hour or for `for_ms`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "copy-1", "org": "acme", "metric": "bandwidth", "amount": 50_000_000}]}
    )

    for_ms: LifeMs | None = None


class SettleUseOrder(_Body):
    """As `drawdown guard settle`: what was used in all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-1", "actual": 31_250_000}]})

    key: Id
    actual: UsedUnits
    reason: Why = "not given"


class ReleaseUseOrder(_Body):
    """As `drawdown guard release`: what was used all the same."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-2", "reason": "cancelled"}]})

    key: Id
    incurred: UsedUnits = 0
    reason: Why = "not given"


class ExtendUseOrder(_Body):
    """As `drawdown guard extend`: what is held in all, and for how long from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-1", "to": 75_000_000}]})

    key: Id
    to: Units | None = None
    for_ms: LifeMs | None = None
    reason: Why = "not given"


class OverrideAsk(_Body):
    """As `drawdown override ask --org`: so much of a metric in a period (`amount` null: without an end), until
    `ends_ms`, 90 days from now at the latest."""

    org: Id | None = None
    metric: Id
    amount: Annotated[int, Field(ge=0, le=MAX_UNITS)] | None
    period: Literal["hour", "day", "month"] = "month"
    ends_ms: EpochMs
    reason: Why = "not given"


class OverridesQuery(BaseModel):
    """Which overrides. `all`: also those that were refused, were ended or are over."""

    model_config = ConfigDict(extra="forbid")

    org: Id | None = None
    metric: Id | None = None
    all: bool = False
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class OverrideShown(BaseModel):
    """What is asked for or allowed, for whom (`target` by `reach`), until when (null: for good); who asked for it, and
    who decided."""

    number: int
    metric: str
    reach: Literal["org", "pattern", "plan"]
    target: str
    period: Literal["hour", "day", "month"]
    amount: int | None
    ends_ms: int | None
    state: Literal["asked", "in_force", "refused", "ended", "over"]
    at_ms: int
    actor: str
    reason: str
    decided_ms: int | None
    decided_by: str | None
    decided_reason: str | None


class OverridesAnswer(BaseModel):
    overrides: list[OverrideShown]


class GuardAnswer(BaseModel):
    """`decision` counts; `would` is what phase 3 would say, `enforced` whether the phase holds the organisation to it.
    `rule` decided, for `reason`. Of the limit that is nearest (null: none ends): its `period`, what was `used` before,
    what `remaining` after, and when it begins anew. `charged`: by this call, so 0 where it is `repeated`; what a use
    was charged in all `drawdown guard uses` shows. `balance` is what the payer has available, where that is the
    organisation itself and it was asked. `degraded`: decided without knowing the credit. `state` is that of the use;
    null: nothing is used."""

    decision: Literal["allow", "warn", "block"]
    would: Literal["allow", "warn", "block"]
    enforced: bool
    rule: str
    reason: str
    metric: str
    amount: int
    period: Literal["hour", "day", "month"] | None
    limit: int | None
    used: int | None
    remaining: int | None
    resets_at: str | None
    price: float
    price_micro: int
    charged: float
    charged_micro: int
    payer: str | None
    balance: float | None
    balance_micro: int | None
    options: list[Literal["top_up", "sponsor", "request_override", "run_locally"]]
    links: dict[Literal["request_override"], str]
    degraded: bool
    as_of: str
    repeated: bool
    state: Literal["used", "held", "settled", "released", "expired"] | None
    expires_ms: int | None


class OptionsQuery(BaseModel):
    """Of which wish: as `check`."""

    model_config = ConfigDict(extra="forbid")

    metric: Id
    amount: Units = 1
    payer: Id | None = None


class WayCall(BaseModel):
    """A call of this API, with the same key."""

    method: Literal["POST"]
    path: str
    body: dict[str, str | int]


class WayOut(BaseModel):
    """One way out of a block. `code`: why it is not open (null: it is), `said` in words. `call`: what a program sends;
    `link`: where the organisation's own people do it; `command`: what an operator does. `payers`: who could pay, `at`:
    where credit is bought, where that is not here, `missing`: credits that are short, `asked`: overrides that wait."""

    option: Literal["top_up", "sponsor", "request_override", "run_locally"]
    open: bool
    code: str | None
    said: str
    call: WayCall | None
    link: str | None
    command: str | None
    payers: list[str]
    at: str | None
    missing: float | None
    missing_micro: int | None
    asked: int


class OptionsAnswer(BaseModel):
    """What the guard answers of the wish now, and the four ways out of a block, always all of them."""

    org_id: str
    metric: str
    amount: int
    decision: Literal["allow", "warn", "block"]
    would: Literal["allow", "warn", "block"]
    rule: str
    reason: str
    options: list[WayOut]
    as_of_ms: int
    as_of: str
