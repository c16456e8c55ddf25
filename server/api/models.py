"""The bodies of requests and answers, as pydantic checks them and OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CONCURRENT: Final = 2**31 - 1
LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Why = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
EpochMs = Annotated[int, Field(ge=0, le=LATEST_MS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    actor: Name
    """Who does this; kept for good."""
    reason: Why
    """Why; kept for good."""


class ProviderOrder(_Strict):
    """As `drawdown org assign`: who bills the organisation from a window boundary on."""

    provider: Name
    customer: Name | None = None
    from_ms: EpochMs | None = None
    undo: bool = False
    """Take back an assignment that has not begun."""
    cancel: bool = False
    """The old name of `undo`."""
    new: bool = False
    """Also an organisation, or a customer of the embedded ledger, of which nothing is known yet."""
    allow_halt: bool = False
    unchecked: bool = False
    dry_run: bool = False


class OverrideOrder(_Strict):
    """As `drawdown org override`: the operator's word against the provider's. What is not named stays as it was."""

    max_concurrent: Annotated[int, Field(ge=0, le=MAX_CONCURRENT)] | None = None
    never_halt: bool = False
    until_ms: EpochMs | None = None
    undo: bool = False
    """End all that an override says."""
    clear: bool = False
    """The old name of `undo`."""


class DecideOrder(_Strict):
    """As `drawdown override approve`, `refuse` or `end`."""


class ErrorBody(BaseModel):
    code: str
    message: str
    details: dict[str, object] | None = None


class Error(BaseModel):
    """Every answer that is not the one asked for."""

    error: ErrorBody


class GateAnswer(BaseModel):
    """Whether a sandbox may be made or woken. `max_concurrent_sandboxes` null: no limit. `as_of`: the moment of the
    provider's word that this rests on; null: it has not been asked yet, or was not read. `decision`, `rule` and
    `options` are the guard's; `degraded`: decided without knowing the credit."""

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
    """What moved, or would, as `drawdown org assign --json` says it."""

    assigned: list[dict[str, object]]
    provider: str
    dry_run: bool


class OverrideAnswer(BaseModel):
    """`was` and `now`: what the override said and says (`max_concurrent`, `halted`, `until_ms`; null: nothing)."""

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
