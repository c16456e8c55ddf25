"""Each page, in each of its states, for each role, at each width, in each theme: from the router's own list."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from drawdown.server.console.my import PAGES as MY_PAGES
from drawdown.server.console.page import STATES
from drawdown.server.console.page import Page as ConsolePage
from drawdown.server.console.pages import ACTIONS, PAGES
from tests.browser import chromium
from tests.browser.conftest import Visitor
from tests.browser.sites import MY, ROLES, Site
from tests.whole import WHOLE, share

pytestmark = pytest.mark.xdist_group("browser")

WIDTHS: Final = share((320, 768, 1280), whole=(320, 768, 1100, 1280, 1920))
"""The first is 1280 px at 400 %."""
LIGHT: Final[dict[str, Any]] = {"color_scheme": "light", "forced_colors": "none"}
DARK: Final[dict[str, Any]] = {"color_scheme": "dark", "forced_colors": "none"}
THEMES: Final = share((DARK,), whole=(DARK, {"color_scheme": "light", "forced_colors": "active"}))
"""Besides light. They change colours and nothing else: of these alone axe is asked again."""
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
WIDE: Final = """() => [document.documentElement, ...document.querySelectorAll(".scroll")]
    .filter((one) => one.scrollWidth > one.clientWidth)
    .map((one) => `${one.ariaLabel ?? "the page"}: ${one.scrollWidth} in ${one.clientWidth}`)"""
"""What is wider than there is room for: the page, or a table, whose last columns nobody sees."""
MAY: Final = {f"/console/act/{action.name}": action.role for action in ACTIONS}
NO_PATH: Final = {ord(one): "_" for one in "?&=%#:;/"}
ASKEW: Final = r"""() => [...document.querySelectorAll("main table")].flatMap((table) => {
    const right = (one) => ["right", "end"].includes(getComputedStyle(one).textAlign);
    const heads = [...table.querySelectorAll(":scope > thead th")];
    if (getComputedStyle(table).display !== "table") return [];
    return [...table.querySelectorAll(":scope > tbody > tr")]
        .filter((row) => row.children.length === heads.length)
        .flatMap((row) => [...row.children].map((cell, at) => [cell, heads[at]]))
        .filter(([cell, head]) => right(cell) !== right(head))
        .map(([cell, head]) => `${head.innerText}: ${cell.innerText}`);
})"""
"""Cells that stand elsewhere than their column's head."""
SILENT: Final = ".empty:not(:has(code)):not(:has(a))"
"""What is empty, and says neither what fills it nor where to go."""
PICTURES: Final = Path(__file__).resolve().parents[2] / "build" / "browser"
"""Where `make browser` leaves a picture of each content that it looked at."""
MATRIX: Final = [
    (place, role, state)
    for place, _, page in PLACES
    for state in STATES
    for role in ROLES
    if ROLES.index(role) >= ROLES.index(page.role)
    if state != "empty" or (not page.example and "?" not in place)
] + [
    (place, role, state) for place, role, page in MY_PLACES for state in STATES if state != "empty" or not page.example
]
"""What `make browser` looks at."""
REPRESENTATIVE: Final = (
    ("/console/orgs", "viewer", "empty"), ("/console/org?id=acme", "operator", "live"),
    ("/console/org?id=acme", "viewer", "error"), ("/my/usage", MY, "live"),
)  # fmt: skip
"""What `make test` looks at: a chart, a wide table, tiles, nothing, an error, and the small face."""
THEMED: Final = ("/console/org?id=acme", "operator", "live")
"""All pages share their colours: `make test` looks at this one in each theme."""
CASES: Final = MATRIX if WHOLE else REPRESENTATIVE


def axe(visitor: Visitor, rules: list[str] = chromium.RULES) -> list[str]:
    """What axe finds wrong with the page as it is now, by these rules."""
    page = visitor.page
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(chromium.AXE.read_text(encoding="utf-8"))
    how = {"runOnly": rules, "resultTypes": ["violations"]}
    found = page.evaluate("(how) => axe.run(how).then((r) => r.violations)", how)
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}" for one in found]


def axe_by_theme(visitor: Visitor) -> dict[str, list[str]]:
    """What axe finds in light, and in each theme."""
    found = {str(LIGHT): axe(visitor)}
    for theme in THEMES:
        visitor.page.emulate_media(**theme)
        found[str(theme)] = axe(visitor, chromium.OF_COLOURS)
    visitor.page.emulate_media(**LIGHT)
    return {theme: wrong for theme, wrong in found.items() if wrong}


def goes_sideways(visitor: Visitor) -> dict[int, list[str]]:
    """At which widths the page does, or what within it."""
    found = {}
    for width in WIDTHS:
        visitor.page.set_viewport_size({"width": width, "height": 800})
        if wide := visitor.page.evaluate(WIDE):
            found[width] = wide
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    """What was looked at: contents of pages, and frames."""
    return set()


def is_new(visitor: Visitor, known: set[str], frame: str) -> bool:
    """Whether this content, or this frame around it, was not looked at yet. Roles and states share most contents, to
    the byte: it is looked at once, in whose frame it comes first."""
    shown = {visitor.page.locator("main").evaluate("(one) => one.outerHTML"), frame}
    found = not shown <= known
    known |= shown
    return found


def test_browser_representative_cases_are_in_matrix() -> None:
    assert set(REPRESENTATIVE) < set(MATRIX)


@pytest.mark.parametrize(("place", "role", "state"), CASES, ids=str)
def test_browser_page_layout_roles_and_accessibility_are_valid(
    request: pytest.FixtureRequest, look: Visit, known: set[str], place: str, role: str, state: str
) -> None:
    site: Site = request.getfixturevalue("live" if state == "error" else state)
    visitor = look(site, role)
    with site.fail() if state == "error" else nullcontext():
        assert visitor.go(place) == (503 if state == "error" else 200)
    page = visitor.page
    assert page.locator("h1").count() == 1
    assert page.locator(".demo").count() == (state == "demo")
    assert page.locator("[data-state=error]").count() == (state == "error")
    assert ("Live" in page.inner_text("main")) <= (state != "error"), "what cannot be read is not live"
    offered = {urlsplit(str(link.get_attribute("href"))).path for link in page.locator("main a[href*='/act/']").all()}
    beyond = [path for path in offered if path not in MAY or ROLES.index(role) < ROLES.index(MAY[path])]
    assert beyond == [], "nobody is offered what he may not do"
    if state == "empty" and role != MY:  # an organisation's own people have no commands
        assert page.locator(SILENT).all_inner_texts() == []
        assert page.locator("main .empty, main tbody tr").count() > 0
    if not is_new(visitor, known, f"{role}, {state}"):
        return
    if WHOLE:
        name = f"{place.strip('/').replace('/', '-')}-{role}-{state}".translate(NO_PATH)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.evaluate(ASKEW) == []
    assert goes_sideways(visitor) == {}
    for width in (320, 1280) if WHOLE else (1280,):
        page.set_viewport_size({"width": width, "height": 800})
        assert (axe_by_theme if WHOLE or (place, role, state) == THEMED else axe)(visitor) in ({}, []), width


def test_browser_page_list_is_unique() -> None:
    paths = [page.path for page in PAGES]
    assert len(paths) == len(set(paths))
    assert all(isinstance(page, ConsolePage) and page.role in ROLES for page in PAGES)
