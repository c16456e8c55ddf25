"""Calls that move credit, decided in transactions that they share: uses, the ends of uses, and acts on runs.

Guarantee: each is answered as if it had come alone, after the commit, and finds its API key again in its transaction. A
call that has to be decided alone is handed back to its route (NotTogether), and nothing of it is kept.
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
    """A call, and the key that it came by."""

    key: ApiKey
    call: Call


Decided: TypeAlias = tuple[ApiKey | None, Any]
"""The key as it is now (None: it is over), and the answer."""


def _decide_all(connection: sa.Connection, orders: Sequence[Order], now_ms: int) -> list[Decided | DrawdownError]:
    proofs, calls = [one.key.proof for one in orders], [one.call for one in orders]
    keys, answers = grouped.do_all(connection, proofs, calls, now_ms)
    return [
        answer if isinstance(answer, NotTogether) else (keys.get(proof), answer)
        for proof, answer in zip(proofs, answers, strict=True)
    ]


WAY: Final = Way[Order, Decided](lambda _order: None, _decide_all, None, lambda order: order.key.org_id is None)
"""All of them share one lane: while a transaction is decided, the next calls gather."""


class PaymentCalls:
    """The lane of one server."""

    def __init__(self, programs: Programs) -> None:
        self._lane = programs.batch_requests(WAY)

    async def ask(self, key: ApiKey, call: Call, remember: Callable[[ApiKey], None]) -> Any:
        """Decide a call with others. `remember`: gets the key as it is now, if it is still valid.

        Errors: NotTogether if it has to be decided alone, by a key that is found again; ApiError 401, 429;
        DatabaseBusy.
        """
        found, answer = await self._lane.ask(Order(key, call))
        if found is None:
            raise unauthorized()
        remember(found)
        return answer
