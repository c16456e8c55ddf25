"""The settings of Stripe: DRAWDOWN_STRIPE_…, read and checked once.

Guarantee: an invalid setting raises an error that names the setting and never shows a secret, before Drawdown sends a
call. An unknown name raises an error too, because a mistyped cut-over would bill usage by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.protocol import HOUR_MS, Capabilities
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, next_window

PREFIX: Final = "DRAWDOWN_STRIPE_"
DEFAULT_URL: Final = "https://api.stripe.com"
STREAM_URL: Final = "https://meter-events.stripe.com"
DEFAULT_VERSION: Final = "2026-08-26.dahlia"
"""The API version that this code was written to and is tested with.

Its shapes are those of stripe-python 15.6. Every call names the version, so an upgrade of the account does not affect
Drawdown.
"""
NAMES: Final = frozenset(
    {"secret_key", "url", "stream_url", "api_version", "webhook_secrets", "account", "meters", "mode", "cut_over"}
    | {"payments_key"}
)
OLDEST_MS: Final = 35 * DAY_MS - HOUR_MS
"""Largest age of a push in milliseconds (35 days, less an hour).

Stripe checks the timestamp later, by its own clock.
"""
CANCEL_WITHIN_MS: Final = 24 * HOUR_MS
"""Milliseconds after Stripe received an event in which Stripe can cancel it."""
AHEAD_MS: Final = 4 * MINUTE_MS
"""Milliseconds that a push may be ahead of our clock.

Stripe accepts timestamps up to five minutes ahead of its own clock.
"""
MAX_STREAM_EVENTS: Final = 100
"""Most meter events in one call to Stripe's event stream."""
MAX_DIGITS: Final = 15
"""Most significant digits of a value.

Stripe refuses more digits.
"""
NEVER_MS: Final = next_window(253_402_300_000_000)
"""The last day of the year 9999.

It is after any window, and is still a date that can be printed.
"""

_KEY: Final = re.compile(r"(sk|rk)_[A-Za-z0-9_]+")
_MODE: Final = re.compile(r"(?:sk|rk)_(live|test)_")
_WEBHOOK_SECRET: Final = re.compile(r"whsec_[\x21-\x2b\x2d-\x7e]+")
_ACCOUNT: Final = re.compile(r"acct_[A-Za-z0-9]+")
_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")
_METER: Final = re.compile(r"([a-z0-9_]+)\s*=\s*([^\s,/=]{1,100})(?:\s*/\s*([0-9]{1,15}))?")


@dataclass(frozen=True)
class MeterName:
    """The meter of a feature.

    `event_name`: its name at Stripe. `unit`: the base units in one whole unit there.
    """

    event_name: str
    unit: int = 1


@dataclass(frozen=True)
class StripeSettings:
    """The settings of Stripe.

    A repr does not show a secret. `account`: the Stripe account of the key and of webhooks (None: not checked).
    `meters`: by feature. `live_from_ms`: the start of the first window that is sent (None: all are sent).
    """

    secret_key: str = field(repr=False)
    url: str
    api_version: str
    webhook_secrets: tuple[str, ...] = field(repr=False)
    account: str | None
    meters: Mapping[str, MeterName]
    live_from_ms: int | None
    payments_key: str = field(default="", repr=False)
    """The key for charges; empty: `secret_key`."""
    stream_url: str = ""
    """The URL of v2's meter event stream; empty: pushes are v1 meter events."""

    def meter_of(self, feature: str) -> MeterName:
        """Return the meter of a feature.

        The meter of an unlisted feature has the feature's name, and counts base units.
        """
        return self.meters.get(feature) or MeterName(feature)

    def conflicting_feature(self, feature: str) -> str | None:
        """Return the listed feature that already has the meter of an unlisted feature.

        Return None if the listed features do not include that meter.
        """
        if feature in self.meters:
            return None
        return next((other for other, meter in self.meters.items() if meter.event_name == feature), None)

    def feature_of(self, event_name: str) -> str | None:
        """Return the feature that a meter counts.

        Return None if its event name cannot be a feature, or is a feature with another meter.
        """
        for feature, meter in self.meters.items():
            if meter.event_name == event_name:
                return feature
        return event_name if re.fullmatch(r"[a-z0-9_]+", event_name) and event_name not in self.meters else None


def read_settings(given: Mapping[str, str]) -> StripeSettings:
    """Read the settings.

    Errors: UsageError, which names the setting and the expected form.
    """
    unknown = sorted(set(given) - NAMES)
    if unknown:
        names = ", ".join(f"{PREFIX}{name.upper()}" for name in sorted(NAMES))
        raise UsageError(f"{PREFIX}{unknown[0].upper()} is not a setting of Stripe: expected one of {names}")
    return StripeSettings(
        secret_key=_secret_key(given.get("secret_key", "")),
        url=_url(given.get("url") or DEFAULT_URL),
        api_version=_matching(_VERSION, given.get("api_version") or DEFAULT_VERSION, "api_version", DEFAULT_VERSION),
        webhook_secrets=_webhook_secrets(given.get("webhook_secrets", "")),
        account=_matching(_ACCOUNT, given["account"], "account", "acct_…") if given.get("account") else None,
        meters=_meters(given.get("meters", "")),
        live_from_ms=_live_from(given.get("mode", ""), given.get("cut_over", "")),
        payments_key=_secret_key(given.get("payments_key", ""), "payments_key"),
        stream_url=_url(given["stream_url"], "stream_url", STREAM_URL) if given.get("stream_url") else "",
    )


