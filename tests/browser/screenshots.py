"""`make screenshots`: the pages that docs/console.md shows, light and dark, of the demo's month.

It changes the pictures in docs/screenshots alone; a browser of another version draws them a little differently, so no
test compares them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from tests.browser import chromium
from tests.server.test_demo import started

PAGES: Final = {
    "overview": "/console/",
    "organisations": "/console/orgs",
    "usage": "/console/org?id=acme&tab=usage",
    "billing": "/console/billing?id=acme",
    "pushes": "/console/pushes",
    "limits": "/console/limits",
}
WIDTH, HEIGHT = 1280, 800
QUALITY: Final = 70
"""Of JPEG: a page takes some 60 kB."""


def take(browser: Browser, link: str, folder: Path) -> None:
    """Each page by a link that signs in, in each theme."""
    root = link.partition("/console/")[0]
    for theme in ("light", "dark"):
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
        page = context.new_page()
        page.goto(link)
        for name, path in PAGES.items():
            page.goto(root + path)
            page.wait_for_load_state("networkidle")
            file = folder / f"{name}-{theme}.jpg"
            page.screenshot(path=file, type="jpeg", quality=QUALITY)
            print(f"{file.name}: {file.stat().st_size:,} bytes")
        context.close()


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
        process = started(Path(home))
        try:
            assert process.stdout is not None
            take(browser, process.stdout.readline().strip(), folder)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
