"""The ledger of an organisation: the entries of the wallet that pays for it."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame.parts import Filter, Table
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.money import wallet
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.accounts import list_lots, paid_from


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, after, chosen = ask.required("id"), ask.key("after"), wallet.chosen_by(ask)
    paid = paid_from(connection, org_id, ask.now_ms)
    customer = paid.customer_id
    lots = list_lots(connection, customer, ask.now_ms)
    found = wallet_entries.page(connection, customer, after, chosen=chosen)
    if not (paid.is_here or lots.lots or found.entries or chosen.narrows or after):
        return {"part": "org_tables.html", "tables": [wallet.no_wallet(customer, paid)]}
    filters = wallet.chosen_filters(ask)
    query = {"id": org_id, "tab": "ledger", **{one.name: one.value for one in filters}}
    tables: list[Table] = [
        wallet.entries_table(found, customer, chosen, "/console/org", query, after),
        wallet.lots_table(lots, customer),
    ]
    return {"part": "org_tables.html", "tables": tables, "filters": filters, "file": _file(customer, filters)}


def _file(customer: str, filters: tuple[Filter, ...]) -> str:
    return url(f"{wallet.PATH}.csv", id=customer, **{one.name: one.value for one in filters})
