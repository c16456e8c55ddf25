"""One browser for all, a console for each state, and what every page has to keep to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from drawdown.server.console.my import COOKIE as MY_COOKIE
from drawdown.server.console.session_auth import COOKIE
from tests import leftovers
from tests.browser import chromium
from tests.browser.sites import MY, Site
from tests.patience import patience
from tests.whole import WHOLE

WATCH: Final = (
    "document.addEventListener('securitypolicyviolation', (e) => console.error('CSP: ' + e.violatedDirective))"
)
SMALL: Final[Any] = {"width": 800, "height": 600}
"""Who says nothing else has a small window: each pixel is drawn by the processor."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Whoever runs the suite without a browser is told what was not looked at."""
    if chromium.path() is None:
        terminalreporter.write_line("tests/browser: NO CHROMIUM HERE, the console was not looked at", red=True)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium of this system. While it runs, this thread has a loop, and no other may run: it ends with
    these tests."""
    executable = chromium.path()
    if executable is None:
        pytest.skip("no Chromium here: the console is not looked at (Debian: apt-get install chromium)")
    with chromium.running(executable) as made:
        yield made


@pytest.fixture(scope="package", autouse=True)
def patient() -> Iterator[None]:
    """What takes too long is asked for by tests without a browser."""
    with patience():
        yield


@pytest.fixture(scope="package")
def folder() -> Path:
    return leftovers.folder("dd-console-")


def made(path: Path, migrated: Path, **how: Any) -> Iterator[Site]:
    """Ticks run a loop of their own, and the browser's is in this thread already."""
    shutil.copy(migrated, path)
    with ThreadPoolExecutor(1) as other:
        site = other.submit(Site, path, **how).result()
    yield site
    site.close()


@pytest.fixture(scope="package")
def live(folder: Path, migrated_sqlite: Path) -> Iterator[Site]:
    yield from made(folder / "live.db", migrated_sqlite)


@pytest.fixture(scope="package")
def empty(folder: Path, migrated_sqlite: Path) -> Iterator[Site]:
    yield from made(folder / "empty.db", migrated_sqlite, filled=False)


@pytest.fixture(scope="package")
def demo(folder: Path, migrated_sqlite: Path) -> Iterator[Site]:
    yield from made(folder / "demo.db", migrated_sqlite, demo=True, filled=WHOLE)


class Visitor:
    """A browser's context of its own, and all that went wrong in it."""

    def __init__(self, context: BrowserContext, site: Site, role: str | None) -> None:
        self.context, self.site = context, site
        self.wrong: list[str] = []
        if role is not None:
            self.enter(role)
        context.add_init_script(WATCH)
        self.page = self.watched(context.new_page())

    def enter(self, role: str) -> None:
        self.sign_in(self.site.session(role), MY_COOKIE if role == MY else COOKIE)

    def sign_in(self, session: str, name: str = COOKIE) -> None:
        """By a session that goes on."""
        self.session = session
        url = self.site.url.replace("http:", "https:")  # what a browser keeps is the host's; this machine gets it, too
        cookie = {"name": name, "value": session, "url": url, "secure": True, "httpOnly": True}
        self.context.add_cookies([cookie])  # type: ignore[list-item]

    def watched(self, page: Page) -> Page:
        def asked(request: Any) -> None:
            if not request.url.startswith(self.site.url):
                self.wrong.append(f"asked elsewhere: {request.url}")

        page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", asked)
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        return page

    def go(self, path: str) -> int:
        """The answer's status. What the browser itself says of a status is nothing wrong."""
        answer = self.page.goto(self.site.url + path)
        assert answer is not None
        if answer.status >= 400:
            self.wrong = [one for one in self.wrong if f"status of {answer.status}" not in one]
        return answer.status


@pytest.fixture(scope="package")
def kept(browser: Browser) -> Iterator[dict[tuple[str, str | None], Visitor]]:
    """The contexts of those who only look."""
    made: dict[tuple[str, str | None], Visitor] = {}
    yield made
    for visitor in made.values():
        visitor.context.close()


@pytest.fixture
def look(browser: Browser, kept: dict[tuple[str, str | None], Visitor]) -> Iterator[Callable[..., Visitor]]:
    """Somebody at a site, in a role, who changes nothing there: in the page that whoever looked before them had, since
    a new one costs more than what it shows. Nothing may have gone wrong in the end."""
    looking: list[Visitor] = []

    def begin(site: Site, role: str | None = "viewer") -> Visitor:
        visitor = kept.get((site.url, role))
        if visitor is None:
            visitor = kept[site.url, role] = Visitor(browser.new_context(viewport=SMALL), site, role)
        elif role is not None:  # others of that role came in since, and a person has so many sessions
            visitor.enter(role)
        visitor.wrong.clear()
        looking.append(visitor)
        return visitor

    yield begin
    assert [one for visitor in looking for one in visitor.wrong] == []


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Somebody at a site, in a role; nothing may have gone wrong in the end."""
    made: list[Visitor] = []

    def begin(site: Site, role: str | None = "viewer", **options: Any) -> Visitor:
        visitor = Visitor(browser.new_context(**{"viewport": SMALL, **options}), site, role)
        made.append(visitor)
        return visitor

    yield begin
    for visitor in made:
        visitor.context.close()
    assert [one for visitor in made for one in visitor.wrong] == []
