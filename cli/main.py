"""The command line: `drawdown NOUN VERB`.

Guarantee: exit status 0 all settled, 75 something is left for the next tick, 1 a person is needed, 2 wrong usage; an
error is one clear line on stderr; with --json, stdout holds one object.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TextIO, cast

import structlog
import typer
from sqlalchemy.exc import DBAPIError

from drawdown.cli import (
    cells,
    database,
    demo,
    features,
    imports,
    ledger,
    metering,
    orgs,
    provider_estimates,
    providers,
    pushes,
    reconcile,
    recover,
    replay,
    samples,
    serve,
    settings,
    status,
    watch,
)
from drawdown.cli.state import State
from drawdown.cli.times import parse_time
from drawdown.schema.clock import Clock, FixedClock, SystemClock
from drawdown.schema.database import explain
from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.units import FUTURE_SLACK_MS

log = structlog.get_logger()

EPILOG = (
    "--database-url, --at, --json work on every command, in any place. DRAWDOWN_DATABASE_URL sets the database, too. "
    "Exit status: 0 all settled; 75 something is left for the next tick; 1 a person is needed; 2 wrong usage."
)
VALUED, BARE = ("--database-url", "--at"), ("--json",)

app = typer.Typer(
    name="drawdown",
    help="Bill every unit used exactly once. Start with `drawdown demo`, or `drawdown init`.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    context: typer.Context,
    database_url: Annotated[
        str | None, typer.Option(help="sqlite:///FILE or postgresql://USER@HOST/NAME", show_default="drawdown.db here")
    ] = None,
    at: Annotated[str | None, typer.Option(help="The time it is taken to be, for historical data")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Options of every command."""
    found = settings.load()
    if database_url is not None:
        found.database_url = database_url
    clock: Clock = SystemClock()
    if at is not None:
        moment = parse_time(at, "--at")
        if moment > clock.now_ms() + FUTURE_SLACK_MS:  # windows sealed ahead of time could never be taken back
            raise UsageError(f"--at {at} lies in the future; it is for historical data")
        clock = FixedClock(moment)
    set_up_logs(found.log_level)
    context.obj = State(found, clock, json_)


for module in (demo, database, status, metering, watch, serve, replay, imports, reconcile, recover):
    module.register(app)
app.add_typer(orgs.app, name="org")
app.add_typer(features.app, name="feature")
app.add_typer(samples.app, name="sample")
app.add_typer(pushes.app, name="push")
provider_estimates.register(providers.app)
app.add_typer(providers.app, name="provider")
app.add_typer(ledger.app, name="ledger")
app.add_typer(cells.app, name="cell")


def set_up_logs(level: str) -> None:
    """Events with keys on stderr; JSON unless a person is looking."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"DRAWDOWN_LOG_LEVEL: {level!r} is none of DEBUG, INFO, WARNING, ERROR")
    if sys.stderr.isatty() and number <= logging.INFO:
        number = max(number, logging.WARNING)  # a person watches the progress bar instead
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Stderr())),
        cache_logger_on_first_use=False,
    )


def global_options_first(arguments: list[str]) -> list[str]:
    """Move the options of every command to the front, so that they work in any place."""
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
    """The entry point: runs the command and ends the process with its exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # whoever called us closed it, as some schedulers do
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 for as long as we live
    given = global_options_first(sys.argv[1:] if arguments is None else arguments)
    for argument in given:
        if any("\ud800" <= char <= "\udfff" for char in argument):
            sys.exit(_fail(f"the argument {argument!r} is not UTF-8", 2, as_json="--json" in given))
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit status."""
    as_json = "--json" in arguments
    try:
        result = app(arguments, standalone_mode=False)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except typer.Abort:
        return _fail("stopped", 1, as_json=as_json)
    except typer.TyperException as error:
        return _fail(f"{error.format_message()} (`--help` shows how)", 2, as_json=as_json)
    except DrawdownError as error:
        return _fail(str(error), error.exit_status, as_json=as_json)
    except DBAPIError as error:
        meaning = explain(error)
        text = str(meaning or error.orig).splitlines()[0]
        return _fail(text, meaning.exit_status if meaning else 1, as_json=as_json)
    except KeyboardInterrupt:
        return _fail("stopped; whatever was not committed did not happen", 75, as_json=as_json)
    except Exception as error:  # one line for whoever called, where it happened for whoever mends it
        if structlog.is_configured():
            log.debug("unexpected_error", exc_info=True)
        text = f"{type(error).__name__}: {error}; DRAWDOWN_LOG_LEVEL=DEBUG shows where"
        return _fail(text, 1, as_json=as_json)
    return result if isinstance(result, int) else 0


def _fail(text: str, status: int, *, as_json: bool) -> int:
    """One line, whatever ids and messages hold; a stream that cannot be written changes no exit status."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    with suppress(OSError, ValueError):
        if as_json:
            print(json.dumps({"error": text, "exit_status": status}), flush=True)
    Stderr().write(f"drawdown: {line}\n")
    return status


class Stderr:
    """stderr for logs: one that is closed, full or a broken pipe never stops what is being logged."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
