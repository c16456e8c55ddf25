"""Parts that come anew by themselves: whoever reads them, or stands on them, is not moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor
from tests.browser.sites import Site

pytestmark = pytest.mark.xdist_group("browser")
FOCUSED = (
    "document.activeElement.closest('.tile')?.querySelector('.name').textContent ?? document.activeElement.tagName"
)


@contextmanager
def come_anew(page: Page, times: int = 2) -> Iterator[None]:
    """The live part is read again so often, and is in its place."""
    for _ in range(times):
        with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
            page.clock.run_for(10_500)
        page.clock.run_for(100)
        # Not `wait_for_function`: its second look is an `eval` in the page, which the page's own policy forbids.
        expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling")).to_have_count(0)
    yield


def test_what_was_opened_stays_open(live: Site, visit: Callable[..., Visitor]) -> None:
    visitor = visit(live)
    page = visitor.page
    page.clock.install()
    visitor.go("/console/org?id=acme")
    opened = page.locator("#live details")
    opened.locator("summary").click()
    assert opened.locator("dd").first.is_visible()
    with come_anew(page):
        assert opened.locator("dd").first.is_visible()
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_page_of_one_organisation_stays_its_own_after_another_was_entered(
    demo: Site, visit: Callable[..., Visitor]
) -> None:
    """Two tabs of one browser: it has one cookie for both."""
    visitor = visit(demo, "viewer")
    page = visitor.page
    page.clock.install()
    visitor.go("/console/org?id=acme")
    page.get_by_role("button", name="What its own people see").click()
    page.wait_for_url("**/my/usage")
    before = page.locator(".tile .figure").all_inner_texts()
    other = visitor.watched(visitor.context.new_page())
    other.goto(f"{demo.url}/console/org?id=initech")
    other.get_by_role("button", name="What its own people see").click()
    other.wait_for_url("**/my/usage")
    page.clock.run_for(10_500)
    page.locator(".stale .stale-word").wait_for()
    assert "this browser is in for another organisation by now" in page.inner_text(".asof")
    assert page.locator(".tile .figure").all_inner_texts() == before and page.inner_text(".brand") == "acme"
    page.get_by_role("link", name="7 days").click()
    assert "in for initech by now" in page.inner_text("main")
    visitor.wrong.clear()  # what the browser says of a 409
    other.get_by_role("link", name="Back to the console").click()
    other.wait_for_url("**/console/org?id=initech")


def test_whoever_stands_on_a_link_stays_there_and_the_figures_go_on(live: Site, visit: Callable[..., Visitor]) -> None:
    visitor = visit(live)
    page = visitor.page
    page.clock.install()
    visitor.go("/console/")
    halted = page.locator(".tile", has_text="organisations that may start nothing").locator(".figure")
    before = int(halted.inner_text())
    page.get_by_role("link", name="In doubt", exact=True).focus()
    live.fleet.write("UPDATE orgs SET is_halted = TRUE, halted_at = 1, halt_reason = 'spent' WHERE org_id = 'acme'")
    try:
        with come_anew(page):
            assert int(halted.inner_text()) == before + 1
            assert page.evaluate(FOCUSED) == "In doubt"
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/pushes?state=in_doubt")
    finally:
        live.fleet.write(
            "UPDATE orgs SET is_halted = FALSE, halted_at = NULL, halt_reason = NULL WHERE org_id = 'acme'"
        )
