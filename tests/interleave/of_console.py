"""People of the console: added, ended, given another link, while they sign in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS
from drawdown.server.console import action_forms, files
from drawdown.server.console.action import Doing
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money.wallet_acts import GRANT
from drawdown.worker.access import idempotency as console_acts
from drawdown.worker.access import my_sessions
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import Person
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.overrides import Terms
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, Stage

ANN: Final = Person("ann", "admin")
ANNS: Final = my_sessions.visitor("acme", "ann")
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
        my_sessions.enter(connection, "before", ANNS, _secret(9), HOME, NOW)

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


def _once(stage: Stage) -> Iterator[str]:
    """A link lets in once, and whoever has left stays out."""
    for link, times in stage.rows("SELECT link_sha256, COUNT(*) FROM my_sessions GROUP BY link_sha256"):
        if times > 1:
            yield f"{times} came in by the link {link}"


def _party(name: str, work: Callable[[Stage, sa.Connection], object]) -> Party:
    return plain(name, work, _nobody_stays)


def _signing_in(stage: Stage) -> Act:
    """The password was looked at before the other one began."""
    return Act(lambda engine: write(engine, lambda c: console_sessions.begin(c, "ann", STORED, _secret(8), HOME, NOW)))


def _linked(connection: sa.Connection, number: int) -> None:
    person = console_users.set_password(connection, _secret(number), "11:ff", NOW)
    if person is not None:
        console_sessions.begin(connection, person.name, "11:ff", _secret(9), HOME, NOW)


def _form(
    stage: Stage, connection: sa.Connection, number: int = 6, reason: str = "asked"
) -> tuple[Doing, dict[str, str]]:
    """One form, as it is sent twice: the organisation that all cases have is given credit."""
    values = {"id": "acme", "amount": "1", "kind": "purchased", "reason": reason}
    doing = Doing(ANN, replace(stage.by, now_ms=NOW), values, console_acts.new_key(NOW, _secret(number)))
    return doing, {"key": doing.key, "seen": action_forms.rehearse(connection, GRANT, doing).preview_hash}


def _acting(stage: Stage, number: int = 6, reason: str = "asked") -> Act:
    def looked(connection: sa.Connection) -> tuple[Doing, dict[str, str]]:
        return _form(stage, connection, number, reason)

    doing, form = write(stage.engine, looked, rollback=True)

    def done(connection: sa.Connection) -> None:
        with suppress(Refused):  # somebody changed meanwhile what was seen
            action_forms.carry_out(connection, GRANT, doing, form)

    return Act(lambda engine: write(engine, done))


def _given_once(stage: Stage) -> Iterator[str]:
    yield from _nobody_stays(stage)
    forms = f"lot LIKE '%{_secret(6)}' OR lot LIKE '%{_secret(4)}'"
    for (times,) in stage.rows(f"SELECT COUNT(*) FROM ledger_lots WHERE {forms}"):
        if times > 1:
            yield f"one picture gave credit {times} times"


CONSOLE: Final = (
    Party("server.console.action_forms:_perform", _acting, _given_once),
    Party("server.console.action_forms:_perform by another", lambda stage: _acting(stage, 4, "theirs"), _given_once),
    Party(
        "server.console.action_forms:_looked",
        lambda stage: Act(lambda engine: write(engine, lambda c: _form(stage, c), rollback=True)),
        _nobody_stays,
    ),
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
    _party(
        "server.console.oidc:_let_in",
        lambda s, c: console_sessions.begin_proven(c, "ann", _secret(6), HOME, NOW, "https://login.example.com"),
    ),
    plain("server.console.my:_begin", lambda s, c: my_sessions.enter(c, "link", ANNS, _secret(8), HOME, NOW), _once),
    plain("server.console.my:_leave", lambda s, c: my_sessions.end(c, _secret(9), NOW), _once),
    plain(
        "server.console.my:_override",
        lambda s, c: guard_overrides.add(c, Terms("spark", "org", "bee", "hour", 9, NOW + DAY_MS), s.by, asked=True),
    ),
    _party("server.console.console:_keep_use", lambda s, c: console_sessions.note_use(c, _secret(7), NOW)),
    Party(
        "server.console.files:keep",
        lambda stage: Act(lambda engine: files.keep(engine, files.FileRequest("/console/orgs.csv", Ask(ANN, NOW)), 3)),
    ),
)
