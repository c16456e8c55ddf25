"""Define the state of an organisation, as `org_status` reads it.

This module is pure.

Guarantee: each field has its name in `--json`.
"""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.worker.verdict.effective_balance import Credit, VerdictChange


@dataclass(frozen=True)
class AssignmentRow:
    """The provider and customer of an organisation in [start_ms, end_ms)."""

    start_ms: int
    end_ms: int | None
    provider: str
    customer_id: str
    actor: str
    reason: str


@dataclass(frozen=True)
class PendingSize:
    """Pending usage of one memory size or event type, for one reason."""

    reason: str
    memory_mb: int
    seconds: int
    samples: int
    since_ms: int
    event_type: str | None = None
    """The event type of the meter in `memory_mb`. In that case, `seconds` are its units."""


@dataclass(frozen=True)
class PushState:
    """Pushes of one state, provider and feature.

    `quantity`: base units to send.
    """

    state: str
    provider: str
    feature: str
    pushes: int
    quantity: int


@dataclass(frozen=True)
class HaltRow:
    """A halt at a cell. `halted_at`: the start of the halt, in milliseconds.

    `due_at_ms`: the time of the next try (None: not due). `acked_at_ms`: the time of the cell's acknowledgement (None:
    not acknowledged).
    """

    cell_id: str
    halted_at: int
    due_at_ms: int | None
    acked_at_ms: int | None
    attempts: int
    last_error: str | None


@dataclass(frozen=True)
class OrgStatus:
    """An organisation's row, without columns of the seal, and its related rows.

    Fields of the verdict are as in `OrgState`. `registered`: False if only its samples name the organisation. `credit`
    None: the organisation is not billed.
    """

    org_id: str
    registered: bool
    billing_provider: str | None
    is_halted: bool
    halted_at: int | None
    max_concurrent_sandboxes: int | None
    halt_reason: str | None
    projection_read_ms: int | None
    projection_due_ms: int | None
    refresh_requests: int
    refresh_deadline_ms: int | None
    """The latest time of the next read of its provider. A push can cause an earlier read."""
    operator_halt: bool
    override_halted: bool | None
    override_max_concurrent: int | None
    override_until_ms: int | None
    balance_micro: int | None
    balance_read_ms: int | None
    plan: str | None
    refused: str | None
    """Features that a limit of the provider refuses although the balance lasts."""
    unconfirmed_micro: int | None
    unread_since_ms: int | None
    watch_due_ms: int | None
    resume_above_micro: int | None
    floor_ms: int
    stopped_at_ms: int | None
    stopped_reason: str | None
    watermark_ms: int | None
    """The end of its sealed windows."""
    assignments: list[AssignmentRow]
    pending: list[PendingSize]
    pushes: list[PushState]
    halts: list[HaltRow]
    credit: Credit | None
    verdicts: list[VerdictChange]
