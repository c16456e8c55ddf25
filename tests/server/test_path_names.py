"""The parameters of paths: one name for a thing, and one thing for a name."""

from __future__ import annotations

import re
from typing import Final

from tests.server.house import House, described

IN: Final = {
    "backfill": {"backfills"},
    "batch": {"batches"},
    "cell": {"cells"},
    "customer_id": {"wallets"},
    "endpoint": {"hooks"},
    "event": {"events"},
    "event_source": {"events"},
    "event_type": {"event-types"},
    "execution": {"executions", "settlements"},
    "feature": {"features", "rates", "vendor-costs"},
    "job": {"jobs"},
    "lot": {"lots"},
    "message": {"messages"},
    "metric": {"metrics"},
    "name": {"keys"},
    "number": {"overrides"},
    "org_id": {"accounts", "balance", "gate", "guard", "ledger", "orgs", "usage"},
    "payer": {"payers"},
    "plan": {"plans"},
    "pool": {"pools"},
    "provider": {"providers", "webhooks"},
    "push": {"pushes"},
    "source": {"sources"},
    "supplier": {"suppliers"},
    "tier": {"tiers"},
    "topup": {"topups"},
    "word": {"overrides"},
}
"""The collections that a parameter names a thing of. A settlement has the key of its execution; a vendor's cost is of a
feature; the accounts of an organisation are those of its payer."""


def test_parameter_of_a_path_names_one_kind_of_thing(lone: House) -> None:
    found: dict[str, set[str]] = {}
    names_at: dict[str, set[str]] = {}
    for path in described(lone.server)["paths"]:
        parts = path.strip("/").split("/")
        for at, part in enumerate(parts):
            if part.startswith("{"):
                above = [one for one in parts[:at] if not one.startswith("{")]
                found.setdefault(part[1:-1], set()).add(above[-1])
                names_at.setdefault(re.sub(r"{\w+}", "{}", "/".join(parts[:at])), set()).add(part)
    assert found == IN
    assert {place: names for place, names in names_at.items() if len(names) > 1} == {}
