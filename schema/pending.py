"""The reasons why usage is pending, with the fix of each (S6).

The seal chooses the reason (`pend` in `worker/seal/queries.sql`). `verify` proves the choice with its own statement
(`waiting` in `worker/verify/usage.sql`). Other code reads `REASONS`; `verify` has its own lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Reason:
    """A reason of pending usage.

    `what`: the reason, for people. `fix`: the command that fixes it. `lacks_mapping`: True if a mapping fixes it, and
    not an assignment.
    """

    what: str
    fix: str
    lacks_mapping: bool = False


ASSIGN: Final = "drawdown org assign --unassigned --provider NAME --from TIME --dry-run"
REASONS: Final[Mapping[str, Reason]] = {
    "unknown_org": Reason("usage of unregistered organisations", ASSIGN),
    "no_assignment": Reason("unassigned: no provider bills these windows", ASSIGN),
    "no_customer": Reason(
        "assigned, but without a customer at the provider", "drawdown org assign ORG --provider NAME --customer ID"
    ),
    "no_provider": Reason("assigned to a provider that no tick has used yet", "drawdown provider list"),
    "no_mapping": Reason(
        "unmapped: no feature is mapped to it",
        "drawdown feature list, then drawdown feature map or map-event",
        lacks_mapping=True,
    ),
}
"""The reasons by name, in the order in which people see them."""
