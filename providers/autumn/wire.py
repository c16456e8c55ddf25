"""Autumn's calls for billing, and the outcomes that its responses prove.

Guarantee: this module is pure. The outcome is Accepted only if the response itself shows the charge. It is Rejected or
RetryAt only if Autumn is known not to have charged. Any other outcome is Duplicate, Unknown or Queued, and is looked
up. Drawdown removes texts that look like a key from the messages of Autumn that it quotes. The facts are from a
recording of a running server (API 2.3.0, August 2026), and the code names each fact that it uses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from drawdown.providers.autumn.credits import Costs, Untold, charged, whole
from drawdown.providers.autumn.credits import deducted as deducted
from drawdown.providers.autumn.credits import number as number
from drawdown.providers.autumn.settings import ID
from drawdown.providers.http import Answer, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.answers import backoff_ms as backoff_ms
from drawdown.providers.kit.answers import json_object
from drawdown.providers.kit.answers import retry_after_ms as retry_after_ms
from drawdown.providers.protocol import Accepted, Duplicate, Outcome, PushRequest, Queued, Rejected, RetryAt, Unknown
from drawdown.schema.text import counted
from drawdown.schema.units import MINUTE_MS, SECOND_MS

VERSION: Final = "2.3.0"
"""The API version of each call.

The shape of responses depends on the version. Without the header, the account's version applies.
"""
KEY_PROPERTY: Final = "drawdown_key"
"""The property with our key.

The list of events returns `properties`, and not the idempotency key.
"""
BODY_KEY: Final = "idempotency_key"
HEADER_PREFIX: Final = "drawdown-usage-"
MAX_QUANTITY: Final = 2**53 - 1
"""Largest quantity of one charge at Autumn.

Autumn sums in binary floating point, which loses a unit above this quantity.
"""

CONFIRM_MS: Final = 45 * SECOND_MS
"""Milliseconds from a 202 until Drawdown looks up the charge.

In recorded calls, Autumn applied the charge about 30 s later.
"""
REFUSED_MS: Final = 5 * MINUTE_MS
"""Milliseconds before a retry after Autumn refused the key or the version.

A person must fix such a fault.
"""

_CODE: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+){1,10}")
"""The form of every recorded code: words and underscores."""
_SECRETS: Final = re.compile(r"\b(?:am|sk|pk|whsec)_[A-Za-z0-9_*+/=-]+|[Bb]earer\s+\S+")


@dataclass(frozen=True)
class WireAnswer:
    """A response of Autumn that reports an error.

    `status`: its HTTP status. `code`: Autumn's code; None if the body is not Autumn's JSON, so the sender is unknown.
    """

    status: int
    code: str | None
    message: str

    def __str__(self) -> str:
        told = f" {self.code}" if self.code else ""
        return f"HTTP {self.status}{told}{f': {self.message}' if self.message else ''}"


def track(request: PushRequest, *, body_key: bool = True) -> dict[str, object]:
    """Return the body of one charge, in the safe form.

    - `overflow` is set, because otherwise the deduction stops at zero, and the key is used up.
    - The time is in milliseconds, because Autumn would read seconds as a moment in 1970.
    - The key is in the body too, because Autumn's events have a unique constraint on it. All routes of the account
      share the namespace of the header, so the header has another key.

    `body_key` False: for a server that refuses the key in the body. Then the header's key alone prevents a second
    charge, and lookups find the event by the property.
    """
    body: dict[str, object] = {
        "customer_id": request.customer_id,
        "feature_id": request.feature,
        "value": request.quantity,
        "timestamp": request.ts,
        "overage_behavior": "overflow",
        "properties": {KEY_PROPERTY: request.key},
    }
    return body | {BODY_KEY: request.key} if body_key else body


CHECK_OF_KEY: Final[Mapping[str, object]] = {
    "customer_id": "drawdown-check",
    "feature_id": "drawdown-check",
    "value": "0",
    BODY_KEY: "drawdown-check",
}
"""A charge that Autumn always refuses with 400 `invalid_inputs` (observed in a recorded call).

