"""Words that the statements of `verify` share. Guarantee: pieces of SQL, no more."""

from typing import Final

NONE: Final = "CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature"
"""For a breach that is about no window and no feature."""


def same(one: str, other: str) -> str:
    """Both rows are about the same push."""
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in ("window_ms", "org_id", "feature", "revision"))
