"""Run `drawdown demo --serve`: make a month of data, and serve a console for it.

Guarantee: the port is bound before the month is made. After SIGTERM, Ctrl-C or an error, the demo deletes its
own folder. A database that --file names stays if its month is complete. The demo marks its database, and the sign-in
link works only in a marked database.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import sqlalchemy as sa
import structlog
from pydantic import SecretStr

from drawdown.cli import scheduler
from drawdown.cli.app import App, new_link
from drawdown.cli.demo.stage import DemoApp, Stage
from drawdown.cli.demo.story import live, used
from drawdown.cli.nouns.serve import services_of
from drawdown.cli.processes import SIGNALS, Stopping
from drawdown.cli.rendering import show
from drawdown.schema.audit import By
from drawdown.schema.errors import DrawdownError, Exit, UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MICRO, SECOND_MS
from drawdown.server import jwts
from drawdown.server.app import Server
from drawdown.server.http import listen
from drawdown.worker.access import people as console_users
from drawdown.worker.engine.shard import Shard
from drawdown.worker.watch import ROUND_MS

log = structlog.get_logger()

HOST: Final = "127.0.0.1"
HOSTS_EVERY_S: Final = 60.0
TICK_EVERY_S: Final = 300
ENDS_WITHIN_S: Final = 20.0
"""Seconds to wait for a running tick when the demo ends."""


class Ended(DrawdownError):
    """Raised if the demo is stopped while it makes the month.

    The demo deletes the incomplete month.
    """

    exit_status = Exit.LEFT
    code = "stopped"


def serve(app: App, file: Path | None, port: int, *, browser: bool) -> None:
    """Make the month, print a URL that signs in, and serve until stopped.

    Errors: UsageError for a port in use; Ended.
    """
    with listen.bind(HOST, port) as listening, _folder() as folder, _as_ctrl_c() as stopping:
        root = f"http://{HOST}:{listening.getsockname()[1]}"
        where = file or folder / "demo.db"
        if sys.stderr.isatty():
            app.err.print(f"writing a month of sample data to {where}. This takes about half a minute", highlight=False)
        with _making(file), _show_progress(app) as told:

            def on_day(day: int, days: int, at_ms: int) -> None:
                _end_if(stopping)
                told(day, days, at_ms)

            stage = live(folder, where, app.clock, app.out, app.err, told=on_day)
        with suppress(KeyboardInterrupt), closing(stage), _going_on(stage):
            url = let_in(stage.app, root)
            server = Server(services_of(stage.app))
            show(app, {"url": url, "database": str(where)}, [url])
            sys.stdout.flush()
            if sys.stderr.isatty():
                kept = "is kept" if file is not None else "is then deleted. To keep it, pass --file"
                app.err.print(f"Press Ctrl-C to stop. The database {where} {kept}", highlight=False)
            if browser:
                _open(url)
            _end_if(stopping)
            listen.serve(server, listening, "", stopping.is_set)


@contextmanager
def _show_progress(app: App) -> Iterator[Callable[[int, int, int], None]]:
    """Show a person the day that the demo makes."""
    if not sys.stderr.isatty():
        yield lambda _day, _days, _at_ms: None
        return
    with app.err.status("opening the business") as status:
        yield lambda day, days, at_ms: status.update(
            f"day {day} of {days} ({show_time(at_ms)[:10]}): samples, ticks, outages"
        )


@contextmanager
def _as_ctrl_c() -> Iterator[Stopping]:
    """Make SIGTERM stop the demo as Ctrl-C does, until the server handles both.

    Python drops an exception that a signal raises in a finalizer or a callback of C code. The yielded flag stays set,
    so the demo stops at its next day.
    """
    stopping = Stopping()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.end()
        raise KeyboardInterrupt

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_if(stopping: Stopping) -> None:
    """Raise KeyboardInterrupt after a signal."""
    if stopping.is_set():
        raise KeyboardInterrupt


@contextmanager
def _making(file: Path | None) -> Iterator[None]:
    """Delete the named database if the demo does not complete its month."""
    try:
        yield
    except BaseException as error:
        for suffix in ("", "-wal", "-shm") if file is not None else ():
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        if isinstance(error, KeyboardInterrupt):
            raise Ended(
                "the demo was stopped, so it deleted its incomplete month. To begin again, repeat the command"
            ) from None
        raise


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="drawdown-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _going_on(stage: Stage) -> Iterator[None]:
    """Run the demo's hosts, ticks and watch.

    The hosts write samples, and the ticks bill them.
    """
    stopping, ended = Stopping(), threading.Event()
    options = scheduler.Options(
        Shard(), None, accept_clock=True, every_s=TICK_EVERY_S, watch_every_s=ROUND_MS // SECOND_MS
    )
    threads = [
        threading.Thread(target=_hosts, args=(stage, ended), name="demo-hosts", daemon=True),
        threading.Thread(
            target=scheduler.run, args=(stage.app.apart(), options, stopping), name="demo-run", daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.end()
        ended.set()
        for thread in threads:
            thread.join(ENDS_WITHIN_S)


def _hosts(stage: Stage, ended: threading.Event) -> None:
    """Write the use of sandboxes since the last write, every HOSTS_EVERY_S."""
    while True:
        now = stage.clock.now_ms()
        try:
            stage.host_writes(list(used(stage, stage.told_to_ms, now)))
            stage.told_to_ms = now
        except Exception:  # the next write includes this usage
            log.exception("demo_hosts_failed")
        if ended.wait(HOSTS_EVERY_S):
            return


def _open(url: str) -> None:
    """Open a URL in a browser with a window. A browser in the terminal would block it."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:
        found.open(url)


PERSON: Final = "you"
GRANT_LIMIT: Final = 100
"""Credits that the demo's person may grant in one grant."""


def let_in(app: DemoApp, root: str) -> str:
    """Return a URL that signs in to the console at `root`, as an admin.

    The console's page of an organisation links to /my, the view for the organisation's own people.
    """
    app.settings.console_url = root.removesuffix(":80")  # browsers omit the default port
    with suppress(UsageError):  # without the library for tokens, the demo has no pages of /my
        jwts.require_library()
        app.settings.my_secret = SecretStr(new_link())
    now, link = app.clock.now_ms(), new_link()
    by = By(now, "the demo", "a visitor", "cli")

    def begin(connection: sa.Connection) -> None:
        console_users.mark_demo(connection, now)
        console_users.add(connection, PERSON, "admin", link, by, grant_limit_micro=GRANT_LIMIT * MICRO)

    app.write(begin)
    return f"{root}/console/enter?token={link}"
