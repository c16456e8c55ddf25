"""Actions in a browser, by keyboard; each of their pages keeps to what pages keep to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drawdown.server.console.pages import ACTIONS
from tests.browser.conftest import Visitor
from tests.browser.sites import Site
from tests.browser.test_matrix import axe, axe_by_theme, goes_sideways
from tests.whole import WHOLE, at_length

pytestmark = pytest.mark.xdist_group("browser")
Visit = Callable[..., Visitor]


@at_length("make browser")
def test_browser_action_forms_fit_width_and_pass_accessibility(live: Site, look: Visit) -> None:
    """One template makes all forms: the next test looks at one of them."""
    visitor, wrong = look(live, "admin"), []
    for action in ACTIONS:
        assert visitor.go(f"/console/act/{action.name}?id=acme") == 200
        wrong += [(action.name, found) for found in (goes_sideways(visitor), axe_by_theme(visitor)) if found]
    assert wrong == []


def test_browser_grant_from_org_page_works_by_keyboard(live: Site, visit: Visit) -> None:
    visitor = visit(live, "admin")
    page = visitor.page
    visitor.go("/console/org?id=initech")
    page.get_by_role("link", name="Give credit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/act/grant?id=initech")
    page.locator("input:focus").wait_for()  # the first empty field has it, once the page is there
    assert goes_sideways(visitor) == {} and axe(visitor) == []
    page.keyboard.type("25")
    page.keyboard.press("Tab")
    page.keyboard.type("bonus")
    page.get_by_label("Reason").focus()
    page.keyboard.type("as they asked")
    page.keyboard.press("Enter")
    page.get_by_text("The dry run did not change anything.").wait_for()
    assert axe(visitor) == []
    assert "drawdown ledger grant initech 25.00" in (said := page.inner_text("main")) and "--kind bonus" in said
    page.get_by_role("button", name="Give credit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/acted?key=*")
    assert "initech: 25.00 credits given" in page.inner_text("main") and (not WHOLE or axe(visitor) == [])
    page.reload()
    assert live.fleet.one("SELECT COUNT(*) FROM ledger_lots WHERE customer_id = 'initech'") == 1
