"""People of the console: added, ended, given another link, while they sign in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.server.console import files
from drawdown.server.console.asking import Ask
from drawdown.worker.commands import console_sessions, console_users
from drawdown.worker.commands.console_users import Person
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, Stage

ANN: Final = Person("ann", "admin")
STORED: Final = "00:ff"
"""What `hash_password` might have made; nobody looks at it here."""
HOME: Final = "192.0.2.7"


def _secret(number: int) -> str:
    return f"{number:043}"


def begin(stage: Stage) -> None:
    """What every case finds: ann is signed in, bob has a link."""

    def work(connection: sa.Connection) -> None:
        for number, name in ((1, "ann"), (2, "bob")):
            console_users.add(connection, name, "admin", _secret(number), stage.by)
        console_users.set_password(connection, _secret(1), STORED, NOW)
        console_sessions.begin(connection, "ann", STORED, _secret(7), HOME, NOW - console_sessions.SEEN_EVERY_MS)
        console_users.mark_demo(connection, NOW)

    write(stage.engine, work)


def _nobody_stays(stage: Stage) -> Iterator[str]:
    """Who was ended, or has no password, is signed in nowhere; but by a demo's link, which sets none."""
    for name, ended in stage.rows(
        "SELECT u.name, u.ended_ms FROM console_sessions s JOIN console_users u ON u.name = s.name "
        "WHERE u.ended_ms IS NOT NULL OR (u.password IS NULL AND u.name = 'ann')"
    ):
        yield f"{name} is signed in, {'and was ended' if ended is not None else 'without a password'}"
    for name, times in stage.rows("SELECT name, COUNT(*) FROM console_sessions GROUP BY name"):
        if times > console_sessions.MOST_SESSIONS:
            yield f"{name} is signed in {times} times"


def _party(name: str, work: Callable[[Stage, sa.Connection], object]) -> Party:
    return plain(name, work, _nobody_stays)


def _signing_in(stage: Stage) -> Act:
    """The password was looked at before the other one began."""
    return Act(lambda engine: write(engine, lambda c: console_sessions.begin(c, "ann", STORED, _secret(8), HOME, NOW)))


def _linked(connection: sa.Connection, number: int) -> None:
    person = console_users.set_password(connection, _secret(number), "11:ff", NOW)
    if person is not None:
        console_sessions.begin(connection, person.name, "11:ff", _secret(9), HOME, NOW)


CONSOLE: Final = (
    _party("cli.nouns.console:add", lambda s, c: console_users.add(c, "cat", "viewer", _secret(3), s.by)),
    _party("cli.nouns.console:role", lambda s, c: console_users.set_role(c, "ann", "viewer", s.by)),
    _party("cli.nouns.console:reset", lambda s, c: console_users.reset(c, "ann", _secret(4), s.by)),
    _party("cli.nouns.console:end", lambda s, c: console_users.end(c, "ann", s.by)),
    _party("server.console.sign_in:_signed_in", lambda s, c: console_sessions.count_try(c, "ann", HOME, NOW)),
    Party("server.console.sign_in:_begin", _signing_in, _nobody_stays),
    _party("server.console.sign_in:_signed_out", lambda s, c: console_sessions.end(c, _secret(7), NOW)),
    _party("server.console.sign_in:_linked", lambda s, c: _linked(c, 2)),
    _party(
        "server.console.sign_in:_entered", lambda s, c: console_sessions.enter(c, _secret(2), _secret(5), HOME, NOW)
    ),
    _party("server.console.console:_keep_use", lambda s, c: console_sessions.note_use(c, _secret(7), NOW)),
    Party(
        "server.console.files:keep",
        lambda stage: Act(lambda engine: files.keep(engine, files.Taken("/console/orgs.csv", Ask(ANN, NOW)), 3)),
    ),
)
