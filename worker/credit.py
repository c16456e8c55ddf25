"""What an operator changes in the embedded ledger.

Guarantee: organisations whose verdict may change by it are marked, so that the next tick asks again.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import next_window
from drawdown.worker.actions import record
from drawdown.worker.features import FEATURE
from drawdown.worker.orgs import Said, mark_for_projection
from drawdown.worker.sample_values import is_clean_id


def grant(
    connection: sa.Connection, customer_id: str, amount_micro: int, said: Said, *, key: str | None, plan: str | None
) -> int:
    """Give credit, in micro-credits; returns the balance. Without a key each call is a grant of its own.

    Errors: Refused for a key used before with another amount or customer, or an unknown plan.
    """
    if not is_clean_id(customer_id):
        raise UsageError("a customer's id has 1 to 200 characters, none of them control characters")
    action_id = connection.execute(sa.text("SELECT COUNT(*) FROM operator_actions")).scalar_one()
    name = f"grant:{key}" if key else f"grant:{customer_id}:{said.now_ms}:{action_id}"
    if plan is not None:
        wallet.set_plan(connection, customer_id, plan)
    balance = wallet.grant(
        connection, customer_id, amount_micro, key=name, now_ms=said.now_ms, actor=said.actor, reason=said.reason
    )
    details = {"amount_micro": amount_micro, "key": name, "plan": plan}
    record(connection, "ledger_grant", customer_id, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    orgs = connection.execute(
        sa.text("SELECT org_id FROM assignments WHERE provider = 'embedded' AND customer_id = :customer"),
        {"customer": customer_id},
    ).scalars()
    mark_for_projection(connection, [str(org) for org in orgs], said.now_ms)
    return balance


def wallet_of(connection: sa.Connection, customer_id: str) -> wallet.Wallet:
    """A customer's wallet; empty where it was never used."""
    return wallet.read_wallets(connection, [customer_id])[customer_id]


def set_rate(
    connection: sa.Connection, feature: str, micro_credits: int, per_quantity: int, said: Said, *, from_ms: int | None
) -> int:
    """Set what `per_quantity` base units of a feature cost, for usage from a window on; returns that window.

    A feature's first rate counts for all its usage, later ones from the next window boundary on.
    Errors: UsageError for a name no feature has; Refused for a second rate from the same window on.
    """
    if not FEATURE.fullmatch(feature):
        raise UsageError(
            "a feature's name is made of a-z, 0-9 and _, at most 64 of them, and is no number or r and a number"
        )
    known = [rate for rate in wallet.read_rates(connection) if rate.feature == feature]
    start = from_ms if from_ms is not None else (next_window(said.now_ms) if known else 0)
    if any(rate.start_ms == start for rate in known):
        raise Refused(f"{feature} has a rate from then on already; rates are append-only, begin a new one later")
    connection.execute(
        sa.text(
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "VALUES (:feature, :start, :micro, :per, :now, :actor, :reason)"
        ),
        {
            "feature": feature,
            "start": start,
            "micro": micro_credits,
            "per": per_quantity,
            "now": said.now_ms,
            "actor": said.actor,
            "reason": said.reason,
        },
    )
    details = {"micro_credits": micro_credits, "per_quantity": per_quantity, "start_ms": start}
    record(connection, "ledger_rate", feature, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    return start


def set_plan_limit(connection: sa.Connection, plan: str, max_concurrent: int, said: Said) -> None:
    """Make a plan, or change how many sandboxes at once it allows."""
    connection.execute(
        sa.text(
            "INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES (:plan, :most) "
            "ON CONFLICT (plan) DO UPDATE SET max_concurrent_sandboxes = excluded.max_concurrent_sandboxes"
        ),
        {"plan": plan, "most": max_concurrent},
    )
    details = {"max_concurrent": max_concurrent}
    record(connection, "ledger_plan", plan, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    orgs = connection.execute(
        sa.text(
            "SELECT a.org_id FROM assignments a JOIN ledger_accounts l ON l.account_id = 'wallet:' || a.customer_id "
            "WHERE a.provider = 'embedded' AND a.end_ms IS NULL AND l.plan = :plan"
        ),
        {"plan": plan},
    ).scalars()
    mark_for_projection(connection, [str(org) for org in orgs], said.now_ms)
