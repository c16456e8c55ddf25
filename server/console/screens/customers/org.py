"""One organisation, in tabs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame.parts import Link, act
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.customers import org_tabs, usage
from drawdown.server.console.screens.money import org_ledger
from drawdown.server.console.screens.rules import org_limits, org_raw
from drawdown.worker.wallets.accounts import PaidFrom, paid_from

OTHERS: Final = {"ledger": org_ledger.read, **org_tabs.TABS, "limits": org_limits.tab, "raw": org_raw.tab}
TABS: Final = ("usage", *OTHERS)


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    tab = ask.choice("tab", TABS)
    org = require_org(connection, ask.required("id"))
    paid = paid_from(connection, org.org_id, ask.now_ms)
    found = usage.read(connection, ask, org, paid) if tab == "usage" else OTHERS[tab](connection, ask)
    shown = {
        "org": org,
        "acts": acts(org, paid),
        "takes_credit": paid.takes_credit,
        "begins_ms": paid.begins_ms,
        "tab": tab,
        "tabs": TABS,
    }
    return {**shown, "empty": False, **found}


def acts(org: sa.Row[Any], paid: PaidFrom) -> list[Link]:
    """What is done to an organisation first. Credit is given to the wallet that pays for it, and where one does."""
    halt = (
        act("Lift the halt", "lift", id=org.org_id)
        if org.operator_halt
        else act("Halt by hand" if org.is_halted else "Halt", "halt", id=org.org_id)
    )
    billing = Link("Billing", url("/console/billing", id=org.org_id))
    runs = Link("Runs", url("/console/runs", org=org.org_id, state="any"))
    override = [act("Override limits", "org-override", id=org.org_id)]
    if org.override_halted is not None or org.override_max_concurrent is not None:
        override.append(act("End the override", "org-override-end", id=org.org_id))
    assign = act("Assign elsewhere", "assign-remote", id=org.org_id)
    grant = [act("Give credit", "grant", id=paid.customer_id)] if paid.takes_credit else []
    return [*grant, halt, *override, assign, billing, runs]


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Its ledger, by the days that the page shows."""
    require_org(connection, ask.required("id"))
    return usage.lines(connection, ask)
