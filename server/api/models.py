"""The bodies, queries and answers that routes share, and those of runs, as pydantic checks them and OpenAPI describes
them.

Guarantee: an amount comes in as a number of credits and is taken exactly, to the micro-credit, or refused; it goes out
twice, in credits and as a whole number of micro-credits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from drawdown.schema.declare import MAX_AT_ONCE
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import MAX_ID_CHARS, micro_of
from drawdown.worker.executions.request import LEAST_LIFE_MS, MOST_FEATURES, MOST_LIFE_MS, MOST_SANDBOXES

MOST_ROWS: Final = 1_000
"""Rows of one response to a program."""
MAX_REASON_CHARS: Final = 1_000
"""Length of a reason that a program sends."""


def _micro(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number of credits")
    return micro_of(Decimal(value))


def _clean(text: str) -> str:
    if not is_clean_id(text):
        raise ValueError("must have 1 to 200 characters without control characters")
    return text


CREDITS_SCHEMA: Final = {"type": "number", "minimum": 0, "maximum": 10**9, "description": "Credits, to six decimals"}
Credits = Annotated[int, BeforeValidator(_micro), WithJsonSchema(CREDITS_SCHEMA)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_clean)]
Uses = Annotated[dict[Id, Annotated[int, Field(ge=0, lt=2**53)]], Field(min_length=1, max_length=MOST_FEATURES)]
Sandboxes = Annotated[list[Id], Field(max_length=MOST_SANDBOXES)]
Why = Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARS, pattern=r"^[^\x00]+$")]
After = Annotated[str, Field(max_length=2 * MAX_ID_CHARS + 100)]
LifeMs = Annotated[int, Field(ge=LEAST_LIFE_MS, le=MOST_LIFE_MS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PreviewRequest(_Body):
    """As `drawdown execution preview`. An estimate is in credits (`estimate`), or in base units by feature (`use`).

    An order with `sandboxes` names what charges for them (`settled_by`).
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"org_id": "acme", "estimate": 6}]})

    org_id: Id | None = None
    """The organisation of the run. If the key is bound to an organisation, it may be left out."""
    estimate: Credits | None = None
    use: Uses | None = None
    project: Id | None = None
    subject: Id | None = None
    action: Id | None = None
    supplier: Id | None = None
    overage: Literal["charge", "cap", "refuse"] = "charge"
    for_ms: LifeMs | None = None
    queued: bool = False
    settled_by: Literal["receipt", "metering"] | None = None
    sandboxes: Sandboxes = Field(default_factory=list)
    payer: Id | None = None


class AcceptRequest(PreviewRequest):
    """As `drawdown execution accept`. The run's key is yours to choose: here, or in the header Idempotency-Key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "e-1", "org_id": "acme", "estimate": 6, "project": "site"}]}
    )

    key: Id | None = None
    reason: Why = "not given"


class DrawRequest(_Body):
    """As `drawdown execution draw`: a part that a run cost, in credits or in base units by feature. The same number
    again changes nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": 1, "credits": 2.5}]})

    number: Annotated[int, Field(ge=0, lt=2**31)]
    credits: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class ExtendRequest(_Body):
    """As `drawdown execution extend`: the run's highest cost in all, and the time from now until its hold ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": 9, "for_ms": 7_200_000}]})

    to: Credits | None = None
    for_ms: LifeMs | None = None
    reason: Why = "not given"


class SettleRequest(_Body):
    """As `drawdown execution settle`: what the run cost in all; nothing of a run that metering charges."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"actual": 4}]})

    actual: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class ReleaseRequest(_Body):
    """As `drawdown execution release`: what the run cost all the same; without it, what was drawn stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the build was cancelled"}]})

    incurred: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RunsQuery(_Query):
    """Which runs: those that are held, of all organisations, in the order in which they end; else the newest first.
    `after`: `next` of the page before."""

    org_id: Id | None = None
    state: list[Literal["held", "settled", "released", "expired"]] = ["held", "settled", "released", "expired"]
    project: Id | None = None
    subject: Id | None = None
    action: Id | None = None
    after: After = ""
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class MostQuery(_Query):
    """The most rows of an answer."""

    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 100


class EntriesQuery(MostQuery):
    """`after`: the key of the last entry of the page before, from `next` of its answer."""

    after: After = ""


class NoQuery(_Query):
    """No query beside the path."""


class PreviewAnswer(BaseModel):
    """The answer to a preview: is a run acceptable now; if not, the step that refuses it, and the reason."""

    allowed: bool
    step: str | None
    code: str | None
    reason: str | None
    customer_id: str | None
    amount: float | None
    amount_micro: int | None
    available: float | None
    available_micro: int | None
    hold: Literal["wallet", "local", "declared"] | None
    balance_read_ms: int | None


class Run(BaseModel):
    """A run.

    `customer_id`: the wallet that pays, which never changes. `sponsored`: it is another wallet than the organisation's.
    `reserved`: the amount that was reserved at acceptance. `held`: the amount that is still held. `hold`: where it is
    held: in a wallet, in the balance that a provider keeps, as it was last read (`local`), or in no balance
    (`declared`). `drawn`: the credit charged so far; if metering settles the run, the samples of its `sandboxes`
    charged it. `supplier`: the supplier who is owed a share of it, if there is one.
    """

    key: str
    org_id: str
    customer_id: str
    sponsored: bool
    project: str | None
    subject: str | None
    action: str | None
    use: dict[str, int] | None
    state: Literal["held", "settled", "released", "expired"]
    overage: Literal["charge", "cap", "refuse"]
    reserved: float
    reserved_micro: int
    drawn: float
    drawn_micro: int
    held: float
    held_micro: int
    accepted_ms: int
    expires_ms: int
    ended_ms: int | None
    ended_by: str | None
    ended_reason: str | None
    actor: str
    reason: str
    supplier: str | None
    settled_by: Literal["receipt", "metering"]
    sandboxes: list[str]
    hold: Literal["wallet", "local", "declared"]


class RunAnswer(Run):
    """A run after it was accepted or extended, and its wallet; null for a sponsor's wallet.

    `repeated`: nothing was changed. If a provider keeps the balance: the rest of it by the read of `balance_read_ms`;
    null if it is unlimited.
    """

    repeated: bool
    available: float | None
    available_micro: int | None
    balance: float | None
    balance_micro: int | None
    balance_read_ms: int | None


class ChargedAnswer(RunAnswer):
    """A run after it was drawn on, settled or released. `charged`: by this call; `written_off`: what lay above the hold
    of a run that is capped."""

    charged: float
    charged_micro: int
    written_off: float
    written_off_micro: int


class RunEntryAnswer(BaseModel):
    """An amount that a run drew at a time, with a feature's quantity if it was given."""

    key: str
    at_ms: int
    amount: float
    amount_micro: int
    feature: str | None
    quantity: int | None
    actor: str
    reason: str


