"""The table of `docs/reference/settings.md`, made from the settings themselves."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Final

from pydantic import SecretStr

from drawdown.cli.settings import PREFIX, Settings

HEAD: Final = "| setting | default | meaning |\n|---|---|---|\n"


def table() -> str:
    """A line for each setting, in the order of the class."""
    meanings = _meanings()
    return HEAD + "".join(
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {meanings[name]} |\n"
        for name, field in Settings.model_fields.items()
    )


def _meanings() -> dict[str, str]:
    """What stands below each setting in the class: read here, since every command would pay for it there."""
    (body,) = (one.body for one in ast.parse(inspect.getsource(Settings)).body if isinstance(one, ast.ClassDef))
    return {
        setting.target.id: " ".join(below.value.value.split())
        for setting, below in pairwise(body)
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _default(value: object) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`" if text else "none"
