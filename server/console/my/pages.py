"""The pages of the small face, declared once, as those of the console: the router and the tests go by this list."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.my import screens
from drawdown.server.console.page import Page

PAGES: Final = (
    Page("/my/usage", "Usage", "my_usage.html", screens.usage, lines=screens.lines),
    Page("/my/blocked", "What is blocked", "my_blocked.html", screens.blocked, example="?metric=idea.create"),
)
