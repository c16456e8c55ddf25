"""Offer the state of an organisation to the CLI, the HTTP API and the console."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Column, Look, OrgId, Showing
from drawdown.worker.status.status import org_status
from drawdown.worker.verdict.org_state import OrgStatus


def _show(connection: sa.Connection, look: Look, org_id: OrgId) -> OrgStatus:
    return org_status(connection, org_id, look.now_ms)


def _verdict(is_halted: bool) -> str:
    return "halted" if is_halted else "runs"


LISTS: Final = (
    Showing(
        "org show",
        "Organisation",
        "Show the state of one organisation.",
        _show,
        path="/v1/orgs/{org_id}",
        scope="orgs:read",
        most=0,
        parts={
            "assignments": (
                "Billed by",
                (Column("start_ms", "from"), Column("end_ms", "to"), "provider", Column("customer_id", "customer")),
            ),
            "credit.holders": (
                "Reserved, the most first",
                (Column("reservation", "execution"), Column("left_micro", "#credits"), Column("expires_ms", "until")),
            ),
            "verdicts": (
                "Verdicts, newest first",
                (
                    "at_ms", Column("is_halted", "verdict", _verdict), "reason",
                    Column("max_concurrent_sandboxes", "#at once"), "balance_micro", "unaccepted_micro",
                    "unsealed_micro", "held_micro",
                ),
            ),
            "pending": (
                "Pending usage",
                ("reason", Column("memory_mb", "#MB"), Column("event_type", "event type", rare=True),
                 Column("seconds", "#seconds or units"), Column("samples", "#samples"), "since_ms"),
            ),
            "pushes": (
                "Pushes", ("state", "provider", "feature", Column("pushes", "#pushes"), Column("quantity", "#quantity"))
            ),
            "halts": (
                "Halts",
                (Column("cell_id", "cell"), Column("halted_at", "halted"), "due_at_ms", "acked_at_ms",
                 "attempts", "last_error"),
            ),
        },
    ),
)  # fmt: skip
