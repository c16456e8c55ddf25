"""The way into the demo."""

from __future__ import annotations

from drawdown.cli.demo.stage import DemoApp


def let_in(app: DemoApp, root: str) -> str:
    """A URL that shows the demo at `root`."""
    return f"{root}/docs"
