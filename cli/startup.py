"""Prepare a command: its settings, logs and clock, and the fault for an error.

`main` imports this module only if a command runs, because the module imports half of the program.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog
from sqlalchemy.exc import DBAPIError

from drawdown.cli import settings
from drawdown.cli.app import App
from drawdown.cli.streams import Fault, Stderr
from drawdown.schema.clock import Clock, FixedClock, SystemClock
from drawdown.schema.database import explain
from drawdown.schema.errors import DatabaseNotReady, DrawdownError, Exit, UsageError
from drawdown.schema.text import clean, in_short
from drawdown.schema.typed.parsing import parse_time
from drawdown.schema.units import FUTURE_SLACK_MS

log = structlog.get_logger()


def open_state(database_url: str | None, at: str | None, *, as_json: bool) -> App:
    """Return an invocation from the environment and the options that commands share.

    `at`: the typed time of --at. The function also sets up the logs. Errors: UsageError.
    """
    found = settings.load(database_url)
    clock: Clock = SystemClock()
    if at is not None:
        moment = parse_time(at, "--at", clock.now_ms())
        if moment > clock.now_ms() + FUTURE_SLACK_MS:  # no command can undo a seal of future windows
            raise UsageError(f"--at {at} is in the future: expected a time in the past")
        clock = FixedClock(moment)
    set_up_logs(found.log_level)
    return App(found, clock, as_json)


def set_up_logs(level: str, *, at_least: int = logging.DEBUG) -> None:
    """Set up structured logs on stderr, from the higher of two levels on.

    The levels are `level` and `at_least`. The format is JSON. On a terminal, the format is text, and the lowest level
    is WARNING. The level DEBUG has no such limit, because the messages of unexpected errors name it. Errors: UsageError
    for an invalid level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(
            f"DRAWDOWN_LOG_LEVEL: invalid level {level!r}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    if sys.stderr.isatty():
        at_least = max(at_least, logging.WARNING)  # a person at a terminal reads the command's own output
    if number <= logging.DEBUG:
        at_least = number
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _cleaned,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(max(number, at_least)),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Stderr())),
        cache_logger_on_first_use=False,
    )
    _join_libraries(shared, renderer, max(number, at_least, logging.WARNING))


class _Libraries(logging.StreamHandler[TextIO]):
    """A handler that writes the logs of libraries in the format of all other lines."""


def _join_libraries(shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor, level: int) -> None:
    """Log the warnings and errors of libraries as events.

    `event`: the first line. `logger`: the library's name.
    """
    handler = _Libraries(cast(TextIO, Stderr()))
    handler.setLevel(level)
    chain = [_first_line, structlog.stdlib.add_logger_name, *shared]
    last = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=chain))
    root = logging.getLogger()
    root.handlers = [*(one for one in root.handlers if not isinstance(one, _Libraries)), handler]


def _first_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return an event with only its first line.

    The rest may contain an SQL statement, or data of other customers.
    """
    return {**event, "event": str(event["event"]).partition("\n")[0]}


def _cleaned(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return an event with its control characters escaped for a terminal."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in event.items()}


def meaning_of(error: Exception) -> Fault:
    """Return the message, exit status and code for the error that ended a command."""
    if isinstance(error, DBAPIError) and (meaning := explain(error)) is not None:
        error = meaning
    if isinstance(error, DrawdownError):
        where = error.where if isinstance(error, DatabaseNotReady) else None
        return Fault(f"{where}: {error}" if where else str(error), error.exit_status, error.code, error.step)
    if isinstance(error, DBAPIError):
        return Fault(in_short(error), Exit.PERSON, "database")
    if structlog.is_configured():  # the caller gets one line; at DEBUG, the log has the traceback
        log.debug("unexpected_error", exc_info=error)
    return Fault(f"{in_short(error)}. To see where, set DRAWDOWN_LOG_LEVEL=DEBUG", Exit.PERSON, "failed")
