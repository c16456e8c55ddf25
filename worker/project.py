"""Project: copy the provider's verdict onto the organisation.

Guarantee: the provider is asked afresh; a projection carries the time its read began and an older read never
overwrites a newer one; `halted_at` changes only when the verdict does; a state that cannot be read changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerRead, CustomerState, ReadFailed
from drawdown.schema.tables import orgs, projections
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.calls import in_short
from drawdown.worker.context import Context
from drawdown.worker.decide import Overrides, Verdict, verdict
from drawdown.worker.effects import ReadCustomers, Steps, Transaction
from drawdown.worker.shard import Shard

log = structlog.get_logger()

READ_AGAIN_MS = MINUTE_MS
ORGS_A_ROUND = 64
"""Where several can be read at once: enough to keep the line busy, few enough that no verdict waits long for others."""


@dataclass(frozen=True)
class Due:
    """One organisation whose projection is due."""

    org_id: str
    customer_id: str
    asks: int
    """How often it had been asked for: a later ask is not answered by this read."""
    read_before_ms: int | None
    """The read that was last written when this one was asked for."""


@dataclass
class Projected:
    """What projecting changed."""

    read: int = 0
    failed: int = 0
    halted: int = 0
    resumed: int = 0


DUE = """
SELECT o.org_id, a.customer_id, o.projection_asks AS asks, o.projection_read_ms AS read_before_ms
FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.start_ms <= :now AND (a.end_ms IS NULL OR :now < a.end_ms)
WHERE o.projection_due_ms <= :now AND a.provider = :provider AND a.customer_id <> '' AND o.bucket BETWEEN :lo AND :hi
    AND (:org = '' OR o.org_id = :org)
ORDER BY o.projection_due_ms LIMIT :most
"""

# An override that has run out changes the verdict without anything else happening.
OVERRIDES_ENDED = """
UPDATE orgs SET projection_due_ms = :now, projection_asks = projection_asks + 1,
    override_halted = NULL, override_max_concurrent = NULL, override_until_ms = NULL
WHERE override_until_ms <= :now AND bucket BETWEEN :lo AND :hi
"""


def project(context: Context, provider: str, org: str = "") -> Steps[Projected]:
    """Read again every customer of one provider whose organisation is asked for, or one organisation's, and write the
    verdict."""
    done = Projected()
    can = context.capabilities[provider]
    most = can.reads_a_call if can.in_flight == 1 else max(can.reads_a_call, ORGS_A_ROUND)
    seen: set[tuple[str, int]] = set()
    while not context.out_of_time():
        now = context.clock.now_ms()
        due: list[Due] = yield Transaction(
            "projections_due", partial(_due, provider=provider, now=now, most=most, shard=context.shard, org=org)
        )
        if not due or (due[0].org_id, due[0].asks) in seen:
            break
        seen.update((one.org_id, one.asks) for one in due)
        read_ms = context.clock.now_ms()
        states = yield from _read(provider, due)
        yield Transaction(
            "project", partial(_apply, due=due, states=states, read_ms=read_ms, now=context.clock.now_ms(), done=done)
        )
        context.advanced("projected", len(due))
    return done


def _read(provider: str, due: Sequence[Due]) -> Steps[Mapping[str, CustomerRead]]:
    wanted = [one.customer_id for one in due]
    try:
        states: Mapping[str, CustomerRead] = yield ReadCustomers(provider, wanted)
    except Exception as error:  # a broken provider has told us nothing: a balance that cannot be read is not zero
        log.exception("provider_failed", provider=provider, first_org=due[0].org_id)
        return {customer_id: ReadFailed(in_short(error)) for customer_id in wanted}
    return states


def _due(connection: sa.Connection, *, provider: str, now: int, most: int, shard: Shard, org: str) -> list[Due]:
    values = {"now": now, "lo": shard.lo, "hi": shard.hi}
    connection.execute(sa.text(OVERRIDES_ENDED), values)
    rows = connection.execute(sa.text(DUE), {**values, "provider": provider, "most": most, "org": org})
    return [Due(*row) for row in rows]


def _apply(
    connection: sa.Connection,
    *,
    due: Sequence[Due],
    states: Mapping[str, CustomerRead],
    read_ms: int,
    now: int,
    done: Projected,
) -> None:
    asked = {one.org_id: one for one in due}
    current = connection.execute(
        sa.select(orgs).where(orgs.c.org_id.in_(asked)).order_by(orgs.c.org_id).with_for_update()
    ).all()
    changes: list[dict[str, object]] = []
    history: list[dict[str, object]] = []
    for org in current:
        one = asked[org.org_id]
        state = states.get(one.customer_id, ReadFailed("the provider said nothing of this customer"))
        asked_again = org.projection_asks != one.asks
        cleared = org.projection_due_ms if asked_again else None
        if not isinstance(state, CustomerState):
            done.failed += 1
            reason = state.reason if isinstance(state, ReadFailed) else f"there is no customer {one.customer_id}"
            log.warning("customer_not_read", org=org.org_id, reason=reason)
            changes.append(_unchanged(org, due=cleared if asked_again else now + READ_AGAIN_MS))
            continue
        done.read += 1
        if org.projection_read_ms != one.read_before_ms:
            # Another read was written meanwhile, and two machines' clocks cannot tell which is newer: ask again.
            changes.append(_unchanged(org, due=now))
            continue
        found, stamp = decide(org, state, now), max(read_ms, (one.read_before_ms or 0) + 1)
        changes.append(_changed(org, found, due=cleared, read_ms=stamp, now=now))
        if (org.is_halted, org.max_concurrent_sandboxes) != (found.is_halted, found.max_concurrent):
            history.append(transition(org.org_id, found, read_ms=stamp, now=now))
            done.halted += found.is_halted and not org.is_halted
            done.resumed += org.is_halted and not found.is_halted
            log.info("projection_changed", org=org.org_id, halted=found.is_halted, reason=found.reason)
    _write(connection, changes, history)


def decide(org: sa.Row[tuple[object, ...]], state: CustomerState, now: int) -> Verdict:
    """The verdict for an organisation's row and a fresh state."""
    overrides = Overrides(org.operator_halt, org.override_halted, org.override_max_concurrent, org.override_until_ms)
    return verdict(state.balance_micro, state.max_concurrent, overrides, now)


