"""Only one may fill a wallet: a payment service that tops its customer up by itself is asked first.

Guarantee: asks, and changes nothing. What a service does not tell now it is asked again before each charge.
"""

from __future__ import annotations

from drawdown.providers.payments.protocol import InDoubt, NotSent
from drawdown.schema.errors import Refused
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import AskWhoFills, Steps


def require_only_one(context: Context, service: str, service_customer: str) -> Steps[InDoubt | None]:
    """Nobody is armed whom the payment service tops up by itself; InDoubt where it does not tell.

    Errors: Refused.
    """
    if service in context.dormant_payments:
        return None
    found: NotSent | InDoubt | None = yield AskWhoFills(service, service_customer, context.out_of_time)
    if isinstance(found, NotSent):
        raise Refused(f"{service} charges {service_customer} for nobody here: {found.reason}")
    return found