Its value is not a number, so Autumn refuses it before it does anything. If the response is about the key in the body, a
real charge would get the same response.
"""


def refuses_body_key(result: HttpResult) -> bool:
    """Return True if a 400 is about the key in the body.

    Autumn's schema marks that key as internal, and its documentation no longer has it. Autumn did not charge, and
    released both keys, as after each 4xx (observed in recorded calls).
    """
    if not isinstance(result, Answer) or result.status != 400:
        return False
    said = read_said(result)
    return said.code is not None and BODY_KEY in said.message


def header_key(key: str) -> str:
    """Return the key for the header `Idempotency-Key`, in addition to the body's key.

    Each key alone prevents a second charge. Customers and routes share the header's namespace, and it also stores the
    body's keys, as `track:KEY` (observed in a recorded 409). So a header key with that prefix would be refused because
    of our own body. The prefix here is Drawdown's, and for charges only. In recorded calls, Autumn released both keys
    after a 4xx, and accepted a charge with both.
    """
    return HEADER_PREFIX + hashlib.sha256(key.encode()).hexdigest()


def unsendable(request: PushRequest) -> Rejected | None:
    """Return a rejection of a push that Autumn would refuse or count wrongly.

    Return None if it can be sent.
    """
    if not ID.fullmatch(request.customer_id):
        return Rejected(
            f"unsent: Autumn rejects the customer id {request.customer_id!r}: only letters, digits, _ - and : are "
            "valid. Assign the organisation to the customer's id at Autumn"
        )
    if not ID.fullmatch(request.feature):
        return Rejected(
            f"unsent: Autumn rejects the feature id {request.feature!r}: only letters, digits, _ - and : are valid. "
            "Map the usage to another feature"
        )
    if abs(request.quantity) > MAX_QUANTITY:
        return Rejected("unsent: Autumn counts in floating point, and this quantity is above 2^53")
    return None


def outcome(request: PushRequest, result: HttpResult, now_ms: int, costs: Costs = MappingProxyType({})) -> Outcome:
    """Return the outcome of one charge.

    `costs`: all known costs of its feature, by credit system.
    """
    match result:
        case NotSent(reason):
            return RetryAt(now_ms + backoff_ms(request.attempt), f"not sent: {reason}")
        case NoAnswer(reason):
            # Autumn was killed between claim and deduction, or the connection broke after the charge. Both were
            # observed.
            return Unknown(f"no response: {reason}")
        case Answer(status=200):
            return _of_success(request, result, now_ms, costs)
        case Answer(status=202):
            # A store is down, or the account is above its cap. Autumn charges later, or drops the charge silently.
            return Queued(now_ms + CONFIRM_MS)
    return _of_refusal(request, result, now_ms)


def _of_success(request: PushRequest, answer: Answer, now_ms: int, costs: Costs = MappingProxyType({})) -> Outcome:
    """Return the outcome of a 200.

    The response proves only the sum of its `deductions`.
    """
    body = parse(answer.body)
    if body is None or body.get("customer_id") != request.customer_id:
        return Unknown("HTTP 200 with a body that is not Autumn's response to this charge")
    taken = deducted(body, request.feature)
    if taken is None:
        return Unknown("HTTP 200 without the deducted quantity")
    applied = charged(taken, Decimal(request.quantity), costs)
    if isinstance(applied, Untold):
        return Queued(now_ms + CONFIRM_MS)
    if whole(applied.quantity) == request.quantity:
        return Accepted(cost=applied.cost)
    if applied.quantity == 0:
        return _uncharged(request, body)
    # The key is used up, and another quantity was charged. The lookup finds it, and the next seal bills the rest.
    return Queued(now_ms + CONFIRM_MS)


def is_unmatched(request: PushRequest, result: HttpResult, found: Outcome) -> bool:
    """Return True if no known cost converts the credits to the requested quantity."""
    if not isinstance(found, Queued) or not isinstance(result, Answer) or result.status != 200:
        return False
    body = parse(result.body)
    taken = None if body is None else deducted(body, request.feature)
    return taken is not None and bool(taken.credits)


def _uncharged(request: PushRequest, body: Mapping[str, object]) -> Rejected:
    """Return the rejection of a charge without a deduction or refund.

    In recorded calls, Autumn uses up the key although it does not charge. It would report a retry as a duplicate.
    """
    customer, feature, quantity = request.customer_id, request.feature, request.quantity
    if quantity < 0:
        why = f"the balance of {feature} is already as high as it was granted"
        if body.get("balance") is None:
            why = f"customer {customer} no longer has a balance of {feature}"
        return Rejected(
            f"Autumn did not refund: {why}. Drawdown refunds the usage once Autumn shows credit. To "
            "settle it sooner, "
            f"run `drawdown push resolve KEY --outcome accepted --evidence TEXT`, then credit "
            f"{counted(-quantity, 'unit')} on an invoice",
            until_credit=True,
        )
    why = f"customer {customer} has a balance of {feature}, but a limit at Autumn does not allow more use of it"
    if body.get("balance") is None:
        why = f"customer {customer} does not have a balance of {feature}"
    return Rejected(
        f"Autumn charged nothing: {why}. Drawdown bills this usage again once Autumn shows credit. "
        "Grant credit, or raise the limit",
        until_credit=True,
    )


def costs_nothing(request: PushRequest, system: str) -> Rejected:
    """Return the rejection of a charge that costs zero, so Autumn did not deduct.

    More credit would not change the outcome.
    """
    return Rejected(
        f"Autumn charged nothing: feature {request.feature} costs 0 in credit system {system}. "
        "Set a cost above zero at Autumn, then run `drawdown push retry --state rejected --error 'costs 0 in'`"
    )


def in_no_system(request: PushRequest) -> Rejected:
    """Return the rejection of a charge of a feature without a credit system.

    More credit of the customer would not change the outcome.
    """
    return Rejected(
        f"Autumn charged nothing: feature {request.feature} is not in a credit system, and customer "
        f"{request.customer_id} does not have a balance of it. Add it to the credit system at Autumn, then "
        "run `drawdown push retry --state rejected --error 'not in a credit system'`"
    )


def has_no_balance(request: PushRequest, result: HttpResult, found: Outcome) -> bool:
    """Return True if Autumn did not deduct, and its response does not show a balance.

    Return False for a refund.
    """
    if not isinstance(found, Rejected) or not isinstance(result, Answer) or result.status != 200:
        return False
    body = parse(result.body)
    return request.quantity > 0 and body is not None and body.get("balance") is None


def _of_refusal(request: PushRequest, answer: Answer, now_ms: int) -> Outcome:
    said = read_said(answer)
    match answer.status:
        case 429:
            # In recorded calls, a 429 came before Autumn claimed the key, so nothing was charged. Its body is not JSON.
            wait_ms = retry_after_ms(answer.headers, now_ms) or backoff_ms(request.attempt)
            return RetryAt(now_ms + wait_ms, "HTTP 429: too many calls", too_many=True)
        case 409 if said.code == "duplicate_idempotency_key":
            return Duplicate()
        case 400 | 401 | 403 | 404 if said.code is not None:
            return _of_no(request, said, now_ms)
    return Unknown(str(said))


def _of_no(request: PushRequest, said: WireAnswer, now_ms: int) -> Outcome:
    """Return the outcome of an error that Autumn itself sent.

    Autumn did not charge, and released the key.
    """
    fixable = access_trouble(said)
    if fixable is not None:
        # A fix of the setting fixes every push. If each were rejected, a person would have to retry each.
        return RetryAt(now_ms + REFUSED_MS, fixable, by_person=True)
    if said.status == 400 and "in the future" in said.message:
        return RetryAt(now_ms + MINUTE_MS, f"Autumn's clock is behind the clock of this machine: {said}")
    if said.code == "customer_not_found":
        return Rejected(f"{said}. Create the customer at Autumn, or assign the organisation to the right customer")
    if said.code == "feature_not_found":
        return Rejected(f"{said}. Create {request.feature} at Autumn, or set a key of its environment")
    return Rejected(str(said))


def access_trouble(said: WireAnswer) -> str | None:
    """Return the fault of key, address or version that a response reports.

    Return None for any other response.

    The message of a 401 repeats a part of the key, so the returned text has only Autumn's code.
    """
    if said.code is None:
        return None
    if said.code == "invalid_api_version":
        return f"Autumn does not know API version {VERSION}: this server may be older than August 2026. Upgrade it"
    if said.code == "no_auth_header":
        return (
            f"HTTP 401 no_auth_header: Autumn does not have this route. Check the address and the API version {VERSION}"
        )
    if said.status in (401, 403):
        return f"the key is refused (HTTP {said.status} {said.code}). Set a secret key that may bill"
    return None


def read_said(answer: Answer) -> WireAnswer:
    """Return the code and the message of a response that reports an error."""
    body = parse(answer.body)
    code = body.get("code") if body is not None else None
    message = body.get("message") if body is not None else None
    if not isinstance(message, str) or not isinstance(code, str) or not _CODE.fullmatch(code):
        unread = "too many calls" if answer.status == 429 else "not Autumn's JSON"
        return WireAnswer(answer.status, None, "" if body is not None else unread)
    return WireAnswer(answer.status, code, _quoted(message))


def _quoted(message: str) -> str:
    readable = "".join(character if character.isprintable() else " " for character in message)
    return _SECRETS.sub("…", readable)[:200]


parse: Final = lru_cache(1)(json_object)
"""The parser of responses, with a cache of one response.

The response to a charge is read twice, for the charge and for the balance.
"""
