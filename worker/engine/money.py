"""Calls to a payment service: so many at once, within the time there is.

Guarantee: a charge that was not begun is answered as not sent. One that was, and got no answer in time, is in doubt; so
is one whose service broke its contract. One that hangs holds up nobody for longer than the time that is left, and
`LAST_CHARGES_S`.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from drawdown.providers.payments.protocol import Charge, ChargeResult, FillsItself, InDoubt, NotSent, PaymentService
from drawdown.schema.clock import Clock
from drawdown.schema.text import in_short
from drawdown.worker.engine.effects import NOT_SENT, AskWhoFills, ChargeMoney, LookUpMoney
from drawdown.worker.engine.flight import POLL_S, Flight

log = structlog.get_logger()

PAYMENTS_AT_ONCE: Final = 8
"""Calls to one payment service under way together."""
LAST_CHARGES_S: Final = 5.0
"""Once time is up, charges under way are waited for so long: each that is given up has to be looked up."""


async def answers(service: PaymentService, effect: ChargeMoney | LookUpMoney, clock: Clock) -> list[ChargeResult]:
    """What the service says of each, in order."""
    charges = isinstance(effect, ChargeMoney)

    def instead(_place: int, begun: bool) -> ChargeResult:
        if charges and not begun:
            return NotSent(NOT_SENT, clock.now_ms())
        return InDoubt("no answer before time was up")

    flight = Flight[ChargeResult](len(effect.charges), effect.over, instead, grace_s=LAST_CHARGES_S if charges else 0.0)
    places = iter(range(len(effect.charges)))

    async def work() -> None:
        for place in places:
            if flight.over():
                return
            flight.begin([place])
            flight.answer(place, await _answer(service, effect.charges[place], charges=charges))

    flight.start([work] * min(PAYMENTS_AT_ONCE, len(effect.charges)))
    found: dict[int, ChargeResult] = {}
    try:
        while not flight.done:
            found.update(await flight.fetch())
    finally:
        await flight.close()
    return [found[place] for place in range(len(effect.charges))]


async def _answer(service: PaymentService, request: Charge, *, charges: bool) -> ChargeResult:
    try:
        answer = await (service.charge(request) if charges else service.look_up(request))
        assert isinstance(answer, ChargeResult), f"{type(answer).__name__} is no answer"
    except Exception as error:  # it has told us nothing about what was taken
        log.exception("payment_service_failed", service=service.name, charge=request.charge_id)
        return InDoubt(in_short(error))
    return answer


async def who_fills(service: PaymentService, effect: AskWhoFills) -> NotSent | InDoubt | None:
    """Whether the service tops a customer up by itself; one that hangs is waited for until it is `over`."""
    if service.dormant is not None or not isinstance(service, FillsItself):
        return None
    task = asyncio.ensure_future(service.fills_itself(effect.customer_id))
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            if not task.done() and effect.over():
                return InDoubt("no answer before time was up")
    finally:
        task.cancel()
    try:
        return task.result()
    except Exception as error:  # it has told us nothing of who fills
        log.exception("payment_service_failed", service=service.name, customer=effect.customer_id)
        return InDoubt(in_short(error))
