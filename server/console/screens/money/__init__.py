"""The pages for finance: wallets, plans, settlements, and comparisons with bills."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.screens.money import (
    billing,
    drift,
    jobs,
    reconcile,
    settlements,
    topups,
    wallet_acts,
    wallets,
)

PAGES: Final[tuple[Page, ...]] = (
    Page(billing.PATH, "Billing", "list.html", billing.read, also=("?id=acme",)),
    Page(topups.PATH, "Top-up", "list.html", topups.read, menu=False, example="?id=topup%3Aacme%3A1"),
    Page(wallets.PATH, "Ledger", "list.html", wallets.read, lines=wallets.csv_lines),
    Page(
        wallets.WALLET_PATH,
        "Wallet",
        "list.html",
        wallets.read_one,
        menu=False,
        lines=wallets.lines_of_one,
        example="?id=acme",
    ),
    Page(settlements.PATH, "Settlements", "list.html", settlements.read, lines=settlements.csv_lines),
    Page(
        settlements.SETTLEMENT_PATH,
        "Settlement",
        "list.html",
        settlements.read_one,
        menu=False,
        example="?key=run-2",
    ),
    Page(reconcile.PATH, "Reconcile", "list.html", reconcile.read, lines=reconcile.csv_lines),
    Page(drift.PATH, "Drift", "list.html", drift.read, lines=drift.csv_lines),
)
ACTIONS: Final = (
    *wallet_acts.GRANTS,
    *topups.ACTIONS,
    *jobs.ACTIONS,
    *settlements.ACTIONS,
)
