"""Decide calls that move credit in shared transactions.

The calls are uses, ends of uses, and changes of executions.

Guarantee: each call gets the response that it would get alone, after the commit. Its transaction reads its API key
again. If a call must be decided alone, its route gets NotTogether, and Drawdown does not store any part of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.reservations import NotTogether
from drawdown.schema.errors import DrawdownError
from drawdown.server.api.programs import Programs
from drawdown.server.api.request_batching import Way
from drawdown.server.http.errors import unauthorized
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.guard import grouped
from drawdown.worker.guard.grouped import Call


@dataclass(frozen=True)
class Order:
    """A call, with its API key."""

    key: ApiKey
    call: Call


Decided: TypeAlias = tuple[ApiKey | None, Any]
"""The API key of a call as read again, and the result. The key is None if it expired or was revoked."""


def _decide_all(connection: sa.Connection, orders: Sequence[Order], now_ms: int) -> list[Decided | DrawdownError]:
    proofs, calls = [one.key.proof for one in orders], [one.call for one in orders]
    keys, answers = grouped.do_all(connection, proofs, calls, now_ms)
    return [
        answer if isinstance(answer, NotTogether) else (keys.get(proof), answer)
        for proof, answer in zip(proofs, answers, strict=True)
    ]


WAY: Final = Way[Order, Decided](lambda _order: None, _decide_all, None, lambda order: order.key.org_id is None)
"""The batching of calls, which all share one queue.

While a transaction runs, the next calls wait to share the next transaction.
"""


class PaymentCalls:
    """The queue of one server for calls that move credit."""

    def __init__(self, programs: Programs) -> None:
        self._lane = programs.batch_requests(WAY)

    async def ask(self, key: ApiKey, call: Call, remember: Callable[[ApiKey], None]) -> Any:
        """Return the result of a call, which shares a transaction with other calls.

        `remember`: a function that receives the key as read again, if the key is still valid. Errors: NotTogether if
        the call must be decided alone, with the key read again; ApiError 401, 429; DatabaseBusy; DatabaseNotReady.
        """
        found, answer = await self._lane.ask(Order(key, call))
        if found is None:
            raise unauthorized()
        remember(found)
        return answer
