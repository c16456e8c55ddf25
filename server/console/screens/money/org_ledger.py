"""The ledger of an organisation: the entries of the wallet that pays for it."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame.parts import Table
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import wallet
from drawdown.worker.views import wallet_entries
from drawdown.worker.views.accounts import payer_of
from drawdown.worker.views.ledger import list_lots


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id = ask.required("id")
    customer = payer_of(connection, org_id, ask.now_ms)
    lots = list_lots(connection, customer, ask.now_ms)
    until_ms, until = ask.moment("until"), ask.text("until")
    found = wallet_entries.page(connection, customer, ask.key("after"), until_ms=until_ms)
    following = url("/console/org", id=org_id, tab="ledger", after=found.after) if found.after else ""
    tables: list[Table] = [
        wallet.entries_table(found, customer, following),
        wallet.lots_table(lots, customer),
    ]
    return {"part": "org_tables.html", "tables": tables, "until": until}
