"""The logs of libraries, which know the standard library's alone, as events like all others."""

from __future__ import annotations

import logging

import structlog

log = structlog.get_logger()


class _Forwarding(logging.Handler):
    """`event`: under which name a library's lines stand."""

    def __init__(self, event: str, level: int) -> None:
        super().__init__(level)
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, self._event, said=record.getMessage().partition("\n")[0], logger=record.name)


def forward(event: str, *names: str, level: int = logging.WARNING) -> None:
    """Have these loggers' lines of a `level` and above be events, and be told nowhere else."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Forwarding(event, level)], False
