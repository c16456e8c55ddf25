"""The table of `docs/settings.md`, made from the settings themselves: `make docs` writes it, a test holds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from drawdown.cli.settings.settings import PREFIX, Settings

FILE: Final = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD: Final = "| setting | default | meaning |\n|---|---|---|\n"


def table() -> str:
    """A line for each setting, in the order of the class."""
    return HEAD + "".join(
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {' '.join((field.description or '').split())} |\n"
        for name, field in Settings.model_fields.items()
    )


def _default(value: object) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`" if text else "none"


def written(text: str) -> str:
    """The document with the table as it is now."""
    return re.sub(re.escape(HEAD) + r"(?:\|.*\n)*", lambda _: table(), text)


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text(encoding="utf-8")), encoding="utf-8")
