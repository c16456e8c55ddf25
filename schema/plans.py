"""The words that bring each database to a good plan: for the rooms whose statements are not pieces yet, see
`words.sql`."""

from typing import Final

THEN: Final = {"postgresql": "JOIN", "sqlite": "CROSS JOIN"}

LOOK: Final = {
    "postgresql": {
        "look": "CROSS JOIN LATERAL (SELECT * FROM",
        "by": "WHERE",
        **{f"end_{alias}": f"OFFSET 0) {alias}" for alias in "spqw"},
    },
    "sqlite": {"look": "CROSS JOIN", "by": "ON", **{f"end_{alias}": "" for alias in "spqw"}},
}
