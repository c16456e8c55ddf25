"""Each page, in each of its states, for each role, at each width, in each theme: from the router's own list."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import pytest

from drawdown.server.console.my.my import COOKIE as MY_COOKIE
from drawdown.server.console.my.pages import PAGES as MY_PAGES
from drawdown.server.console.page import STATES
from drawdown.server.console.page import Page as ConsolePage
from drawdown.server.console.pages import PAGES
from tests.browser import chromium
from tests.browser.conftest import Visitor
from tests.browser.sites import MY, ROLES, Site
from tests.whole import WHOLE

pytestmark = pytest.mark.xdist_group("browser")

WIDTHS: Final = (320, 768, 1280, 1920)
THEMES: Final[tuple[dict[str, Any], ...]] = (
    {"color_scheme": "light", "forced_colors": "none"},
    {"color_scheme": "dark", "forced_colors": "none"},
    {"color_scheme": "light", "forced_colors": "active"},
)
Visit = Callable[..., Visitor]
PLACES: Final = [
    *((page.path + page.example, page.role, page) for page in PAGES),
    *((page.path + also, page.role, page) for page in PAGES for also in page.also),
    *((f"{page.path}{page.example}&tab={tab}", page.role, page) for page in PAGES for tab in page.tabs[1:]),
]
MY_PLACES: Final = [
    *((page.path + page.example, MY, page) for page in MY_PAGES),
    *((f"{page.path}?day=2026-01-08&days=90", MY, page) for page in MY_PAGES if page.lines),
]
SHARE: Final = tuple(place for place, _, _ in PLACES[::8])
"""Pages that the suite looks at in every state, for every role, in every theme: frame and templates are those of all.
`make browser` looks at each page so."""
CASES: Final = [
    (place, role, state)
    for place, _, page in PLACES
    for state in (STATES if WHOLE or place in SHARE else ("live",))
    for role in (ROLES if WHOLE or (state == "live" and place in SHARE) else (page.role,))
    if ROLES.index(role) >= ROLES.index(page.role)
    if state != "empty" or (not page.example and "?" not in place)
] + [
    (place, role, state) for place, role, page in MY_PLACES for state in STATES if state != "empty" or not page.example
]


def axe(visitor: Visitor) -> list[str]:
    """What axe finds wrong with the page as it is now."""
    page = visitor.page
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(chromium.AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({runOnly: %s}).then((r) => r.violations)" % chromium.RULES)  # noqa: UP031
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}" for one in found]


@pytest.mark.parametrize(("place", "role", "state"), CASES, ids=str)
def test_a_page_keeps_to_all_that_pages_keep_to(
    request: pytest.FixtureRequest, visit: Visit, place: str, role: str, state: str
) -> None:
    site: Site = request.getfixturevalue("live" if state == "error" else state)
    visitor = visit(site, role)
    with site.fail() if state == "error" else nullcontext():
        assert visitor.go(place) == (503 if state == "error" else 200)
    page = visitor.page
    assert page.locator("h1").count() == 1
    assert page.locator(".demo").count() == (state == "demo")
    assert page.locator("[data-state=error]").count() == (state == "error")
    assert ("Live" in page.inner_text("main")) <= (state != "error"), "what cannot be read is not live"
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        wide, there = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= there, f"{width}: it goes sideways"
    themes = (THEMES if WHOLE or place in SHARE else THEMES[:1]) if WHOLE or role in ("viewer", MY) else ()
    for theme in themes:
        for width in (320, 1280) if WHOLE else (1280,):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(**theme)
            assert axe(visitor) == [], theme


def test_four_hundred_percent_fit(live: Site, visit: Visit) -> None:
    """1280 px at 400 % are 320 px, at a device's ratio of 4."""
    visitor = visit(live, viewport={"width": 320, "height": 256}, device_scale_factor=4)
    visitor.sign_in(live.session(MY), MY_COOKIE)
    for place, _, _ in [*PLACES, *MY_PLACES]:
        visitor.go(place)
        assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_the_first_load_is_small(live: Site, visit: Visit) -> None:
    """At most six requests and 120 kB as they are sent."""
    visitor = visit(live)
    sizes: list[int] = []
    visitor.page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    visitor.go("/console/org?id=acme")
    visitor.page.wait_for_load_state("networkidle")
    assert len(sizes) <= 6 and sum(sizes) <= 120_000, sizes


@pytest.mark.parametrize(
    ("place", "role"), [(place, role) for place, role, _ in PLACES if WHOLE or place in SHARE], ids=str
)
def test_nobody_sees_a_page_without_signing_in(live: Site, visit: Visit, place: str, role: str) -> None:
    visitor = visit(live, None)
    visitor.go(place)
    assert "/console/sign-in?next=" in visitor.page.url and visitor.page.locator("table").count() == 0


@pytest.mark.parametrize("place", [place for place, _, _ in MY_PLACES])
def test_nobody_sees_a_page_of_an_organisation_without_its_link(live: Site, visit: Visit, place: str) -> None:
    visitor = visit(live, "admin")
    assert visitor.go(place) == 401 and visitor.page.locator("table").count() == 0


def test_each_page_stands_in_the_list_once() -> None:
    paths = [page.path for page in PAGES]
    assert len(paths) == len(set(paths))
    assert all(isinstance(page, ConsolePage) and page.role in ROLES for page in PAGES)