def capabilities(settings: StripeSettings) -> Capabilities:
    """Return the capabilities that the worker must obey."""
    streams = bool(settings.stream_url)
    return Capabilities(
        way="stream" if streams else "",
        mode=_mode(settings.secret_key),
        names={feature: meter.event_name for feature, meter in settings.meters.items()},
        batch_size=MAX_STREAM_EVENTS if streams else 1,
        in_flight=16 if streams else 64,
        # v1 allows 1,000/s, and 50/s stay free for other programs. For the stream, one page of the documentation allows
        # 10,000 events/s, and another page 10,000 calls/s. Drawdown obeys the smaller limit.
        calls_per_s=95 if streams else 950,
        reads_per_s=20,  # most reading endpoints allow 25/s
        reads_a_call=1000,  # a read of customers reads only Drawdown's database
        one_at_a_time=not streams,  # v1: "one concurrent call per customer per meter"
        key_retention_ms=24 * HOUR_MS,
        duplicate_proves_delivery=True,
        max_key_chars=100,
        negatives=True,
        unit=1,
        units={feature: meter.unit for feature, meter in settings.meters.items()},
        max_quantity=10**MAX_DIGITS - 1,  # base units; the sent value is shorter if a unit is several base units
        oldest_ms=OLDEST_MS,
        live_from_ms=settings.live_from_ms,
        # Summaries are eventually consistent, without a stated lag. Stripe's own invoices wait an hour for them.
        lookup_lag_ms=HOUR_MS,
        applied_within_ms=24 * HOUR_MS,
        totals_lag_ms=HOUR_MS,
        # Stripe does not document that an adjustment reaches an event of the stream.
        cancel_within_ms=None if streams else CANCEL_WITHIN_MS,
        own_customer_ids=True,
        balance_in_ledger=True,
        webhook_headers=("stripe-signature",),
    )


def _mode(secret_key: str) -> str:
    """Return the mode of a key, `live` or `test` (`sk_test_…`).

    The result is empty if the key does not show it.
    """
    found = _MODE.match(secret_key)
    return found[1] if found else ""


def _refused(name: str, wanted: str) -> UsageError:
    return UsageError(f"{PREFIX}{name.upper()} is not {wanted}")


def _matching(pattern: re.Pattern[str], text: str, name: str, like: str) -> str:
    if not pattern.fullmatch(text):
        raise _refused(name, f"of the form {like}")
    return text


def _secret_key(text: str, name: str = "secret_key") -> str:
    if text.startswith("pk_"):
        raise _refused(name, "a secret key, but a publishable key. Set a key that begins with sk_ or rk_")
    if text and not _KEY.fullmatch(text):
        raise _refused(name, "a key of Stripe: expected sk_… or rk_…, without spaces and line ends")
    return text


def _url(text: str, name: str = "url", like: str = DEFAULT_URL) -> str:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (a property that raises ValueError for an invalid port)
    except ValueError as error:
        raise _refused(name, "a URL") from error
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    clean = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or not clean:
        raise _refused(name, f"valid: expected an http(s) URL such as {like}, without user, query or fragment")
    return text.rstrip("/")


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(_WEBHOOK_SECRET.fullmatch(secret) for secret in secrets):
        raise _refused("webhook_secrets", "a list of signing secrets (whsec_…), separated by commas")
    return secrets


def _meters(text: str) -> dict[str, MeterName]:
    meters: dict[str, MeterName] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        found = _METER.fullmatch(part)
        unit = int(found.group(3) or 1) if found else 0
        if found is None or unit < 1:
            raise _refused(
                "meters",
                "a list of FEATURE=EVENT_NAME or FEATURE=EVENT_NAME/UNIT, such as compute=gb_seconds/1024",
            )
        if found.group(1) in meters:
            raise _refused("meters", f"valid: {found.group(1)} occurs twice. Name each feature once")
        meters[found.group(1)] = MeterName(found.group(2), unit)
    if len({meter.event_name for meter in meters.values()}) < len(meters):
        # Two features in one meter cannot be distinguished, so lookups and totals would fail.
        raise _refused("meters", "valid: two features have the same event name. Use one event name for each feature")
    return meters


def _live_from(mode: str, cut_over: str) -> int | None:
    if mode not in ("", "live", "shadow"):
        raise _refused("mode", "live or shadow")
    moment = _moment(cut_over) if cut_over else None
    return NEVER_MS if mode == "shadow" else moment


def _moment(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise _refused("cut_over", "a time such as 2026-09-01T00:00:00Z") from error
    if found.tzinfo is None:
        raise _refused("cut_over", "a time with its zone, such as 2026-09-01T00:00:00Z")
    # Another system bills a window that began before the cut-over. Our first window starts at the cut-over or later.
    return next_window(-(-int(found.timestamp() * 1_000_000) // 1000))
