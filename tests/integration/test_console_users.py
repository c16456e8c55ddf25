"""People of the console: let in by a link, signed in, out, ended; what is tried too often is not looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from sqlalchemy.exc import DBAPIError

from drawdown.cli.main import run
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import Person, is_demo, list_users
from drawdown.worker.access.sessions import Try
from tests.world import T0, Fleet

T = TypeVar("T")
PASSWORD = "correct horse battery"
HOME = "192.0.2.7"
BLOCKED = Try(None, True)


def secret(number: int) -> str:
    return f"{number:043}"


class Door:
    """One database, and its people."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.fleet = engine, Fleet(engine)

    def do(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.engine, work)

    def add(self, name: str = "ann", role: str = "operator", number: int = 1, **more: Any) -> str:
        """A person with a password; what is stored of it."""
        self.do(lambda c: console_users.add(c, name, role, secret(number), self.fleet.by, **more))
        stored = console_users.hash_password(PASSWORD)
        assert self.do(lambda c: console_users.set_password(c, secret(number), stored, T0)) is not None
        return stored

    def begin(self, stored: str, session: int, name: str = "ann", at_ms: int = T0) -> Person | None:
        return self.do(lambda c: console_sessions.begin(c, name, stored, secret(session), HOME, at_ms))

    def find(self, session: int, at_ms: int = T0) -> Person | None:
        found = read(self.engine, lambda c: console_sessions.find(c, secret(session), at_ms))
        return found and found[0]

    def tried(self, name: str = "ann", address: str = HOME, at_ms: int = T0) -> Try:
        return self.do(lambda c: console_sessions.count_try(c, name, address, at_ms))


@pytest.fixture
def door(engine: sa.Engine) -> Door:
    return Door(engine)


def test_console_link_sets_password_once_within_a_day(door: Door) -> None:
    until = door.do(lambda c: console_users.add(c, "ann", "viewer", secret(1), door.fleet.by))
    assert until == T0 + console_users.LINK_MS
    stored = console_users.hash_password(PASSWORD)
    assert door.do(lambda c: console_users.set_password(c, secret(2), stored, T0)) is None, "another link"
    assert door.do(lambda c: console_users.set_password(c, secret(1), stored, until)) is None, "it ran out"
    assert door.do(lambda c: console_users.set_password(c, secret(1), stored, until - 1)) == Person("ann", "viewer")
    assert door.do(lambda c: console_users.set_password(c, secret(1), stored, T0)) is None, "once"
    texts = str(door.fleet.rows("SELECT * FROM console_users")) + str(door.fleet.rows("SELECT * FROM operator_actions"))
    assert secret(1) not in texts and PASSWORD not in texts


def test_console_password_is_verified_and_wrong_password_is_refused(door: Door) -> None:
    stored = console_users.hash_password(PASSWORD)
    assert console_users.is_password(PASSWORD, stored)
    for other in (PASSWORD.upper(), PASSWORD + " ", "", "x" * 10_000, "\ud800"):
        assert not console_users.is_password(other, stored)
    assert not console_users.is_password("", None)
    assert console_users.hash_password(PASSWORD) != stored, "another salt"
    for wrong in ("x" * 11, "x" * 201):
        with pytest.raises(UsageError, match="12 to 200"):
            console_users.hash_password(wrong)


def test_console_older_hash_is_verified_and_replaced_at_sign_in(door: Door) -> None:
    """As `salt:scrypt`, which was stored before: made here as it was made then."""
    salt = b"0123456789abcdef"
    made = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=2**15, r=8, p=3, maxmem=64 * 1024 * 1024).hex()
    older = f"{salt.hex()}:{made}"
    assert console_users.is_password(PASSWORD, older) and not console_users.is_password(PASSWORD + "x", older)
    anew = console_users.rehashed(PASSWORD, older)
    assert anew.startswith("$argon2id$v=19$") and console_users.is_password(PASSWORD, anew)
    assert console_users.rehashed(PASSWORD, anew) == anew, "the present cost is kept"
    cheaper = PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1).hash(PASSWORD)
    assert console_users.is_password(PASSWORD, cheaper) and console_users.rehashed(PASSWORD, cheaper) != cheaper
    door.do(lambda c: console_users.add(c, "ann", "viewer", secret(1), door.fleet.by))
    door.do(lambda c: console_users.set_password(c, secret(1), older, T0))
    begin = console_sessions.begin
    assert door.do(lambda c: begin(c, "ann", older, secret(7), HOME, T0, anew)) == Person("ann", "viewer")
    assert door.fleet.rows("SELECT password FROM console_users") == [(anew,)]
    assert door.do(lambda c: begin(c, "ann", older, secret(8), HOME, T0, anew)) is None, "it is another by now"
    assert not any(console_users.is_password(PASSWORD, wrong) for wrong in ("", "x", "00:ff", "$argon2id$v=19$"))


