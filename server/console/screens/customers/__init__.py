"""The pages for support, such as the overview and an organisation's page."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.screens.customers import org, orgs, overview

PAGES: Final = (
    Page("/console/", "Overview", "overview.html", overview.read),
    Page("/console/orgs", "Organisations", "orgs.html", orgs.read, lines=orgs.csv_lines),
    Page(
        "/console/org",
        "Organisation",
        "org.html",
        org.read,
        menu=False,
        lines=org.csv_lines,
        example="?id=acme",
        tabs=org.TABS,
    ),
)
