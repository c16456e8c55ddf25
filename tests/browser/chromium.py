"""A Chromium of this system, found by its path: nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import axe_playwright_python
from playwright.sync_api import Browser, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE: Final = Path(axe_playwright_python.__file__).with_name("axe.min.js")
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

OF_COLOURS: Final = ["color-contrast", "link-in-text-block"]
"""The rules among them that go by colours."""


def path() -> str | None:
    """Where it is; None where there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


@contextmanager
def running(executable: str) -> Iterator[Browser]:
    """One browser; its profile is a fresh one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()
