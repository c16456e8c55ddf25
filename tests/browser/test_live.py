"""Parts that come anew by themselves: whoever reads them, or stands on them, is not moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from drawdown.schema.database import write
from drawdown.worker.access import sessions as console_sessions
from tests.browser.conftest import Visitor
from tests.browser.sites import NOW, Site

pytestmark = pytest.mark.xdist_group("browser")
Visit = Callable[..., Visitor]
FOCUSED = (
    "document.activeElement.closest('.tile')?.querySelector('.name').textContent ?? document.activeElement.tagName"
)


def come_anew(page: Page) -> None:
    """The live part is read again, and is in its place."""
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        page.clock.run_for(10_500)
    page.clock.run_for(100)
    # Not `wait_for_function`: its second look is an `eval` in the page, which the page's own policy forbids.
    expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling")).to_have_count(0)


def test_browser_live_refresh_preserves_state_and_reports_failures(live: Site, visit: Visit) -> None:
    """On one page: the first load, figures that come, a database that cannot be read, a session that ended."""
    visitor = visit(live, "operator")
    page, sizes = visitor.page, list[int]()
    page.clock.install()
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    visitor.go("/console/org?id=acme")
    page.wait_for_load_state("networkidle")
    assert len(sizes) <= 6 and sum(sizes) <= 120_000, sizes
    before = page.locator(".tile .figure").all_inner_texts()
    opened = page.locator("#live details")
    opened.locator("summary").click()
    assert opened.locator("dd").first.is_visible()
    come_anew(page)
    assert opened.locator("dd").first.is_visible()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"

    with live.fail():
        page.clock.run_for(10_500)
        page.locator(".stale .stale-word").wait_for()
    assert page.locator(".tile .figure").all_inner_texts() == before
    assert "Live" not in page.inner_text("main") and "last figures that it read" in page.inner_text(".asof")
    page.clock.run_for(10_500)
    page.locator("#live:not(.stale)").wait_for()
    assert "Live" in page.inner_text(".asof")

    write(live.engine, lambda c: console_sessions.end(c, visitor.session, NOW))
    page.clock.run_for(10_500)
    page.locator(".stale .stale-word").wait_for()
    assert page.locator(".tile .figure").all_inner_texts() == before
    visitor.wrong.clear()  # what the browser, and htmx, say of a 503 and a 401
    page.reload()
    assert "/console/sign-in?next=" in page.url


def test_browser_live_refresh_preserves_focus_and_pauses_when_hidden(live: Site, visit: Visit) -> None:
    visitor = visit(live)
    page, asked = visitor.page, list[str]()
    page.clock.install()
    visitor.go("/console/")
    halted = page.locator(".tile", has_text="organisations, sandboxes not allowed").locator(".figure")
    before = int(halted.inner_text())
    page.get_by_role("link", name="In doubt", exact=True).focus()
    live.fleet.write("UPDATE orgs SET is_halted = TRUE, halted_at = 1, halt_reason = 'spent' WHERE org_id = 'acme'")
    try:
        come_anew(page)
        assert int(halted.inner_text()) == before + 1
        assert page.evaluate(FOCUSED) == "In doubt"
    finally:
        live.fleet.write(
            "UPDATE orgs SET is_halted = FALSE, halted_at = NULL, halt_reason = NULL WHERE org_id = 'acme'"
        )
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    page.clock.run_for(45_000)
    assert asked == [], "nobody looks"
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => false, configurable: true})")
    with page.expect_request_finished():
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert len(asked) == 1, "whoever comes back sees what is"
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/pushes?state=in_doubt")
