"""Wallets, plans, settlements, and whether bills agree: what finance looks at."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.screens.money import (
    acts,
    billing,
    drift,
    reconcile,
    settlement,
    settlements,
    topup,
    wallet,
    wallets,
)

PAGES: Final[tuple[Page, ...]] = (
    Page(billing.PATH, "Billing", "list.html", billing.read, also=("?id=acme",)),
    Page(topup.PATH, "Top-up", "list.html", topup.read, menu=False, example="?id=topup%3Aacme%3A1"),
    Page(wallets.PATH, "Ledger", "list.html", wallets.read, lines=wallets.lines),
    Page(wallet.PATH, "Wallet", "list.html", wallet.read, menu=False, lines=wallet.lines, example="?id=acme"),
    Page(settlements.PATH, "Settlement", "list.html", settlements.read, lines=settlements.lines),
    Page(settlement.PATH, "One settlement", "list.html", settlement.read, menu=False, example="?key=run-2"),
    Page(reconcile.PATH, "Reconcile", "list.html", reconcile.read, lines=reconcile.lines),
    Page(drift.PATH, "Drift", "list.html", drift.read, lines=drift.lines),
)
ACTIONS: Final = acts.ACTIONS