class ShownRunAnswer(Run):
    entries: list[RunEntryAnswer]


class RunsAnswer(BaseModel):
    """`next`: the `after` of the next page; null: this is the last.

    `is_cut`: many runs were read, and fewer than requested, or none, matched; the next page continues after them.
    """

    executions: list[Run]
    next: str | None
    is_cut: bool


class LedgerEntryAnswer(BaseModel):
    """An entry of a wallet: `moved` is its change, up or down.

    `ts_ms`: the time that it counts for; `at_ms`: the time of its booking.
    """

    key: str
    kind: str
    moved: float
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts_ms: int
    at_ms: int
    actor: str
    reason: str


class EntriesAnswer(BaseModel):
    """The latest first. `next`: what to give as `after` for the next page; null: this is the last."""

    org_id: str
    customer_id: str
    entries: list[LedgerEntryAnswer]
    next: str | None


LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
EpochMs = Annotated[int, Field(ge=0, le=LATEST_MS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    actor: Name
    """The actor; kept for good."""
    reason: Why
    """Reason in the audit log."""


class ProviderRequest(_Strict):
    """As `drawdown org assign`: the organisation's biller from a window boundary on."""

    provider: Name
    customer_id: Name | None = None
    from_ms: EpochMs | None = None
    undo: bool = False
    """Take back an assignment that has not begun."""
    new: bool = False
    """Also an organisation, or a customer of the embedded ledger, of which nothing is known yet."""
    allow_halt: bool = False
    unchecked: bool = False
    dry_run: bool = False


class OverrideRequest(_Strict):
    """As `drawdown org override`: the operator's override against the provider's verdict.

    A field that is left out stays as it was.
    """

    max_concurrent: Annotated[int, Field(ge=0, le=MAX_AT_ONCE)] | None = None
    never_halt: bool = False
    until_ms: EpochMs | None = None
    undo: bool = False
    """End all settings of an override."""


class DecideRequest(_Strict):
    """As `drawdown override approve`, `refuse` or `end`."""


class ErrorBody(BaseModel):
    code: str
    message: str
    details: dict[str, object] | None = None


class Error(BaseModel):
    """An answer that refuses a call, or reports a failure."""

    error: ErrorBody


class GateAnswer(BaseModel):
    """The gate's answer: may a sandbox be made or woken.

    `max_concurrent_sandboxes` null: no limit. `as_of`: the moment of the provider's answer behind it; null: the
    provider was not read yet, or could not be read. `decision`, `rule` and `options` are the guard's. `degraded`:
    decided without knowing the credit.
    """

    org_id: str
    allowed: bool
    reason: str | None
    max_concurrent_sandboxes: int | None
    as_of: str | None
    decision: Literal["allow", "warn", "block"]
    rule: str
    options: list[Literal["top_up", "sponsor", "run_locally"]]
    degraded: bool


class WebhookAnswer(BaseModel):
    """`done`, `ignored` (nothing here changes by it) or `repeated`."""

    status: str


class AssignAnswer(BaseModel):
    """The moves, done or planned, as in `drawdown org assign --json`."""

    assigned: list[dict[str, object]]
    provider: str
    dry_run: bool


class OverrideAnswer(BaseModel):
    """`was` and `now`: the override before and now (`max_concurrent`, `halted`, `until_ms`; null: not set)."""

    org_id: str
    cleared: bool
    was: dict[str, object]
    now: dict[str, object]


class TickAnswer(BaseModel):
    """As `drawdown tick --json`."""

    tick: dict[str, object]


class ParityAnswer(BaseModel):
    """As `drawdown parity check --json`."""

    parity: dict[str, object]


class DriftAnswer(BaseModel):
    """As `drawdown vendor drift --json`."""

    drift: list[dict[str, object]]
    alerts: int
    exit_status: int


class ReconcileAnswer(BaseModel):
    """As `drawdown guard reconcile --json`."""

    drifts: list[dict[str, object]]
    corrected: int
    above_tolerance: int
    exit_status: int


class OverdueAnswer(BaseModel):
    """As `drawdown backfill overdue --json`."""

    overdue: list[dict[str, object]]
    exit_status: int


class Health(BaseModel):
    status: str
