"""Actions in a browser: by keyboard, without JavaScript, twice, by two people, signed out half-way; each of their pages
keeps to what pages keep to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drawdown.schema.database import write
from drawdown.schema.units import MICRO
from drawdown.server.console.action import Action
from drawdown.server.console.pages import ACTIONS
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.wallets import actions as credit
from tests.browser.conftest import Visitor
from tests.browser.sites import NOW, STORED, Site, secret
from tests.browser.test_matrix import axe, axe_by_theme, goes_sideways
from tests.whole import WHOLE

pytestmark = pytest.mark.xdist_group("browser")
Visit = Callable[..., Visitor]
SHOWN = ACTIONS if WHOLE else ACTIONS[:1]
"""All forms are made by one template."""


@pytest.mark.parametrize("action", SHOWN, ids=lambda action: action.name)
def test_each_form_keeps_to_all_that_pages_keep_to(live: Site, look: Visit, action: Action) -> None:
    visitor = look(live, "admin")
    assert visitor.go(f"/console/act/{action.name}?id=acme") == 200
    assert goes_sideways(visitor) == {} and axe_by_theme(visitor) == {}


def test_credit_is_given_from_an_organisations_page_by_keyboard_alone(live: Site, visit: Visit) -> None:
    visitor = visit(live, "admin")
    page = visitor.page
    visitor.go("/console/org?id=initech")
    page.get_by_role("link", name="Give credit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/act/grant?id=initech")
    page.locator("input:focus").wait_for()  # the first empty field has it, once the page is there
    page.keyboard.type("25")
    page.keyboard.press("Tab")
    page.keyboard.type("bonus")
    page.get_by_label("Reason").focus()
    page.keyboard.type("as they asked")
    page.keyboard.press("Enter")
    page.get_by_text("Nothing was changed.").wait_for()
    assert goes_sideways(visitor) == {} and axe(visitor) == []
    assert "drawdown ledger grant initech 25.00" in (said := page.inner_text("main")) and "--kind bonus" in said
    page.get_by_role("button", name="Give credit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/acted?key=*")
    assert "initech: 25.00 credits given" in page.inner_text("main") and axe(visitor) == []
    page.reload()
    page.get_by_role("link", name="See how it stands now").click()
    page.wait_for_url("**/console/billing?id=initech")
    assert live.fleet.one("SELECT COUNT(*) FROM ledger_lots WHERE customer_id = 'initech'") == 1


def test_a_form_without_javascript_that_somebody_was_signed_out_of(live: Site, visit: Visit) -> None:
    visitor = visit(live, "operator", java_script_enabled=False)
    page = visitor.page
    visitor.go("/console/act/halt?id=initech")
    page.get_by_label("Reason").fill("they asked")
    write(live.engine, lambda c: console_sessions.end(c, visitor.session, NOW))
    page.get_by_role("button", name="See what it would do").click()
    assert "the form is as you left it" in page.inner_text("main")
    visitor.wrong.clear()  # what the browser says of a 401
    place = page.locator("input[name=next]").input_value()
    again = secret(555)
    write(live.engine, lambda c: console_sessions.begin(c, "operator", STORED, again, "192.0.2.1", NOW))
    visitor.sign_in(again)
    visitor.go(place)
    assert page.get_by_label("Reason").input_value() == "they asked"
    page.get_by_role("button", name="See what it would do").click()
    assert "Nothing was changed" in page.inner_text("main")


def test_two_people_at_once(live: Site, visit: Visit) -> None:
    visitor = visit(live, "admin")
    page = visitor.page
    visitor.go("/console/act/grant?id=acme&amount=1&kind=bonus&reason=asked")
    page.get_by_role("button", name="See what it would do").click()
    write(live.engine, lambda c: credit.grant(c, "acme", MICRO, live.fleet.by, key="somebody", plan=None))
    page.get_by_role("button", name="Give credit").click()
    page.get_by_text("this changed since you looked").wait_for()
    visitor.wrong.clear()  # what the browser says of a 409
    page.get_by_role("button", name="Give credit").click()
    page.wait_for_url("**/console/acted?key=*")


def test_a_viewer_is_shown_no_button(live: Site, visit: Visit) -> None:
    visitor = visit(live)
    visitor.go("/console/org?id=acme")
    assert visitor.page.locator("a[href^='/console/act/']").count() == 0
    assert visitor.go("/console/act/grant?id=acme") == 403
