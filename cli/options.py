"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Actor = Annotated[str | None, typer.Option(help="Who does this", show_default="the system's user")]
Reason = Annotated[str, typer.Option(help="Why; kept for good")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and change nothing")]
From = Annotated[str | None, typer.Option("--from", help="From this window boundary on", show_default="the next one")]
Most = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rows at most")]
MAX_CONCURRENT = 2**31 - 1
Org = Annotated[str, typer.Argument(metavar="ORG", help="The organisation's id")]
Orgs = Annotated[list[str], typer.Argument(metavar="ORG...", help="Organisations")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]")
]
