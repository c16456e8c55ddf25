"""Accepted pushes that a person says their provider has lost: the provider is asked first, where it can be.

Guarantee: a push that its provider has is not voided by this way: its usage would be billed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drawdown.providers.protocol import Capabilities, Found, ReadFailed
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused
from drawdown.worker.engine.asking import look_up_all
from drawdown.worker.engine.effects import Steps
from drawdown.worker.engine.waiting import CLOCKS_APART_MS
from drawdown.worker.push.rows import PushRow, request_of


def require_lost(pushes: Sequence[PushRow], known: Mapping[str, Capabilities], now_ms: int) -> Steps[None]:
    """Look up the accepted ones among these at providers that can be asked: `known`, by name.

    Errors: Refused where a provider has one, cannot be read now, or may not show it yet.
    """
    by_provider: dict[str, list[PushRow]] = {}
    for push in pushes:
        if push.state == "accepted" and push.provider in known and known[push.provider].lookup:
            by_provider.setdefault(push.provider, []).append(push)
    for provider, some in sorted(by_provider.items()):
        capabilities = known[provider]
        lag_ms = (capabilities.lookup_lag_ms or 0) + CLOCKS_APART_MS
        for push in some:
            if (until := int(push.settled_ms or push.sealed_at_ms) + lag_ms) > now_ms:
                raise Refused(
                    f"{push.key} was not voided: {provider} may not show it before {utc(until)}. Run it again then"
                )
        answers = yield from look_up_all(provider, [request_of(push, capabilities) for push in some])
        for push, answer in zip(some, answers, strict=True):
            if isinstance(answer, Found) and answer.quantity:
                raise Refused(
                    f"{push.key} was not voided: {provider} has it, and charged {answer.quantity:,}. "
                    f"Its usage would be billed twice. Compare: `drawdown push show {push.key}`"
                )
            if isinstance(answer, ReadFailed):
                raise Refused(
                    f"{push.key} was not voided: {provider} cannot be asked now ({answer.reason}). "
                    f"Run it again, or see `drawdown provider check {provider}`"
                )