def test_console_session_idle_or_old_expires(door: Door) -> None:
    stored = door.add()
    assert door.begin(stored, 7) == Person("ann", "operator")
    idle, life = console_sessions.IDLE_MS, console_sessions.LIFE_MS
    assert door.find(7, T0 + idle - 1) and door.find(7, T0 + idle) is None
    for at_ms in range(T0, T0 + life, idle - 1):
        door.do(lambda c, at_ms=at_ms: console_sessions.note_use(c, secret(7), at_ms))  # type: ignore[misc]
    assert door.find(7, T0 + life - 1) and door.find(7, T0 + life) is None
    assert door.find(8) is None and read(door.engine, lambda c: console_sessions.find(c, "' OR 1=1", T0)) is None
    later = door.begin(stored, 8, at_ms=T0 + life)
    assert later and door.fleet.rows("SELECT COUNT(*) FROM console_sessions") == [(1,)], "what is over is deleted"


def test_console_session_use_is_written_once_a_minute(door: Door) -> None:
    door.begin(door.add(), 7)
    minute = console_sessions.SEEN_EVERY_MS
    for at_ms, seen in ((T0 + minute - 1, T0), (T0 + minute, T0 + minute), (T0 + 1, T0 + minute)):
        door.do(lambda c, at_ms=at_ms: console_sessions.note_use(c, secret(7), at_ms))  # type: ignore[misc]
        assert door.fleet.one("SELECT seen_ms FROM console_sessions") == seen


def test_console_sign_in_after_five_failures_is_blocked_for_15_minutes(door: Door) -> None:
    stored = door.add()
    for _ in range(console_sessions.MOST_FAILURES):
        assert door.tried() == Try(stored, False)
    assert door.tried() == BLOCKED
    assert door.tried(address="192.0.2.8") == Try(stored, False), "another address"
    assert door.tried(name="bob") == Try(None, False), "another name"
    assert door.tried(at_ms=T0 + console_sessions.WITHIN_MS - 1) == BLOCKED
    assert door.tried(at_ms=T0 + console_sessions.WITHIN_MS) == Try(stored, False)
    door.begin(stored, 7, at_ms=T0 + console_sessions.WITHIN_MS)
    assert door.fleet.rows("SELECT failures FROM console_failures WHERE name = 'ann' AND address = :a", a=HOME) == []


def test_console_failures_of_many_names_are_limited_per_address(door: Door) -> None:
    most = console_sessions.MOST_ADDRESS_FAILURES
    for number in range(most):
        assert door.tried(name=f"name-{number}") == Try(None, False)
    assert door.tried(name="one more") == BLOCKED
    assert door.fleet.one("SELECT COUNT(*) FROM console_failures") == most + 1
    door.tried(name="x" * 5_000, at_ms=T0 + console_sessions.WITHIN_MS)
    assert door.fleet.one("SELECT MAX(LENGTH(name)) FROM console_failures") == 200


def test_console_failures_of_unknown_names_do_not_lock_out_user(door: Door) -> None:
    stored = door.add()
    for number in range(console_sessions.MOST_ADDRESS_FAILURES):
        door.tried(name=f"name-{number}")
    assert door.tried(name="one more") == BLOCKED
    for number in range(20):
        assert door.tried() == Try(stored, True)
        assert door.begin(stored, 7), f"sign-in {number} of many that succeed"


def test_console_failures_of_known_name_count_for_its_address(door: Door) -> None:
    """Otherwise, the next unknown name showed whether the name before it was known."""
    door.add()
    for number in range(console_sessions.MOST_ADDRESS_FAILURES - 1):
        door.tried(name=f"name-{number}")
    door.tried()
    assert door.tried(name="one more") == BLOCKED


def test_console_failures_of_one_address_are_forgotten_together(door: Door) -> None:
    """Otherwise, a name counted beyond the limit of its address stayed blocked longer, and so was known."""
    stored = door.add()
    for number in range(console_sessions.MOST_ADDRESS_FAILURES):
        door.tried(name=f"name-{number}")
    for _ in range(console_sessions.MOST_FAILURES):
        assert door.tried(at_ms=T0 + console_sessions.WITHIN_MS - 1) == Try(stored, True)
    assert door.tried(at_ms=T0 + console_sessions.WITHIN_MS - 1) == BLOCKED
    assert door.tried(at_ms=T0 + console_sessions.WITHIN_MS) == Try(stored, False)


def test_console_invalid_name_counts_only_for_its_address(door: Door) -> None:
    for _ in range(console_sessions.MOST_ADDRESS_FAILURES):
        assert door.tried(name="") == Try(None, False)
    assert door.tried(name="") == BLOCKED


