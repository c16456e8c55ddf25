"""A command in this process: it takes a tenth of the CPU of a forked one.

Guarantee: arguments, environment, folder, stdin, stdout, stderr and exit status are those of a process of its own. The
handlers of signals and the settings of the log are what they were before.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import sqlalchemy as sa
import structlog

from drawdown.cli import app
from drawdown.cli.main import main
from tests import compiled, fork_server
from tests.quick_sqlite import quicken

HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bytes | None = None, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run `drawdown ARGUMENTS` to its end. A thread, or another time zone, gets a process of its own (`forked.run`)."""
    if threading.current_thread() is not threading.main_thread() or fork_server.differs(
        env, (*fork_server.ONLY_FRESH, "TZ")
    ):
        return fork_server.run(arguments, env=env, cwd=cwd, stdin=stdin, timeout_s=timeout_s)
    out, err, given = io.BytesIO(), io.BytesIO(), io.BytesIO(stdin or b"")
    with ExitStack() as stack:
        for entered in (
            patch.dict(os.environ, env, clear=True),
            chdir(cwd),
            patch.object(sys, "stdin", io.TextIOWrapper(given, encoding="utf-8")),
            patch.object(sys, "argv", [fork_server.PROGRAM, *arguments]),
            patch.object(app, "connect", partial(_quick, vars(app)["connect"])),
            _as_before(),
        ):
            stack.enter_context(entered)
        stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        stderr = io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace", write_through=True)
        stack.enter_context(redirect_stdout(stdout))
        stack.enter_context(redirect_stderr(stderr))
        try:
            main(list(arguments))
        except SystemExit as ended:
            status = int(ended.code or 0)
        else:
            raise AssertionError("a command ends by an exit status")
        return subprocess.CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())


def _quick(connect: Callable[..., sa.Engine], *given: Any) -> sa.Engine:
    """An engine that compiles nothing again, and on SQLite takes the short cut."""
    made = compiled.share(connect(*given))
    return quicken(made) if made.dialect.name == "sqlite" else made


@contextmanager
def _as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    log = structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**log)
        for number, handler in handlers.items():
            signal.signal(number, handler)
