"""Money in a sentence: minor units, as payment services count them, with their currency's decimals."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

WHOLE: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
"""Currencies without decimals. Payment services count Icelandic krónur and Ugandan shillings by the hundredth."""
THOUSANDTHS: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
"""Currencies with three decimals. Each other one has two."""


def decimals(currency: str) -> int:
    """Return the number of decimals of a currency (ISO 4217, in any case)."""
    name = currency.lower()
    return 0 if name in WHOLE else 3 if name in THOUSANDTHS else 2


def show_money(minor: int, currency: str) -> str:
    """An amount in a sentence, exact: 1,250 minor units of usd are `12.50 usd`."""
    places = decimals(currency)
    return f"{Decimal(minor).scaleb(-places):,.{places}f} {currency}"
