"""The check that Stripe's key, version, meters and customers suit billing.

Guarantee: the check only reads. Each line names the fault, its place and the next step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Http, HttpResult
from drawdown.providers.protocol import ReadFailed
from drawdown.providers.stripe.meters import CUSTOMER_KEY, VALUE_KEY, Meter, Meters
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import clean, described, get, json_object, path_of
from drawdown.schema.text import counted

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


async def check(
    settings: StripeSettings, http: Http, meters: Meters, features: Sequence[str], customer_ids: Sequence[str]
) -> list[str]:
    """Return the faults of the configuration, one line each.

    If the key, the version or the address is wrong, meters and customers are not checked.
    """
    refused = await _key(settings, http)
    if refused:
        return refused
    lines = _url(settings) + await _account(settings, http)
    found = await meters.all(afresh=True)
    if isinstance(found, ReadFailed):
        lines.append(f"the meters could not be read: {found.reason}")
    else:
        lines += [line for feature in sorted(set(features)) for line in _feature(settings, feature, found)]
    return lines + await _customers(settings, http, sorted(set(customer_ids)))


def _url(settings: StripeSettings) -> list[str]:
    parts = urlsplit(settings.url)
    if parts.scheme == "https" or parts.hostname in _LOOPBACK:
        return []
    return [
        "DRAWDOWN_STRIPE_URL is plain http to another machine, so others on the network can read the key. Use https"
    ]


async def _key(settings: StripeSettings, http: Http) -> list[str]:
    """Return the faults of the key and of the API version.

    It makes one read that any key for billing may make.
    """
    answer = await http.send(get(settings, "/v1/billing/meters", {"limit": "1"}))
    if not isinstance(answer, Answer):
        return [f"DRAWDOWN_STRIPE_URL: {settings.url} does not answer: {clean(answer.reason)}"]
    said = described(answer)
    if answer.status == 401:
        return [f"DRAWDOWN_STRIPE_SECRET_KEY is refused by Stripe: {said}. Create a key in the dashboard and set it"]
    if answer.status == 403:
        return [
            f"DRAWDOWN_STRIPE_SECRET_KEY may not read meters: {said}. A restricted key needs Billing Meters: read, "
            "Meter Events: write and Customers: read"
        ]
    if answer.status == 400:
        return [f"DRAWDOWN_STRIPE_API_VERSION {settings.api_version} is refused by Stripe: {said}"]
    if answer.status != 200 or json_object(answer.body) is None:
        return [f"DRAWDOWN_STRIPE_URL: {settings.url} does not answer like Stripe: {said}"]
    used = answer.headers.get("stripe-version", settings.api_version)
    if used != settings.api_version:
        return [
            f"DRAWDOWN_STRIPE_API_VERSION is {settings.api_version}, but Stripe answers in version {clean(used, 40)}"
        ]
    return []


async def _account(settings: StripeSettings, http: Http) -> list[str]:
    if settings.account is None:
        return []
    answer = await http.send(get(settings, "/v1/account"))
    if not isinstance(answer, Answer) or answer.status != 200:
        why = described(answer) if isinstance(answer, Answer) else clean(answer.reason)
        return [f"DRAWDOWN_STRIPE_ACCOUNT: the account of the key could not be read: {why}"]
    found = clean(str((json_object(answer.body) or {}).get("id")), 60)
    if found == settings.account:
        return []
    return [f"DRAWDOWN_STRIPE_ACCOUNT is {settings.account}, but the key belongs to {found}. Set a key of that account"]


def _feature(settings: StripeSettings, feature: str, found: Sequence[Meter]) -> list[str]:
    """Return the faults of the meter of one feature."""
    name = settings.meter_of(feature).event_name
    other = settings.conflicting_feature(feature)
    if other is not None:
        return [f"{feature}: its meter {name} belongs to {other}. Give it its own meter in DRAWDOWN_STRIPE_METERS"]
    named = [meter for meter in found if meter.event_name == name]
    active = [meter for meter in named if meter.active]
    if not named:
        return [
            f"{feature}: Stripe does not have a meter with the event name {name}. "
            "Create it, or set another in DRAWDOWN_STRIPE_METERS"
        ]
    if not active:
        return [f"{feature}: the meter with event name {name} is archived. Reactivate it"]
    return [f"{feature}: the meter {meter.id} ({name}) {line}" for meter in active for line in _shape(meter)]


def _shape(meter: Meter) -> list[str]:
    lines = []
    if meter.window:
        lines.append(
            f"keeps one event a{'n' if meter.window == 'hour' else ''} {meter.window} and drops the others "
            "(event_time_window), so Drawdown rejects pushes to it. Archive it, and create a meter without a window"
        )
    if meter.formula != "sum":
        lines.append(
            f"aggregates by {meter.formula or 'no formula'}, but usage must be summed. Create a meter "
            "with the formula sum"
        )
    if meter.customer_key != CUSTOMER_KEY:
        lines.append(f"finds the customer under {meter.customer_key or 'no key'}: expected {CUSTOMER_KEY}")
    if meter.value_key != VALUE_KEY:
        lines.append(f"finds the value under {meter.value_key or 'no key'}: expected {VALUE_KEY}")
    return lines


def explain_unbilled(answer: HttpResult) -> str | None:
    """Return why Stripe cannot bill a customer, from its response about the customer.

    Return None if the response does not show a reason.
    """
    if not isinstance(answer, Answer):
        return None
    if answer.status == 404:
        return "the customer does not exist at Stripe. Assign the organisation to an existing customer"
    if answer.status == 200 and (json_object(answer.body) or {}).get("deleted") is True:
        return "this customer was deleted at Stripe. Assign the organisation to another customer"
    return None


async def _customers(settings: StripeSettings, http: Http, customer_ids: Sequence[str]) -> list[str]:
    lines: list[str] = []
    unread: Counter[str] = Counter()
    for customer_id in customer_ids:
        answer = await http.send(get(settings, path_of("v1", "customers", customer_id)))
        if (why := explain_unbilled(answer)) is not None:
            lines.append(f"{clean(customer_id)}: {why}")
        elif not isinstance(answer, Answer):
            unread[clean(answer.reason)] += 1
        elif answer.status != 200:
            unread[described(answer).split(" (req_")[0]] += 1
    return lines + [f"{counted(count, 'customer')} could not be read: {why}" for why, count in sorted(unread.items())]
