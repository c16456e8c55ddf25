"""Words that the statements of `verify` share. Guarantee: pieces of SQL, no more."""

from typing import Final

NONE: Final = "CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature"
"""For a breach that is about no window and no feature."""


def same(one: str, other: str) -> str:
    """Both rows are about the same push."""
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in ("window_ms", "org_id", "feature", "revision"))


PUSH: Final = "p.org_id, p.window_ms, p.feature, p.key, p.state, p.sent_qty"
"""What a breach says of a push `p`."""

VOID: Final = f"LEFT JOIN voids v ON {same('v', 'p')}"
"""The void of a push `p`, where it has one."""

IN_LEDGER: Final = "SELECT provider FROM provider_states WHERE terms LIKE '%balance_in_ledger__ true%'"
"""Providers whose customers' balances lie in the ledger beside its own, by the terms in force."""
