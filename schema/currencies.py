"""Amounts of money as text.

Payment services count minor units. The text has the decimals of the currency.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

WHOLE: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
"""Currencies without decimals.

Icelandic krónur and Ugandan shillings are excluded, because payment services count them by the hundredth.
"""
THOUSANDTHS: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
"""Currencies with three decimals. All other currencies have two."""


def decimals(currency: str) -> int:
    """Return the number of decimals with which payment services count a currency.

    `currency`: its ISO 4217 code, in any case.
    """
    name = currency.lower()
    return 0 if name in WHOLE else 3 if name in THOUSANDTHS else 2


def show_money(minor: int, currency: str) -> str:
    """Return an exact amount as text: 1,250 minor units of usd are `12.50 usd`."""
    places = decimals(currency)
    return f"{Decimal(minor).scaleb(-places):,.{places}f} {currency}"
