"""Money has the decimals of its currency."""

from __future__ import annotations

from drawdown.schema.currencies import show_money
from tests.cases import cases


@cases(
    ("minor", "currency", "shown"),
    [
        (1_250, "usd", "12.50 usd"),
        (5, "EUR", "0.05 EUR"),
        (1_234_567, "usd", "12,345.67 usd"),
        (1_250, "jpy", "1,250 jpy"),
        (1_250, "kwd", "1.250 kwd"),
        (-7, "usd", "-0.07 usd"),
        (0, "usd", "0.00 usd"),
    ],
)
def test_money_is_shown_with_decimals_of_its_currency(minor: int, currency: str, shown: str) -> None:
    assert show_money(minor, currency) == shown