@pytest.mark.both_databases
def test_console_user_ended_or_reset_is_signed_out(door: Door) -> None:
    stored = door.add()
    by = door.fleet.by
    for number in (7, 8):
        door.begin(stored, number)
    door.do(lambda c: console_users.reset(c, "ann", secret(2), by))
    assert door.find(7) is None and door.begin(stored, 9) is None, "its password is gone"
    assert door.do(lambda c: console_users.set_password(c, secret(2), stored, T0)) == Person("ann", "operator")
    assert door.begin(stored, 9) and door.find(9)
    assert door.do(lambda c: console_users.end(c, "ann", by))
    assert not door.do(lambda c: console_users.end(c, "ann", by))
    assert door.find(9) is None and door.begin(stored, 10) is None and door.tried() == Try(None, False)
    assert read(door.engine, lambda c: console_sessions.person_named(c, "ann")) is None
    with pytest.raises(Refused, match="has ended"):
        door.do(lambda c: console_users.reset(c, "ann", secret(3), by))
    with pytest.raises(Refused, match="belongs to an active or ended person"):
        door.do(lambda c: console_users.add(c, "ann", "viewer", secret(3), by))
    for change in ("ended_ms = NULL", "password = 'x'", "role = 'admin'"):
        with pytest.raises(DBAPIError, match="an ended user"):
            door.fleet.write(f"UPDATE console_users SET {change}")


def test_console_role_change_applies_to_open_session(door: Door) -> None:
    door.begin(door.add(role="viewer"), 7)
    found = door.find(7)
    assert found and not found.may("operator")
    assert door.do(lambda c: console_users.set_role(c, "ann", "admin", door.fleet.by, grant_limit_micro=5))
    assert not door.do(lambda c: console_users.set_role(c, "ann", "admin", door.fleet.by, grant_limit_micro=5))
    assert door.find(7) == Person("ann", "admin", 5)


def test_console_session_beyond_limit_ends_oldest(door: Door) -> None:
    stored = door.add()
    for number in range(console_sessions.MOST_SESSIONS + 1):
        door.begin(stored, number, at_ms=T0 + number)
    assert door.find(0, T0 + 30) is None and door.find(1, T0 + 30)
    door.do(lambda c: console_sessions.end(c, secret(1), T0 + 30))
    door.do(lambda c: console_sessions.end(c, secret(1), T0 + 30))
    assert door.find(1, T0 + 30) is None
    actions = door.fleet.rows("SELECT actor, via, COUNT(*) FROM operator_actions WHERE action = 'console_sign_out' "
                              "GROUP BY actor, via")  # fmt: skip
    assert actions == [("console:ann", "console", 1)]


@pytest.mark.parametrize("name", ["", "Ann", "a b", "-a", "a" * 65, "\u0430nn", "ann\n", "../x"])
def test_console_user_invalid_name_is_refused(door: Door, name: str) -> None:
    with pytest.raises(UsageError, match="a-z"):
        door.do(lambda c: console_users.add(c, name, "viewer", secret(1), door.fleet.by))


def test_console_user_invalid_role_or_limit_is_refused(door: Door) -> None:
    wrong: list[tuple[str, int | None, type[Exception]]] = [
        ("viewer", 5, UsageError), ("operator", -1, UsageError), ("admn", None, UnknownId)
    ]  # fmt: skip
    for role, limit, error in wrong:
        add = partial(
            console_users.add, name="ann", role=role, link=secret(1), by=door.fleet.by, grant_limit_micro=limit
        )
        with pytest.raises(error):
            door.do(add)
    with pytest.raises(UsageError, match="43 random characters"):
        door.do(lambda c: console_users.add(c, "ann", "viewer", "short", door.fleet.by))
    assert door.fleet.one("SELECT COUNT(*) FROM console_users") == 0


def test_console_link_signs_in_only_in_demo(door: Door) -> None:
    door.do(lambda c: console_users.add(c, "demo", "admin", secret(1), door.fleet.by))
    assert door.do(lambda c: console_sessions.enter(c, secret(1), secret(7), HOME, T0)) is None
    door.do(lambda c: console_users.mark_demo(c, T0))
    door.do(lambda c: console_users.mark_demo(c, T0))
    assert read(door.engine, is_demo)
    for number in (7, 8):
        entered = door.do(lambda c, n=number: console_sessions.enter(c, secret(1), secret(n), HOME, T0))  # type: ignore[misc]
        assert entered == Person("demo", "admin") == door.find(number)
    assert door.do(lambda c: console_sessions.enter(c, secret(2), secret(9), HOME, T0)) is None


def test_console_user_commands_add_list_and_end(
    door: Door, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_CONSOLE_URL", "https://drawdown.internal/")

    def said(*words: str) -> dict[str, Any]:
        assert run(["--json", *words]) == 0
        return dict(json.loads(capsys.readouterr().out))

    url = said("console", "user", "add", "bob", "--role", "operator", "--grant-limit", "12.5")["url"]
    assert url.startswith("https://drawdown.internal/console/link?token=")
    assert said("console", "user", "role", "bob", "--role", "operator", "--grant-limit", "12.5")["changed"] is False
    again = said("console", "user", "reset", "bob")["url"]
    assert again != url
    (listed,) = said("console", "user", "list")["users"]
    assert (listed["name"], listed["state"], listed["grant_limit_micro"]) == ("bob", "invited", 12_500_000)
    assert said("console", "user", "end", "bob")["changed"] is True
    assert read(door.engine, lambda c: [(one.state, one.sessions) for one in list_users(c, T0, 9)]) == [("ended", 0)]
    assert run(["console", "user", "end", "bbo"]) == 2 and "did you mean bob?" in capsys.readouterr().err
