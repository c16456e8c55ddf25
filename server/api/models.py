"""Define the bodies, queries and responses that several routes share.

pydantic checks them, and OpenAPI describes them.

Guarantee: a program sends an amount as a number of credits. Drawdown reads the amount exactly, to the micro-credit, or
rejects it. A response contains each amount in credits, and as a whole number of micro-credits.
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
"""Characters of a reason that a program sends."""


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
    """The parameters of `drawdown execution preview`.

    Send the estimate in credits (`estimate`), or in base units by feature (`use`). If you send `sandboxes`, also send
    `settled_by`, which decides whether the receipt or metering charges the execution.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"org_id": "acme", "estimate": 6}]})

    org_id: Id | None = None
    """Organisation of the execution.

    A key that is bound to an organisation may omit it.
    """
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
    """The parameters of `drawdown execution accept`.

    You choose the key of the execution. Send it here, or in the header Idempotency-Key.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "e-1", "org_id": "acme", "estimate": 6, "project": "site"}]}
    )

    key: Id | None = None
    reason: Why = "not given"


class DrawRequest(_Body):
    """The parameters of `drawdown execution draw`: a part of an execution's cost.

    The cost is in credits, or in base units by feature. A repeat with the same number does not charge again.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": 1, "credits": 2.5}]})

    number: Annotated[int, Field(ge=0, lt=2**31)]
    credits: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class ExtendRequest(_Body):
    """The parameters of `drawdown execution extend`.

    `to`: the total cost to reserve, in credits; null keeps it. `for_ms`: milliseconds from now until the reservation
    ends; null means an hour. The call does not shrink or shorten the reservation.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": 9, "for_ms": 7_200_000}]})

    to: Credits | None = None
    for_ms: LifeMs | None = None
    reason: Why = "not given"


class SettleRequest(_Body):
    """The parameters of `drawdown execution settle`: the execution's total cost.

    If metering charges the execution, omit the cost.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"actual": 4}]})

    actual: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class ReleaseRequest(_Body):
    """The parameters of `drawdown execution release`: the incurred cost.

    If you omit the cost, the execution costs the drawn amount.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the build was cancelled"}]})

    incurred: Credits | None = None
    use: Uses | None = None
    reason: Why = "not given"


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RunsQuery(_Query):
    """The filter of a list of executions, and the page to return.

    If you filter for `held` executions of all organisations, the list begins with the reservation that ends first.
    Other lists begin with the newest execution. `after`: `next` of the previous page.
    """

    org_id: Id | None = None
    state: list[Literal["held", "settled", "released", "expired"]] = ["held", "settled", "released", "expired"]
    project: Id | None = None
    subject: Id | None = None
    action: Id | None = None
    after: After = ""
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class MostQuery(_Query):
    """The largest number of rows in a response."""

    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 100


class EntriesQuery(MostQuery):
    """The page of entries to return. `after`: `next` of the previous page."""

    after: After = ""


class NoQuery(_Query):
    """A query without parameters."""


class PreviewAnswer(BaseModel):
    """The response to a preview.

    `allowed`: True if the execution would be accepted now. `step`, `code` and `reason`: the step that refuses it, and
    why. `amount`: the credit to reserve. `available`: the available credit before the reservation; null if it is
    unknown, unlimited, or of another payer. `hold`: the place of the credit, as in a `Run`.
    """

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
    """An execution.

    `customer_id`: the wallet, or the provider's customer, that pays. It never changes. `sponsored`: True if that wallet
    is not the organisation's. `reserved`: the amount reserved at acceptance or by an extension. `held`: the amount
    still reserved. `hold`: the balance that the reservation reduces. `wallet`: the wallet. `local`: the provider's
    balance at the last read. `declared`: the reservation does not reduce a balance. `drawn`: the credit charged so far.
    If metering settles the execution, the samples of its `sandboxes` charge it. `supplier`: the supplier that gets a
    share of the cost.
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
    """An execution after it was accepted or extended, and its wallet's credit.

    The credit is null for a sponsor's wallet. `repeated`: True if an earlier call already had this effect. If a
    provider bills the execution, the credit is that of its last read, less later use. `balance_read_ms`: the start of
    that read. The credit is then null if the balance is unlimited or does not exist.
    """

    repeated: bool
    available: float | None
    available_micro: int | None
    balance: float | None
    balance_micro: int | None
    balance_read_ms: int | None


