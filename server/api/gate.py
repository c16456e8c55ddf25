"""Serve GET /v1/gate/{org_id}: whether a sandbox may be created or woken.

Guarantee: the response is the guard's decision (`guard/decide.py`) by one read of the organisation's row. The gate
reads the provider again if the organisation was never projected, or if it is halted but not by an operator. All
processes together read an organisation at most every ten seconds, with one call at a time. Callers of the gate are not
authenticated, so all organisations at a provider share a limit of reads a second. If the new verdict arrives in time,
the gate returns it; otherwise it returns the stored verdict. If the verdict is unknown, the gate is closed unless a
setting opens it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import structlog

from drawdown.guard.decide import Facts, decide
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
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
"""Concurrent reads of the gate, on its own threads.

Other routes do not delay them.
"""
LIMIT_ZERO: Final = "limit_zero"
"""Reason of a gate that a limit of zero closes.

Hosts enforce any other limit, because hosts count running sandboxes.
"""
MOST_REMEMBERED: Final = 10_000
"""Organisations for which the gate remembers a refresh request."""
ASKS_PER_S: Final = 20
"""Average reads a second that the gate of one process makes at one provider.

A burst may have twice as many. Reads by ticks and the watch do not count.
"""


class Gate:
    """The gate that one process serves.

    The database stores the facts that all processes share.
    """

    def __init__(self, services: Services, threads: Threads, reading: Threads, step_threads: StepThreads) -> None:
        """Store the parts of the gate.

        `reading`: the gate's own threads, READS_AT_ONCE of them.
        """
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
        """Return the gate's answer for an organisation.

        Errors: ApiError 404 for an unknown organisation, if the setting requires it.
        """
        found = None
        try:
            found = await self._read(org_id)
            if found is not None and await self._asked_again(org_id, found):
                found = await self._read(org_id) or found
        except Exception as error:
            log.error("gate_in_doubt", org=org_id, **describe_error(error))
            if found is None:
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
        """Return True if a new read of the provider could open the gate."""
        shut = found.is_halted or found.projection_read_ms is None
        return bool(shut and found.halt_reason != "operator" and found.billing_provider in self._services.providers)

    def _verdict(self, org_id: str, found: Gated) -> dict[str, object]:
        facts = found.facts(open_in_doubt=self._services.settings.gate_open_when_in_doubt)
        return decided(org_id, facts, found.max_concurrent_sandboxes, found.projection_read_ms)

    def _unknown(self, org_id: str) -> dict[str, object]:
        wanted = self._services.settings.gate_unknown_org
        if wanted == "not_found":
            raise ApiError(404, "unknown_org", f"unknown organisation {quote_value(org_id)}. Check the id")
        return decided(org_id, in_doubt("unknown_org", allowed=wanted == "allow"), None, None)

    async def _asked_again(self, org_id: str, found: Gated) -> bool:
        """Wait up to FRESH_WITHIN_S for a new verdict.

        Return True if the gate waited for a read of the provider.
        """
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
            # Read the time in the transaction, because the thread may have waited before it.
            may = await self._threads.write(lambda connection: may_ask(connection, org_id, clock.now_ms()))
            if may is None:
                return
            reading = self._step_threads.read_again(org_id, may.provider)
            if reading is not None:
                await asyncio.wrap_future(reading)
            await self._threads.write(lambda connection: end_request(connection, org_id, may.at_ms))
        except Exception as error:  # the stored verdict stays in force
            log.error("gate_ask_failed", org=org_id, **describe_error(error))


def decided(org_id: str, facts: Facts, most: int | None, as_of_ms: int | None) -> dict[str, object]:
    """Return a `GateAnswer`: whether one more sandbox may be created."""
    verdict = decide(facts, 1)
    allowed = verdict.decision != "block"
    degraded = facts.degraded and (allowed or verdict.rule == "credits")
    reason = facts.no_credit if degraded else None  # if the gate is open, give the cause of the unknown credit
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
    """Return a time in ISO 8601, UTC, with milliseconds."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC).isoformat()[:19]}.{ms % 1000:03d}Z"
