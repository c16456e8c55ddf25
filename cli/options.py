"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.schema.errors import UsageError

Actor = Annotated[str | None, typer.Option(help="Who does this", show_default="the system's user")]
Later = Annotated[bool, typer.Option("--later", help="Order it: the next tick does it, or begins to")]
Reason = Annotated[str, typer.Option(help="Why; kept for good")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and change nothing")]
From = Annotated[str | None, typer.Option("--from", help="From this window boundary on", show_default="the next one")]
Most = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rows at most")]
New = Annotated[bool, typer.Option("--new", help="Also one of which nothing is known here yet")]
Undo = Annotated[bool, typer.Option("--undo", help="Take it back")]
Expect = Annotated[int | None, typer.Option("--expect", help="Refuse unless it is so many: what the dry run showed")]
MAX_CONCURRENT = 2**31 - 1
AtOnce = Annotated[
    int | None, typer.Option(min=0, max=MAX_CONCURRENT, help="Sandboxes at once", show_default="as it is")
]
PageSize = Annotated[int, typer.Option("--most", min=1, max=10_000, help="How many rows at most")]
Org = Annotated[str, typer.Argument(metavar="ORG", help="The organisation's id")]
ProviderName = Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider's name")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of pushes, usage:ORG:WINDOW:FEATURE[:rN]")
]


def only_with(context: typer.Context, option: str, *others: str) -> None:
    """Refuse what was typed beside `option` and would be passed over without a word.

    `others`: the parameters of the command, by their names here, that do count beside it.
    Errors: UsageError naming what was typed.
    """
    typed = [
        param.opts[0]
        for param in context.command.params
        if option not in param.opts and param.name not in others and _is_typed(context, param.name)
    ]
    if typed:
        raise UsageError(f"{' and '.join(typed)} would change nothing beside {option}: leave out one or the other")


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = None if name is None else context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
