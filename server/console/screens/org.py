"""One organisation, in tabs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.server.console.asking import Ask
from drawdown.server.console.screens import org_tabs, usage

TABS: Final = {"usage": usage.read, **org_tabs.TABS}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    tab = ask.choice("tab", tuple(TABS))
    org = require_org(connection, ask.required("id"))
    return {"org": org, "tab": tab, "tabs": tuple(TABS), "empty": False, **TABS[tab](connection, ask)}


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Its ledger, by the days that the page shows."""
    require_org(connection, ask.required("id"))
    return usage.lines(connection, ask)
