"""The queries and answers of accounts. Amounts go out twice: in credits, and as a whole number of micro-credits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from drawdown.server.api.models import EpochMs
from drawdown.server.api.run_models import MOST_ROWS
from drawdown.worker.wallets.statement import LINES

Section = Literal["given", "began", "topped_up", "expired", "taken_back", "usage", "runs", "other"]


class PayerAnswer(BaseModel):
    """Who else pays for runs of an organisation that name it: up to `limit` (null: no limit), of which they hold and
    have cost `spent`."""

    payer: str
    limit: float | None
    limit_micro: int | None
    spent: float
    spent_micro: int


class ForecastAnswer(BaseModel):
    """When what is available ends, if it is used as on the last full days: `days` of them, from `from_ms` on. `ends_ms`
    with `ends` alone; `unknown` below three full days of use."""

    state: Literal["ends", "spent", "lasts", "unknown"]
    ends_ms: int | None
    days: int
    from_ms: int | None
    used: float | None
    used_micro: int | None


class AccountAnswer(BaseModel):
    """What an organisation's wallet has, and who else pays for its runs. `available`: what may still be reserved.
    `unbilled`: used, and charged by the next ticks. `over`: left of lots that are over, and on its way out of the
    balance, which is available, reserved, unbilled and over.
    `included` to `refund`: what is left of lots of each kind. `owed`: used, and paid for by no lot. `hold`: of what its
    runs cost, what suppliers wait for; it was charged, and is in nothing else here."""

    org_id: str
    customer_id: str
    plan: str | None
    available: float
    available_micro: int
    reserved: float
    reserved_micro: int
    unbilled: float
    unbilled_micro: int
    over: float
    over_micro: int
    balance: float
    balance_micro: int
    included: float
    included_micro: int
    bonus: float
    bonus_micro: int
    purchased: float
    purchased_micro: int
    sponsor: float
    sponsor_micro: int
    refund: float
    refund_micro: int
    owed: float
    owed_micro: int
    hold: float
    hold_micro: int
    payers: list[PayerAnswer]
    forecast: ForecastAnswer


class LotAnswer(BaseModel):
    """A lot: `amount` is `left`, `waits` (over, and not booked yet), `used`, `expired` and `taken`. `place`: in the
    order of use, of those in use. `features`: null pays for all."""

    lot: str
    kind: str
    state: Literal["in use", "to come", "over"]
    place: int | None
    amount: float
    amount_micro: int
    left: float
    left_micro: int
    waits: float
    waits_micro: int
    used: float
    used_micro: int
    expired: float
    expired_micro: int
    taken: float
    taken_micro: int
    priority: int
    begins_ms: int
    expires_ms: int | None
    features: list[str] | None
    actor: str
    reason: str


class LotsAnswer(BaseModel):
    """`more`: so many were left out. `owed`: used, and paid for by no lot; `back`: given back, and pays for later
    use."""

    org_id: str
    customer_id: str
    order: str
    lots: list[LotAnswer]
    more: int
    owed: float
    owed_micro: int
    back: float
    back_micro: int


class StatementQuery(BaseModel):
    """A month in UTC (`month=2026-02`), or what was booked from a moment to another one. `most`: lines of a section;
    the last sums up the others."""

    model_config = ConfigDict(extra="forbid")

    month: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}$")] | None = None
    from_ms: EpochMs | None = None
    to_ms: EpochMs | None = None
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = LINES


class ChangeAnswer(BaseModel):
    """What all lines of one section moved the balance by."""

    section: Section
    moved: float
    moved_micro: int


class CreditLineAnswer(ChangeAnswer):
    """What came in, or went without being used: of lots of one kind, or paid for in one currency (minor units)."""

    what: str
    entries: int
    money_minor: int | None
    currency: str | None


class UsageLineAnswer(BaseModel):
    """Charges of a feature, by the month of use and the rate: quantity times rate, a half of a micro-credit up, plus
    rounding. `more`: so many lines in one."""

    feature: str | None
    month: str | None
    charges: int
    quantity: int | None
    micro_credits: int | None
    per_quantity: int | None
    rounding_micro: int | None
    charged: float
    charged_micro: int
    more: int


class RunLineAnswer(BaseModel):
    """What runs of a project were charged: drawn, settled and late, less what was written off. `more`: so many lines
    in one."""

    project: str | None
    runs: int
    drawn: float
    drawn_micro: int
    settled: float
    settled_micro: int
    late: float
    late_micro: int
    written_off: float
    written_off_micro: int
    charged: float
    charged_micro: int
    more: int


class HeldLineAnswer(BaseModel):
    """A run that had credit reserved at the end. `more`: so many lines in one."""

    run: str | None
    org_id: str | None
    project: str | None
    expires_ms: int | None
    held: float
    held_micro: int
    more: int


class StatementAnswer(BaseModel):
    """Opening and all changes are closing. `reserved`: of the closing balance, what runs hold. `problems`: what does
    not add up."""

    customer_id: str
    from_ms: int
    to_ms: int
    is_final: bool
    opening: float
    opening_micro: int
    changes: list[ChangeAnswer]
    closing: float
    closing_micro: int
    credits: list[CreditLineAnswer]
    usage: list[UsageLineAnswer]
    runs: list[RunLineAnswer]
    reserved: float
    reserved_micro: int
    held: list[HeldLineAnswer]
    problems: list[str]
    org_id: str
