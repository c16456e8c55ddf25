"""`make screenshots`: the pages that docs/console.md shows, light and dark, of the demo's month.

It changes the pictures in docs/screenshots alone; a browser of another version draws them a little differently, so no
test compares them.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser

from tests.browser import chromium
from tests.server.test_demo import started

PAGES: Final = {
    "organisations": "/console/orgs",
    "usage": "/console/org?id=acme&tab=usage",
    "billing": "/console/billing?id=acme",
    "pushes": "/console/pushes",
    "limits": "/console/limits",
    "overview": "/console/",
}
"""The overview last: by then the watch has gone round."""
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
WIDTH, HEIGHT = 1280, 540
MOST_BYTES: Final = 100_000
"""Of a picture: a document has twelve."""


def take(browser: Browser, link: str, folder: Path) -> bool:
    """Each page by a link that signs in, in each theme; whether each is small enough."""
    sizes = []
    root = link.partition("/console/")[0]
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.goto(link)  # it signs in once
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        for name, path in PAGES.items():
            answer = page.goto(root + path)
            assert answer is not None and answer.ok, path
            file = folder / f"{name}-{theme}.png"
            page.screenshot(path=file)
            sizes.append(file.stat().st_size)
            print(f"{file.name}: {sizes[-1]:,} bytes")
    return max(sizes) <= MOST_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    executable = chromium.path()
    if executable is None:
        print("no Chromium here (Debian: apt-get install chromium)")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, chromium.running(executable) as browser:
        process = started(Path(home), before="")
        try:
            small = take(browser, process.stdout.readline().strip(), folder)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    if not small:
        print(f"a picture has more than {MOST_BYTES:,} bytes: a smaller WIDTH or HEIGHT fixes it")
    return 0 if small else 1


if __name__ == "__main__":
    raise SystemExit(main())
