"""People at the console: by keyboard, from another zone, from other sites, by a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import oidc_provider_mock
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from drawdown.providers.http.client import HttpClient
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import write
from drawdown.server.settings import OidcSettings
from drawdown.worker.access import people as console_users
from tests.browser.conftest import Visitor, made
from tests.browser.sites import HOSTILE, MY, NOW, Site, secret
from tests.whole import share

pytestmark = pytest.mark.xdist_group("browser")

Visit = Callable[..., Visitor]
PASSWORD = "correct horse battery"
PLACES = ("/console/org?id=acme&tab=ledger", "/console/", "/console/ticks", "/console/audit")
"""With times of all kinds."""


def test_browser_password_link_and_sign_in_work_by_keyboard(live: Site, visit: Visit) -> None:
    visitor = visit(live, None)
    page = visitor.page
    visitor.go(f"/console/link?token={secret(9)}")
    assert page.get_by_label("Name").input_value() == "eve"
    for key in ("Tab", "Tab", "Tab", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/")
    assert page.inner_text(".who") == "eve viewer"
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/sign-in")
    visitor.go("/console/orgs?state=halted")
    page.get_by_label("Name").focus()
    page.keyboard.type("Eve")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/orgs?state=halted")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_browser_filter_is_preserved_in_address(live: Site, look: Visit) -> None:
    visitor = look(live)
    page = visitor.page
    visitor.go("/console/orgs")
    page.get_by_label("State").select_option("halted")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**state=halted**")
    rows = page.locator("tbody tr")
    halted = rows.all_inner_texts()
    page.reload()
    assert rows.all_inner_texts() == halted
    page.go_back()
    assert rows.count() > len(halted)


def test_browser_times_are_utc_in_any_time_zone(live: Site, look: Visit, visit: Visit) -> None:
    """All times are UTC, whose days have 24 hours; on that evening a day of 25 begins in Berlin."""
    here = look(live)
    there = visit(live, timezone_id="Europe/Berlin", locale="de-DE")
    there.page.clock.install(time="2026-10-24T23:30:00+02:00")
    for place in share(PLACES[:1], whole=PLACES):
        texts = []
        for visitor in (here, there):
            visitor.go(place)
            texts.append(visitor.page.inner_text("main"))
        assert texts[0] == texts[1] and "UTC" in texts[0], place
    assert there.page.evaluate("new Date().getTimezoneOffset()") == -120


def test_browser_form_of_another_site_is_refused(live: Site, look: Visit) -> None:
    visitor = look(live)
    page = visitor.page
    page.goto("about:blank")
    page.set_content(f'<form method="post" action="{live.url}/console/sign-out"><button>Win</button></form>')
    page.get_by_role("button", name="Win").click()
    page.wait_for_url("**/console/sign-out")
    assert "not sent from the console" in page.inner_text("main")
    visitor.wrong.clear()  # what the browser says of a 403
    assert visitor.go("/console/") == 200 and page.locator(".who").count() == 1, "still signed in"


def test_browser_demo_link_signs_in_and_is_not_found_outside_demo(demo: Site, live: Site, visit: Visit) -> None:
    link = secret(77)
    for site in (demo, live):
        write(site.engine, lambda c, s=site: console_users.add(c, "guest", "admin", link, s.fleet.by))  # type: ignore[misc]
    guest: Any = visit(demo, None)
    guest.go(f"/console/enter?token={link}")
    assert guest.page.inner_text(".who") == "guest admin" and guest.page.locator(".demo").count() == 1
    assert httpx.get(f"{live.url}/console/enter?token={link}").status_code == 404, "not where anything is real"


@pytest.fixture
def office(folder: Path, migrated_sqlite: Path) -> Iterator[Site]:
    """A console whose people sign in at a real server of OpenID Connect, of a package, at another origin."""
    with oidc_provider_mock.run_server_in_thread(require_nonce=True) as server:
        place = f"http://localhost:{server.server_port}"  # it says nothing of emails that it verified
        issuer = OidcSettings(place, "drawdown", "secret", label="the office", unverified_email=True)
        yield from made(folder / "office.db", migrated_sqlite, filled=False, oidc=issuer, http=HttpClient())


def test_browser_oidc_sign_in_at_another_service_works(office: Site, visit: Visit) -> None:
    office.fleet.clock.at_ms = SystemClock().now_ms()  # that service goes by the time that it is
    write(office.engine, lambda c: console_users.add(c, "ann@example.com", "viewer", secret(55), office.fleet.by))
    visitor = visit(office, None)
    visitor.context.route(re.compile(r"^https?://(?!127\.0\.0\.1|localhost)"), lambda route: route.abort())
    page = visitor.page
    visitor.go("/console/orgs")
    page.get_by_role("link", name="Sign in with the office").click()
    page.wait_for_url(f"{office.oidc.issuer}/**")
    page.locator("input[name=sub]").fill("ann@example.com")
    page.locator("input[name=sub]").press("Enter")
    page.wait_for_url("**/console/orgs")
    assert page.inner_text(".who") == "ann@example.com viewer"
    assert not [one for one in visitor.wrong if "CSP" in one]
    visitor.wrong.clear()  # what the other service's own page asks for


@pytest.mark.parametrize("script", share([True], whole=[True, False]))
def test_browser_customer_link_and_override_request_work(live: Site, visit: Visit, script: bool) -> None:
    """With and without JavaScript; the link leaves the address at once."""
    visitor = visit(live, None, java_script_enabled=script)
    page = visitor.page
    claims = {"aud": live.url, "org": "acme", "exp": NOW // 1000 + 60, "jti": f"link-{script}"}
    token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("0" * 32))
    assert visitor.go(f"/my/enter?token={token}") == 200 and page.url == f"{live.url}/my/usage"
    assert page.locator("nav.menu").count() == 0 and page.locator(".top").inner_text().split() == ["acme", "Leave"]
    page.locator("#ledger tbody a").first.click()
    assert page.locator("tr.inner tbody tr").count() > 1
    page.get_by_role("link", name="idea.create").click()
    page.get_by_label("Total amount").fill("7" if script else "8")
    page.get_by_label("Reason").fill(HOSTILE)
    page.get_by_role("button", name="Send request").click()
    assert page.locator("#asked tbody tr").filter(has_text="requested").count() >= 1
    page.get_by_role("button", name="Leave").click()
    assert page.inner_text("h1") == "You have left"


def test_browser_customer_pages_work_by_keyboard(live: Site, look: Visit) -> None:
    visitor = look(live, MY)
    page = visitor.page
    visitor.go("/my/usage")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "idea.create":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/my/blocked?metric=idea.create&of=acme")
    assert "You reached the limit" in page.inner_text("main")
