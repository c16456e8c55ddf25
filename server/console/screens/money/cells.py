"""The table cells and links that the pages for finance share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drawdown.schema.currencies import show_money
from drawdown.schema.units import parse_push_key
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, act
from drawdown.server.console.frame.templates import command as command
from drawdown.server.console.frame.templates import url

TOPUP_TONES: Final[Mapping[str, str]] = {
    "in_doubt": "bad", "declined": "bad", "needs_customer": "warn", "due": "warn", "sending": "warn",
}  # fmt: skip
SETTLEMENT_TONES: Final[Mapping[str, str]] = {"frozen": "warn"}


def billing(customer_id: str, *, narrow: bool = True) -> Cell:
    """Return a cell that links to the billing of a customer or organisation."""
    return Cell(customer_id, "id", href=url("/console/billing", id=customer_id), narrow=narrow)


def wallet(customer_id: str, *, narrow: bool = True) -> Cell:
    return Cell(customer_id, "id", href=url("/console/wallet", id=customer_id), narrow=narrow)


def org(org_id: str, *, narrow: bool = True) -> Cell:
    return Cell(org_id, "id", href=url("/console/org", id=org_id), narrow=narrow)


def run(reservation: str, *, narrow: bool = True) -> Cell:
    return Cell(reservation, "id", href=url("/console/execution", key=reservation), narrow=narrow)


def supplier(name: str, *, narrow: bool = True) -> Cell:
    return Cell(name, "id", href=url("/console/settlements", supplier=name), narrow=narrow)


def credits(micro: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.credits(micro), "number", narrow=narrow)


def balance(micro: int | None, *, narrow: bool = True) -> Cell:
    """Return a cell with a balance.

    The cell marks a negative balance with a word, because some people cannot see its colour.
    """
    if micro is not None and micro < 0:
        return Cell(f"{figures.credits(micro)} owed", "number", "bad", narrow=narrow)
    return Cell(figures.credits(micro), "number", narrow=narrow)


def available(micro: int, *, narrow: bool = True) -> Cell:
    """Return a cell with an available amount.

    The amount is negative if more credit was used or reserved than the wallet has.
    """
    if micro < 0:
        return Cell(f"{figures.credits(micro)} overdrawn", "number", "bad", narrow=narrow)
    return credits(micro, narrow=narrow)


def time(ms: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.time(ms), "time", narrow=narrow)


def day(ms: int, *, narrow: bool = True) -> Cell:
    return Cell(figures.day(ms), "time", narrow=narrow)


def count(number: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.count(number), "number", narrow=narrow)


def resolve(topup: str, state: str) -> tuple[Link, ...]:
    """Return the actions on a top-up in doubt."""
    return (act("Record outcome", "topup-resolve", "admin", topup=topup),) if state == "in_doubt" else ()


def format_money(minor: int | None, currency: str | None) -> str:
    """Return an amount of minor units with the decimals of its currency."""
    return figures.UNKNOWN if minor is None or currency is None else show_money(minor, currency)


def of_entry(key: str, reservation: str | None = None, lot: str | None = None, customer_id: str = "") -> str:
    """Return the address of an entry's push, execution, top-up or lot; else ''."""
    if parse_push_key(key) is not None:
        return url("/console/push", key=key)
    if reservation:
        return url("/console/execution", key=reservation)
    if key.startswith("topup:"):
        return url("/console/topup", id=key)
    return url("/console/wallet", id=customer_id) if lot and customer_id else ""
