"""List the pages and actions by area, for the router, the menu and the tests.

Guarantee: the console serves only the pages of these lists. Tests open each page in each of its states, with each role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drawdown.server.console.action import Action
from drawdown.server.console.declared import form_of
from drawdown.server.console.page import Page
from drawdown.server.console.screens import customers, money, oncall, rules
from drawdown.server.declarations import ACTIONS as DECLARED

AREAS: Final[Mapping[str, tuple[Page, ...]]] = {
    "Customers": customers.PAGES,
    "Money": money.PAGES,
    "On call": oncall.PAGES,
    "Rules and proof": rules.PAGES,
}
"""Groups of the menu, in their order."""
PAGES: Final = tuple(page for pages in AREAS.values() for page in pages)
MENU: Final = tuple(
    (name, menu) for name, pages in AREAS.items() if (menu := tuple(page for page in pages if page.menu))
)
UNDER: Final[Mapping[str, str]] = {
    page.path: next(one.path for one in reversed(pages[: at + 1]) if one.menu)
    for pages in AREAS.values()
    for at, page in enumerate(pages)
}
"""Menu entry of each page: its own, or that of the list before it in its area."""
IN_CREDITS: Final = {*(page.path for page in money.PAGES), "/console/executions", "/console/execution"} - {
    "/console/drift",
    "/console/reconcile",
}
"""Pages with amounts in credits, unless a head names another unit.

A vendor bills in its own currency. A comparison with a provider is in base units.
"""
WRITTEN: Final[tuple[Action, ...]] = (*money.ACTIONS, *oncall.ACTIONS, *rules.ACTIONS)
"""Forms that the areas write, or derive from a declared action with fixed values."""
ACTIONS: Final[tuple[Action, ...]] = (
    *WRITTEN,
    *(form_of(one) for one in DECLARED.values() if one.place and one.slug not in {each.name for each in WRITTEN}),
)
"""All actions, each at `/console/act/NAME`.

Every declared action that names the page to show next (`place`) has a form.
"""
