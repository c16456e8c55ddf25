"""The refusal of a run, with its code."""

from __future__ import annotations

from drawdown.schema.errors import Refused


class Denied(Refused):
    """A run, or a step of it, that is refused. `code` is for programs; `step` is the part of the permission order that
    said no, where one did."""

    def __init__(self, code: str, text: str, step: str | None = None) -> None:
        super().__init__(text)
        self.code, self.step = code, step
