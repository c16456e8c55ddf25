"""The settings of Autumn, read from DRAWDOWN_AUTUMN_…

Guarantee: an invalid setting raises an error that names the setting and not its value. A repr never shows a key or a
webhook secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.kit import webhooks
from drawdown.providers.protocol import HOUR_MS, Setup
from drawdown.schema.errors import UsageError

URL: Final = "https://api.useautumn.com"
KEY_RETENTION_H: Final = (1, 24, 30 * 24)
"""Least, default and largest hours for which an Autumn account keeps a key.

The observed default is a day.
"""
CALLS_PER_S: Final = 1_900.0
"""Default charges a second, below the account's cap of 120,000 a minute.

Above the cap, Autumn queues charges (202), and never answers 429.
"""

NAMES: Final = frozenset(
    {
        "secret_key",
        "url",
        "webhook_secrets",
        "balance_feature",
        "concurrency_feature",
        "plans",
        "key_retention_h",
        "calls_per_s",
        "topup_plan",
        "topup_feature",
    }
)
"""The names of the settings.

Any other name is rejected, because a mistyped name could bill usage by mistake.
"""
ID: Final = re.compile(r"[A-Za-z0-9_:-]{1,200}")
"""The form of Autumn's ids. In recorded calls, Autumn answers 400 to any other form."""
_SECRET_KEY: Final = re.compile(r"am_sk_[A-Za-z0-9_-]{8,200}")
_MODE: Final = re.compile(r"am_sk_(live|test)_")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_PLAN: Final = re.compile(r"([A-Za-z0-9_:-]{1,200})=([0-9]{1,9})")


@dataclass(frozen=True)
class AutumnSettings:
    """The settings of one Autumn account.

    `secret_key`: the key; None if it is not set, so the provider is dormant. `balance_feature`: the feature of the
    balance that decides (None: not set). `concurrency_feature`: the feature with the limit of sandboxes. `plans`: the
    limit of sandboxes by plan. `topup_feature`: the prepaid feature of `topup_plan`. If either is None, Drawdown does
    not charge cards through Autumn.
    """

    name: str
    secret_key: str | None = field(repr=False)
    url: str
    webhook_secrets: tuple[str, ...] = field(repr=False)
    balance_feature: str | None
    concurrency_feature: str
    plans: Mapping[str, int]
    key_retention_ms: int
    calls_per_s: float
    topup_plan: str | None = None
    """The plan that a charge attaches.

    Use the plan only for charges. A unit of its prepaid feature must cost one minor unit of the currency, such as a
    cent.
    """
    topup_feature: str | None = None

    @property
    def mode(self) -> str:
        """Return the mode of the key.

        It is `test` for the sandbox (`am_sk_test_…`), and `live` for production (`am_sk_live_…`). It is empty if the
        key is not set or does not show the mode.
        """
        found = _MODE.match(self.secret_key or "")
        return found[1] if found else ""

    def variable(self, setting: str) -> str:
        """Return the environment variable of a setting, for messages."""
        return _variable(self.name, setting)


def _variable(name: str, setting: str) -> str:
    return f"DRAWDOWN_{name.upper()}_{setting.upper()}"


def read(setup: Setup) -> AutumnSettings:
    """Read the settings of one provider. Errors: UsageError, which names the setting."""
    given = _SettingTexts(setup.name, {key: text.strip(" ") for key, text in setup.settings.items()})
    if unknown := sorted(set(setup.settings) - NAMES):
        names = ", ".join(_variable(setup.name, name) for name in sorted(NAMES))
        raise UsageError(f"{_variable(setup.name, unknown[0])} is not a setting of Autumn: expected one of {names}")
    return AutumnSettings(
        name=setup.name,
        secret_key=given.secret_key(),
        url=given.origin(),
        webhook_secrets=given.webhook_secrets(),
        balance_feature=given.feature("balance_feature") or None,
        concurrency_feature=given.feature("concurrency_feature") or "concurrency",
        plans=given.plans(),
        key_retention_ms=given.key_retention_ms(),
        calls_per_s=float(given.number("calls_per_s") or CALLS_PER_S),
        topup_plan=given.feature("topup_plan") or None,
        topup_feature=given.feature("topup_feature") or None,
    )


@dataclass(frozen=True)
class _SettingTexts:
    """Settings as unparsed texts. An empty setting counts as not set."""

    name: str
    texts: Mapping[str, str] = field(repr=False)

    def text(self, setting: str) -> str:
        return self.texts.get(setting, "")

    def wrong(self, setting: str, wanted: str) -> UsageError:
        return UsageError(f"{_variable(self.name, setting)} {wanted}")

    def secret_key(self) -> str | None:
        text = self.text("secret_key")
        if text.startswith("am_pk_"):
            raise self.wrong("secret_key", "is a publishable key (am_pk_…), which cannot bill. Set a secret key")
        if text and not _SECRET_KEY.fullmatch(text):
            raise self.wrong(
                "secret_key", "is not a secret key of Autumn: expected am_sk_ and 8 to 200 letters, digits, _ or -"
            )
        return text or None

    def origin(self) -> str:
        text = self.text("url") or URL
        wrong = self.wrong("url", f"must be an address such as {URL}, without path, user or query")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise wrong from None
        extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or extra or not text.isprintable() or port == 0:
            raise wrong
        if re.search(r"[\s\\]", text):
            raise wrong
        return f"{parts.scheme}://{parts.netloc}"

    def webhook_secrets(self) -> tuple[str, ...]:
        found = tuple(secret.strip() for secret in self.text("webhook_secrets").split(",") if secret.strip())
        if not all(webhooks.is_secret(secret) for secret in found):
            raise self.wrong("webhook_secrets", "must be a list of signing secrets (whsec_…), separated by commas")
        return found

    def feature(self, setting: str) -> str:
        text = self.text(setting)
        if text and not ID.fullmatch(text):
            raise self.wrong(setting, "must be an id at Autumn: letters, digits, _ - and :")
        return text

    def plans(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in filter(None, (entry.strip() for entry in self.text("plans").split(","))):
            match = _PLAN.fullmatch(entry)
            if match is None or match[1] in found:
                raise self.wrong(
                    "plans",
                    'must name each plan once with its concurrency, such as "free=2,pro=20"',
                )
            found[match[1]] = int(match[2])
        return found

    def number(self, setting: str) -> Decimal | None:
        text = self.text(setting)
        if text and (not _NUMBER.fullmatch(text) or Decimal(text) == 0):
            raise self.wrong(setting, "must be a number above zero")
        return Decimal(text) if text else None

    def key_retention_ms(self) -> int:
        least, default, most = KEY_RETENTION_H
        hours = self.number("key_retention_h") or Decimal(default)
        if not least <= hours <= most:
            raise self.wrong(
                "key_retention_h", f"must be {least} to {most} hours, the time for which the account keeps a key"
            )
        return int(hours * HOUR_MS)
