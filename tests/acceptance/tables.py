"""Sums of the raw tables, for comparison with sums taken from the input."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.database import connect, read
from tests.acceptance.gentd26 import Sums

SEALED = "SELECT org_id, window_ms, SUM(sealed_qty) FROM pushes WHERE state <> 'voided' GROUP BY org_id, window_ms"
CHARGED = """
SELECT SUBSTR(from_account, 8), ts - ts % 300000, SUM(quantity) FROM ledger_entries WHERE kind = 'usage' GROUP BY 1, 2
"""
OPEN = "SELECT state, COUNT(*) FROM pushes WHERE state <> 'accepted' GROUP BY state"


def rows(url: str, text: str) -> list[tuple[object, ...]]:
    """What a query finds."""
    engine = connect(url)
    try:
        return read(engine, lambda c: [tuple(row) for row in c.execute(sa.text(text))])
    finally:
        engine.dispose()


def number(url: str, text: str) -> int:
    """The one number that a query finds."""
    return int(str(rows(url, text)[0][0] or 0))


def by_window(url: str, text: str) -> Sums:
    """Seconds by (organisation, window), of the pushes or of the ledger."""
    return {(str(org), int(str(window))): int(str(seconds)) for org, window, seconds in rows(url, text)}


def difference(found: Sums, expected: Sums) -> dict[tuple[str, int], tuple[int, int]]:
    """Where two sums are not alike: (found, expected)."""
    pairs = {key: (found.get(key, 0), expected.get(key, 0)) for key in found.keys() | expected.keys()}
    return {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def billed_exactly(url: str, expected: Sums) -> None:
    """Every (organisation, window) is sealed and charged exactly as expected, and nothing is left open."""
    assert rows(url, OPEN) == []
    for what, text in (("sealed", SEALED), ("charged", CHARGED)):
        wrong = difference(by_window(url, text), expected)
        assert not wrong, f"{len(wrong)} windows with ({what}, expected) seconds, the first {list(wrong.items())[:5]}"
    assert number(url, "SELECT COUNT(*) FROM ledger_entries WHERE kind = 'usage'") == number(
        url, "SELECT COUNT(*) FROM pushes"
    )
    lines = "SELECT COUNT(*) FROM (SELECT account_id, SUM(amount_micro) AS total FROM ledger_lines GROUP BY account_id)"
    unbalanced = f"{lines} l JOIN ledger_accounts a ON a.account_id = l.account_id WHERE a.balance_micro <> l.total"
    assert number(url, unbalanced) == 0
