"""GET /v1/gate/{org_id}: may a sandbox be made or woken?

Guarantee: the answer is the guard's decision (`guard/decide.py`) by one read of the organisation's row. The provider is
read again for an organisation that is halted, or was never projected: at most every ten seconds and one call at a time,
across all processes. Each provider has a bound of reads a second for all its organisations together, since no caller of
the gate proves its identity. The answer is the new verdict if it comes in time, else the stored one. In doubt the gate
is closed, unless the settings say otherwise.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import structlog

from drawdown.guard.decide import Facts, decide
from drawdown.schema.ids import is_clean_id
from drawdown.server.http.callers import TokenBuckets
from drawdown.server.http.errors import ApiError
from drawdown.server.http.limits import describe_error
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.step_threads import StepThreads
from drawdown.worker.guard.use import options_of
from drawdown.worker.verdict.refresh_requests import ASK_EVERY_MS, Gated, end_request, in_doubt, may_ask, read_gated

log = structlog.get_logger()

FRESH_WITHIN_S: Final = 1.0
"""Longest time that the gate waits for a fresh verdict."""
READ_WITHIN_S: Final = 2.0
"""Longest time that the gate waits for the database."""
READS_AT_ONCE: Final = 2
"""Concurrent reads of the gate, on threads of its own: other routes do not delay them."""
LIMIT_ZERO: Final = "limit_zero"
"""The reason of a closed gate by a limit: hosts count what runs, so that only a limit of none is passed here."""
MOST_REMEMBERED: Final = 10_000
"""Organisations with a remembered refresh request."""
ASKS_PER_S: Final = 20
"""Average reads a second that the gate of one process makes at one provider. A burst may have twice as many. Ticks
and the watch make the other reads."""


class Gate:
    """The gate of one process; facts that must hold across processes are in the database."""

    def __init__(self, services: Services, threads: Threads, reading: Threads, step_threads: StepThreads) -> None:
        """`reading`: threads of the gate's own, READS_AT_ONCE of them."""
        self._services = services
        self._threads = threads
        self._reading = reading
        self._step_threads = step_threads
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._rate = TokenBuckets(ASKS_PER_S)

    def close(self) -> None:
        self._reading.close()

    async def answer(self, org_id: str) -> dict[str, object]:
        """Return the answer. Errors: ApiError 404 for an unknown organisation, if the setting requires it."""
        try:
            found = await self._read(org_id)
            if found is not None and await self._asked_again(org_id, found):
                found = await self._read(org_id) or found
        except Exception as error:
            log.error("gate_in_doubt", org=org_id, **describe_error(error))
            facts = in_doubt("database_unreadable", allowed=self._services.settings.gate_open_when_in_doubt)
            return decided(org_id, facts, None, None)
        if found is None:
            return self._unknown(org_id)
        return self._verdict(org_id, found)

    async def _read(self, org_id: str) -> Gated | None:
        if not is_clean_id(org_id):
            return None
        reading = self._reading.read(lambda connection: read_gated(connection, org_id))
        return await asyncio.wait_for(reading, READ_WITHIN_S)

    def _would_ask(self, found: Gated) -> bool:
        """Return True if the provider's answer could open it."""
        shut = found.is_halted or found.projection_read_ms is None
        return bool(shut and found.halt_reason != "operator" and found.billing_provider in self._services.providers)

    def _verdict(self, org_id: str, found: Gated) -> dict[str, object]:
        facts = found.facts(open_in_doubt=self._services.settings.gate_open_when_in_doubt)
        return decided(org_id, facts, found.max_concurrent_sandboxes, found.projection_read_ms)

    def _unknown(self, org_id: str) -> dict[str, object]:
        wanted = self._services.settings.gate_unknown_org
        if wanted == "not_found":
            raise ApiError(404, "unknown_org", "unknown organisation. Check the id")
        return decided(org_id, in_doubt("unknown_org", allowed=wanted == "allow"), None, None)

    async def _asked_again(self, org_id: str, found: Gated) -> bool:
        """Wait a short time for a new verdict; returns True if one was requested now."""
        if not self._would_ask(found):
            return False
        task = self._asking.get(org_id)
        if task is None:
            now = self._services.clock.now_ms()
            before = self._asked.get(org_id)
            if before is not None and 0 <= now - before < ASK_EVERY_MS:
                return False
            if not self._rate.take(str(found.billing_provider), now):
                return False
            self._asked[org_id] = now
            self._asked.move_to_end(org_id)
            if len(self._asked) > MOST_REMEMBERED:
                self._asked.popitem(last=False)
            task = self._asking[org_id] = asyncio.create_task(self._ask(org_id))
            task.add_done_callback(lambda _done: self._asking.pop(org_id, None))
        await asyncio.wait([task], timeout=FRESH_WITHIN_S)
        return True

    async def _ask(self, org_id: str) -> None:
        clock = self._services.clock
        try:
            # The time is taken in the transaction: one that waited for its thread is late, and not from another clock.
            may = await self._threads.write(lambda connection: may_ask(connection, org_id, clock.now_ms()))
            if may is None:
                return
            reading = self._step_threads.read_again(org_id, may.provider)
            if reading is not None:
                await asyncio.wrap_future(reading)
            await self._threads.write(lambda connection: end_request(connection, org_id, may.at_ms))
        except Exception as error:  # the stored verdict holds
            log.error("gate_ask_failed", org=org_id, **describe_error(error))


def decided(org_id: str, facts: Facts, most: int | None, as_of_ms: int | None) -> dict[str, object]:
    """A `GateAnswer`: may one sandbox more be made?"""
    verdict = decide(facts, 1)
    allowed = verdict.decision != "block"
    degraded = facts.degraded and (allowed or verdict.rule == "credits")
    reason = facts.no_credit if degraded else None  # a gate that is open in doubt says why it is in doubt
    if not allowed:
        reason = LIMIT_ZERO if verdict.reason == "limit" else verdict.reason
    return {
        "org_id": org_id,
        "allowed": allowed,
        "reason": reason,
        "max_concurrent_sandboxes": most,
        "as_of": None if as_of_ms is None else iso(as_of_ms),
        "decision": verdict.decision,
        "rule": verdict.rule,
        "options": options_of(verdict),
        "degraded": degraded,
    }


def iso(ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC).isoformat()[:19]}.{ms % 1000:03d}Z"
