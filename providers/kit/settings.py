"""The settings of a provider, read from DRAWDOWN_<NAME>_…

Guarantee: an unknown or invalid setting raises an error that names the setting. A message or a repr never shows the
value of a setting.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from drawdown.providers.protocol import Setup
from drawdown.schema.errors import UsageError


@dataclass(frozen=True)
class SettingTexts:
    """Settings as unparsed texts. An empty setting counts as not set."""

    name: str
    texts: Mapping[str, str] = field(repr=False)

    def variable(self, setting: str) -> str:
        return f"DRAWDOWN_{self.name.upper()}_{setting.upper()}"

    def text(self, setting: str) -> str:
        return self.texts.get(setting, "")

    def wrong(self, setting: str, wanted: str) -> UsageError:
        return UsageError(f"{self.variable(setting)} {wanted}")

    def key(self, setting: str) -> str | None:
        """Return a key that a header can carry; None if it is not set. Errors: UsageError."""
        text = self.text(setting)
        if text and not re.fullmatch(r"[!-~]{6,500}", text):
            raise self.wrong(setting, "must be a key of 6 to 500 printable characters without spaces")
        return text or None

    def origin(self, default: str, setting: str = "url") -> str:
        """Return an address without path, user or query. Errors: UsageError."""
        text = self.text(setting) or default
        wrong = self.wrong(setting, f"must be an address such as {default}, without path, user or query")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise wrong from None
        extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        printable = text.isprintable() and not re.search(r"[\s\\]", text)
        if parts.scheme not in ("http", "https") or not parts.hostname or extra or not printable or port == 0:
            raise wrong
        return f"{parts.scheme}://{parts.netloc}"

    def list(self, setting: str) -> tuple[str, ...]:
        """Return the values of a comma-separated setting."""
        return tuple(text.strip() for text in self.text(setting).split(",") if text.strip())


def read_settings(setup: Setup, names: Collection[str]) -> SettingTexts:
    """Read the settings of one provider.

    Errors: UsageError for a name that is not in `names`, because a mistyped name could bill usage by mistake.
    """
    found = SettingTexts(setup.name, {key: text.strip(" ") for key, text in setup.settings.items()})
    if unknown := sorted(set(setup.settings) - set(names)):
        known = ", ".join(map(found.variable, sorted(names)))
        raise UsageError(f"{found.variable(unknown[0])} is not a setting of {setup.name}: expected one of {known}")
    return found
