"""Define options that several commands share, and how commands read numbers.

Guarantee: a number has a sign, digits and, if it may be fractional, a point. Typer accepts `1.00` for 1 and `1_0` for
10. Drawdown rejects them, because in an amount they are most likely mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from drawdown.schema.errors import UsageError

Actor = Annotated[str | None, typer.Option(help="Actor recorded with the change", show_default="the system's user")]
Queued = Annotated[bool, typer.Option("--queue", help="Job for the next tick, in place of an immediate change")]
Reason = Annotated[str, typer.Option(help="Reason recorded with the change")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Preview of the effect, without any change")]
FileMap = Annotated[
    list[str] | None, typer.Option("--map", help="Column of the file that holds a field, as FIELD=COLUMN")
]
FileSet = Annotated[list[str] | None, typer.Option("--set", help="Value of a field in all rows, as FIELD=VALUE")]
From = Annotated[
    str | None,
    typer.Option("--from", help="Window boundary at which the assignment starts", show_default="the next window"),
]
Most = Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number of rows")]
New = Annotated[bool, typer.Option("--new", help="Create it if it does not exist")]
Undo = Annotated[bool, typer.Option("--undo", help="Reversal of an earlier call")]
PageSize = Annotated[int, typer.Option("--most", min=1, max=10_000, help="Maximum number of rows")]
Org = Annotated[str, typer.Argument(metavar="ORG", help="Organisation's id")]
ProviderName = Annotated[str, typer.Argument(metavar="PROVIDER", help="Name of the provider")]


def only_with(context: typer.Context, option: str, *others: str) -> None:
    """Refuse typed options that do not have an effect together with `option`.

    `others`: names of parameters that do have an effect. Errors: UsageError with the refused options.
    """
    typed = [
        param.opts[0]
        for param in context.command.params
        if option not in param.opts and param.name not in others and _is_typed(context, param.name)
    ]
    if typed:
        raise UsageError(f"{' and '.join(typed)} cannot be combined with {option}. Omit {option}, or the other options")


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = None if name is None else context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


MOST_TYPED: Final = 2**63 - 1
"""Largest whole number that an option accepts.

A database cannot store a larger number.
"""
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,300}")
_PARTED: Final = re.compile(r"[+-]?([0-9]{1,300}(\.[0-9]*)?|\.[0-9]+)")
Number = int | float


def plain_numbers(command: TyperCommand | TyperGroup) -> None:
    """Make a command accept only plain numbers, within their declared bounds."""
    params: Sequence[Any] = command.params  # Typer's own class, which it does not export
    for param in params:
        kind, info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
        if kind in (int, float):
            info.parser = _reader(kind, info.min, info.max)


def _reader(kind: type[Number], least: Number | None, most: Number | None) -> Callable[[str | Number], Number]:
    form, words = (_WHOLE, "whole number in digits") if kind is int else (_PARTED, "number such as 5 or 0.5")
    low, high = -MOST_TYPED if least is None else least, MOST_TYPED if most is None else most

    def read(given: str | Number) -> Number:
        if not isinstance(given, str):  # a default is already a number
            return given
        if not form.fullmatch(given):
            raise typer.BadParameter(f"{given!r} is not a {words}")
        found = kind(given)
        if found < low:
            raise typer.BadParameter(f"{given} is less than {low}")
        if found > high:
            raise typer.BadParameter(f"{given} is more than {high}")
        return found

    return read