def transition(org_id: str, found: Verdict, *, read_ms: int, now: int) -> dict[str, object]:
    """A row of `projections`."""
    return {
        "org_id": org_id,
        "read_ms": read_ms,
        "at_ms": now,
        "is_halted": found.is_halted,
        "max_concurrent_sandboxes": found.max_concurrent,
        "reason": found.reason,
    }


def _unchanged(org: sa.Row[tuple[object, ...]], *, due: int | None) -> dict[str, object]:
    kept = Verdict(org.is_halted, org.halt_reason, org.max_concurrent_sandboxes)
    return _row(org, kept, due=due, read_ms=org.projection_read_ms, halted_at=org.halted_at)


def _changed(
    org: sa.Row[tuple[object, ...]], found: Verdict, *, due: int | None, read_ms: int, now: int
) -> dict[str, object]:
    since = org.halted_at if org.is_halted else now  # a transition only: a grace period must be able to end
    return _row(org, found, due=due, read_ms=read_ms, halted_at=since if found.is_halted else None)


def _row(
    org: sa.Row[tuple[object, ...]], found: Verdict, *, due: int | None, read_ms: int | None, halted_at: int | None
) -> dict[str, object]:
    return {
        "name": org.org_id,
        "halted": found.is_halted,
        "since": halted_at,
        "why": found.reason,
        "most": found.max_concurrent,
        "read": read_ms,
        "due": due,
    }


def _write(
    connection: sa.Connection, changes: Sequence[dict[str, object]], history: Sequence[dict[str, object]]
) -> None:
    if changes:
        connection.execute(
            orgs.update()
            .where(orgs.c.org_id == sa.bindparam("name"))
            .values(
                is_halted=sa.bindparam("halted"),
                halted_at=sa.bindparam("since"),
                halt_reason=sa.bindparam("why"),
                max_concurrent_sandboxes=sa.bindparam("most"),
                projection_read_ms=sa.bindparam("read"),
                projection_due_ms=sa.bindparam("due"),
            ),
            list(changes),
        )
    if history:
        connection.execute(projections.insert(), list(history))
