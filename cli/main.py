"""Run the command line: `drawdown NOUN VERB`.

Guarantee: a command ends with one of the statuses of `Exit`. An error is one line on stderr. With --json, stdout has
one object. `--help` and `--version` import little more than Typer.
"""

from __future__ import annotations

import gc
import re
import sys
from functools import cache
from typing import Annotated, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.streams import Fault, Stderr, fail, keep_stdout, open_missing, say_what_was_lost
from drawdown.cli.tree import NothingAsked, Root, Stopped
from drawdown.schema.errors import MEANINGS, Exit

EPILOG = (
    "\b\nExamples:\n" + "\n".join(f"  drawdown {line}" for line in EXAMPLES[""]) + "\n\n"
    "--database-url, --at, --json work on every command, in any place; DRAWDOWN_DATABASE_URL sets the database, too. "
    "(`demo` creates its own file.) "
    "A time is 2026-01-31, 2026-01-31T12:05+01:00, milliseconds since 1970, now, today, yesterday, tomorrow, "
    "2h or 3d (ago), +2h (from now). "
    f"Exit status: {'; '.join(f'{status} {meaning}' for status, meaning in MEANINGS.items())}."
)
BAD_USAGE = "bad_usage"
VALUED, BARE = ("--database-url", "--at"), ("--json",)
SEARCH_AFTER: Final = 10_000
"""Newly allocated objects, minus freed objects, after which a garbage collection starts."""

app = typer.Typer(
    name="drawdown",
    cls=Root,
    help="Bill each unit of usage exactly once.\n\nStart with `drawdown demo`, or with `drawdown init`.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        from importlib import metadata

        print(f"drawdown {metadata.version('drawdown')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Database URL: sqlite:///FILE or postgresql://USER@HOST/NAME",
            show_default="drawdown.db in the working directory",
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Time to use as the current time, for historical data")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Output as one JSON object")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Version of the program", is_eager=True, callback=version)
    ] = False,
) -> None:
    """Read the options that all commands share."""
    from drawdown.cli.startup import open_state  # this imports half of the program, which help does not need

    context.obj = open_state(database_url, at, as_json=json_)
    if not gc.isenabled():
        search_seldom()
    context.call_on_close(context.obj.close)  # Typer keeps a command's last context until the process ends


def search_seldom() -> None:
    """Run garbage collection rarely, and never on imported objects.

    With Python's default of 700 objects, garbage collection takes a fifth of the time of a push, because a claim
    allocates thousands of objects that are not garbage.
    """
    gc.freeze()
    gc.set_threshold(SEARCH_AFTER)
    gc.enable()


@cache
def program() -> TyperCommand | TyperGroup:
    """Return the program that Typer builds from `app`; build it once in a process."""
    made = get_command(app)
    assert isinstance(made, TyperCommand | TyperGroup), made
    return made


def global_options_first(arguments: list[str]) -> list[str]:
    """Move the options that all commands share to the front of the arguments.

    So a person may type them at any place.
    """
    front: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        name = argument.split("=", 1)[0]
        if argument == "--":
            rest += [argument, *left]
        elif argument in BARE or (name in VALUED and "=" in argument):
            front.append(argument)
        elif argument in VALUED:
            front += [argument, *(value for value in [next(left, None)] if value is not None)]
        else:
            rest.append(argument)
    return front + rest


def main(arguments: list[str] | None = None) -> None:
    """Run the command, and end the process with its exit status."""
    alone = arguments is None  # the command is the process's own program
    if alone:
        gc.disable()  # until the command runs, because a collection during the imports takes a sixth of the start
    closed = sys.stdout is None
    open_missing()
    if alone:
        keep_stdout(closed=closed)
    given = global_options_first(sys.argv[1:] if arguments is None else arguments)
    for argument in given:
        if any("\ud800" <= char <= "\udfff" for char in argument):
            fault = Fault(f"the argument {argument!r} is not UTF-8. Pass UTF-8 text", Exit.USAGE, BAD_USAGE)
            sys.exit(fail(fault, as_json="--json" in given))
    status = run(given)
    say_what_was_lost()
    if alone and "duckdb" not in sys.modules:  # DuckDB reports objects that are left at the end
        gc.freeze()  # the end of the process frees all memory
    sys.exit(status)


def _explain_usage_error(error: typer.TyperException) -> str:
    """Return the message about invalid arguments.

    A negative number looks like an option, so the message shows how to pass it.
    """
    number = re.fullmatch(r"No such option: (-[0-9][0-9.]*)", error.format_message())
    if number is None:
        return f"{error.format_message()} (`--help` shows how)"
    shown = f"`drawdown ... --reason TEXT -- NAME {number[1]}`"
    return f"'{number[1]}' reads as an option. Put `--` before the arguments: {shown}"


def run(arguments: list[str]) -> int:
    """Run one command, and return its exit status."""
    as_json = "--json" in arguments
    try:
        result = program()(arguments, prog_name="drawdown", standalone_mode=False)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except NothingAsked as help_:
        Stderr().write(f"{help_}\n")
        return fail(
            Fault("missing command. Name one of the commands, or pass --help", Exit.USAGE, BAD_USAGE), as_json=as_json
        )
    except typer.Abort:
        return fail(Fault("stopped", Exit.PERSON, "stopped"), as_json=as_json)
    except typer.TyperException as error:
        fault = Fault(_explain_usage_error(error), Exit.USAGE, BAD_USAGE)
        return fail(fault, as_json=as_json)
    except (Stopped, KeyboardInterrupt):
        fault = Fault("stopped: uncommitted changes are rolled back", Exit.LEFT, "stopped")
        return fail(fault, as_json=as_json)
    except Exception as error:
        from drawdown.cli.startup import meaning_of

        return fail(meaning_of(error), as_json=as_json)
    return result if isinstance(result, int) else Exit.SETTLED