class ChargedAnswer(RunAnswer):
    """An execution after a draw, a settlement or a release.

    `charged`: the credits that this call charged. `written_off`: the cost above the reservation of a capped execution.
    """

    charged: float
    charged_micro: int
    written_off: float
    written_off_micro: int


class RunEntryAnswer(BaseModel):
    """An amount that an execution drew, with the feature and its quantity, if any."""

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
    """A page of executions.

    `next`: the `after` of the next page; null on the last page. `is_cut`: True if the search ended before it found as
    many executions as requested. The next page continues the search.
    """

    executions: list[Run]
    next: str | None
    is_cut: bool


class LedgerEntryAnswer(BaseModel):
    """An entry of a wallet.

    `moved`: the change of the balance, positive or negative. `ts_ms`: the time to which the entry belongs. `at_ms`: the
    time of booking.
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
    """The entries of a wallet, newest first.

    `next`: the `after` of the next page; null on the last page.
    """

    org_id: str
    customer_id: str
    entries: list[LedgerEntryAnswer]
    next: str | None


LATEST_MS: Final = 253_402_300_799_999
"""Latest time that a program can send, the last millisecond of the year 9999."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
EpochMs = Annotated[int, Field(ge=0, le=LATEST_MS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    actor: Name
    """Actor in the audit log, stored permanently."""
    reason: Why
    """Reason in the audit log."""


class ProviderRequest(_Strict):
    """The parameters of `drawdown org assign`.

    The call sets the provider that bills the organisation, from a window on.
    """

    provider: Name
    customer_id: Name | None = None
    from_ms: EpochMs | None = None
    undo: bool = False
    """Cancel an assignment that has not begun."""
    new: bool = False
    """Accept an unknown organisation, or an unknown customer of the embedded ledger."""
    allow_halt: bool = False
    unchecked: bool = False
    dry_run: bool = False


class OverrideRequest(_Strict):
    """The parameters of `drawdown org override`.

    An org override replaces the provider's verdict with yours. A field that you omit keeps its value.
    """

    max_concurrent: Annotated[int, Field(ge=0, le=MAX_AT_ONCE)] | None = None
    never_halt: bool = False
    until_ms: EpochMs | None = None
    undo: bool = False
    """End all settings of an org override."""


class DecideRequest(_Strict):
    """The parameters of `drawdown override approve`, `refuse` or `end`."""


class ErrorBody(BaseModel):
    code: str
    message: str
    details: dict[str, object] | None = None


class Error(BaseModel):
    """An error response, for a refused call or a failure."""

    error: ErrorBody


class GateAnswer(BaseModel):
    """The gate's response: whether a sandbox may be created or woken.

    `max_concurrent_sandboxes`: null means unlimited. `as_of`: the start of the last read of the provider; null without
    such a read, or if the database could not be read. `decision`, `rule` and `options` are the guard's. `degraded`:
    True if the credit was unknown.
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
    """The outcome of a webhook: `done`, `ignored` (not used) or `repeated`."""

    status: str


class AssignAnswer(BaseModel):
    """The assignments, done or planned, as in `drawdown org assign --json`."""

    assigned: list[dict[str, object]]
    provider: str
    dry_run: bool


class OverrideAnswer(BaseModel):
    """The org override before the call (`was`) and after it (`now`).

    Each has `max_concurrent`, `halted` and `until_ms`; null means not set.
    """

    org_id: str
    cleared: bool
    was: dict[str, object]
    now: dict[str, object]


class TickAnswer(BaseModel):
    """The output of `drawdown tick --json`."""

    tick: dict[str, object]


class ParityAnswer(BaseModel):
    """The output of `drawdown parity check --json`."""

    parity: dict[str, object]


class DriftAnswer(BaseModel):
    """The output of `drawdown vendor drift --json`."""

    drift: list[dict[str, object]]
    alerts: int
    exit_status: int


class ReconcileAnswer(BaseModel):
    """The output of `drawdown guard reconcile --json`."""

    drifts: list[dict[str, object]]
    corrected: int
    above_tolerance: int
    exit_status: int


class OverdueAnswer(BaseModel):
    """The output of `drawdown backfill overdue --json`."""

    overdue: list[dict[str, object]]
    exit_status: int


class Health(BaseModel):
    status: str
